from __future__ import annotations

import subprocess
import sys

from catdog.errors import ImageError
from catdog.photos.decoding.isolation import decode_each


def texts(found: object) -> list[str]:
    return [str(one) for one in found]  # type: ignore[attr-defined]


def test_errors_stay_in_their_places() -> None:
    def decode(content: bytes) -> str:
        if content == b"bad":
            raise ImageError("not-an-image", "no")
        if content == b"large":
            raise MemoryError
        return content.decode()

    contents = [b"a", ImageError("missing", "no such file"), b"bad", b"large", b"b"]
    assert texts(decode_each(contents, decode, seconds=60, tries=0)) == [
        "a", "missing: no such file", "not-an-image: no", "too-large: the pixels do not fit into memory", "b",
    ]  # fmt: skip


def test_contents_are_read_one_at_a_time() -> None:
    read: list[int] = []

    def contents() -> object:
        for number in range(3):
            read.append(number)
            yield b"%d" % number

    found = decode_each(contents(), bytes.decode, seconds=60, tries=0)  # type: ignore[arg-type]
    assert next(found) == "0"
    assert read == [0]


def test_a_process_whose_decoder_never_ends_ends_itself() -> None:
    code = (
        "import time\n"
        "from catdog.photos.decoding.isolation import decode_each\n"
        "list(decode_each([b'a'], lambda content: time.sleep(600), seconds=0.2, tries=0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (1, "")

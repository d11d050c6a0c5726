from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from catdog.photos.sources.keys import as_key, key_of_name, last_name, local_path, quoted_uri, split_query


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (b"cat.jpg", "cat.jpg"),
        ("кошка é.jpg".encode(), "кошка é.jpg"),
        (b"caf\xe9.jpg", "caf\\x{e9}.jpg"),
        (b"a\\b.jpg", "a\\b.jpg"),
        (b"a\\xe9.jpg", "a\\xe9.jpg"),
        (b"a\\x{e9}.jpg", "a\\x{5c}x{e9}.jpg"),
        (b"\\x{5c}\xff", "\\x{5c}x{5c}\\x{ff}"),
    ],
)
def test_a_key_is_the_name_but_for_bytes_that_are_no_utf_8(name: bytes, key: str) -> None:
    assert key_of_name(os.fsdecode(name)) == key
    assert os.fsencode(local_path(key)) == name


def test_keys_of_any_names_are_text_unique_and_lead_back() -> None:
    rng = random.Random(0)
    names = {bytes(rng.choices(b"\\x{e95c}\xc3\xa9\xffa.", k=rng.randrange(1, 9))) for _ in range(5000)}
    keys = {key_of_name(os.fsdecode(name)): name for name in names}
    assert len(keys) == len(names)
    for key, name in keys.items():
        key.encode()
        assert os.fsencode(local_path(key)) == name


def test_what_a_person_names_is_a_key_already_or_becomes_one(tmp_path: Path) -> None:
    assert as_key("caf\\x{e9}.jpg") == "caf\\x{e9}.jpg"
    assert as_key("caf\udce9.jpg") == "caf\\x{e9}.jpg"
    literal = tmp_path / "caf\\x{e9}.jpg"
    literal.touch()
    assert local_path(as_key(str(literal))) == str(literal)


def test_parts_of_uris() -> None:
    assert split_query("s3://b/a.jpg?region=x") == ("s3://b/a.jpg", "?region=x")
    assert split_query("/photos/a?b.jpg") == ("/photos/a?b.jpg", "")
    assert last_name("s3://b/a%20b.jpg") == "a b.jpg"
    assert last_name("/photos/a%20b.jpg") == "a%20b.jpg"
    assert quoted_uri("s3://b/my photos?region=x") == "s3://b/my%20photos?region=x"

"""An S3-compatible object store on this machine, which can be made to fail."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from pyarrow import fs
from werkzeug.serving import make_server

BUCKET = "photos-of-pets"
# For the environment of every process of a test: credentials belong there, not in URIs.
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


class ObjectStore:
    """moto's server, with settings that make it fail or delay its answers.

    With `busy_every` N, every Nth request is answered with 503; 0 turns this off. `answer_after_seconds` is the delay
    of each answer. `requests` counts requests by method. `most_at_once` is the highest number of requests that waited
    for their answers at the same time.
    """

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.busy_every = 0
        self.answer_after_seconds = 0.0
        self.most_at_once = self._now = 0
        self.requests: Counter[str] = Counter()
        self._lock, self._count = threading.Lock(), 0
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._port = 0
        self.open()
        self._query = f"?region=us-east-1&scheme=http&endpoint_override=127.0.0.1:{self._port}"
        system, _ = fs.FileSystem.from_uri(self.uri("") + "&allow_bucket_creation=true")
        system.create_dir(BUCKET)
        self.system = system

    def uri(self, key: str) -> str:
        """Return the URI of `key` in the only bucket."""
        return f"s3://{BUCKET}/{key}{self._query}"

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below `prefix`, relative to it."""
        found = self.system.get_file_info(fs.FileSelector(f"{BUCKET}/{prefix}", recursive=True, allow_not_found=True))
        return sorted(entry.path.removeprefix(f"{BUCKET}/{prefix}/") for entry in found if entry.is_file)

    def put(self, key: str, content: bytes) -> None:
        """Store `content` as `key`."""
        with self.system.open_output_stream(f"{BUCKET}/{key}", compression=None) as stream:
            stream.write(content)

    def put_at_once(self, key: str, content: bytes) -> None:
        """Replace `key` by `content` but keep its modification time, as if within the same second."""
        objects = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[BUCKET].keys
        modified = objects[key].last_modified
        self.put(key, content)
        objects[key].last_modified = modified

    def put_folder(self, prefix: str, folder: Path, pattern: str = "*.*") -> None:
        """Store the files below `folder` whose names match `pattern`, with keys below `prefix`."""
        for path in folder.rglob(pattern):
            self.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Answer every fifth request with 503 until the block ends."""
        self.busy_every = 5
        try:
            yield
        finally:
            self.busy_every = 0

    def open(self) -> None:
        """Start to serve; after `close`, at the same address and with the same objects."""
        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving: connections are refused from now on."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            self._count += 1
            busy = self.busy_every and self._count % self.busy_every == 0
            self.requests[environ["REQUEST_METHOD"]] += 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        time.sleep(self.answer_after_seconds)
        with self._lock:
            self._now -= 1
        if busy:
            start("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        return self._moto(environ, start)

"""A hub on this machine: the requests of `huggingface_hub`'s client for one repository of model files."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "c0ffee" * 6 + "c0ff"


@dataclass
class Hub:
    """What the server offers and what it was asked for.

    Attributes:
        repo: `owner/name`.
        folder: its files; those ending in `.safetensors` are large ones, with a SHA-256.
        cut_after: bytes after which the connection of a large file is closed; None: never.
        ranges: the `Range` header of each download of a large file.
    """

    repo: str
    folder: Path
    cut_after: int | None = None
    ranges: list[str | None] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    endpoint: str = ""

    def names(self) -> list[str]:
        return sorted(str(f.relative_to(self.folder)) for f in self.folder.rglob("*") if f.is_file())

    def etag(self, name: str) -> str:
        data = (self.folder / name).read_bytes()
        if name.endswith(".safetensors"):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def entry(self, name: str) -> dict[str, Any]:
        size = (self.folder / name).stat().st_size
        large = {"sha256": self.etag(name), "oid": self.etag(name), "size": size, "pointerSize": 130}
        return {"size": size} | ({"lfs": large} if name.endswith(".safetensors") else {})

    def info(self) -> dict[str, Any]:
        files = [{"rfilename": n, "blobId": self.etag(n), **self.entry(n)} for n in self.names()]
        return {"id": self.repo, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "siblings": files}

    def tree(self) -> list[dict[str, Any]]:
        return [{"type": "file", "path": n, "oid": self.etag(n), **self.entry(n)} for n in self.names()]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run the server; `hub.endpoint` is its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.reply(body=False)

        def do_GET(self) -> None:
            self.reply(body=True)

        def reply(self, *, body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            file = re.fullmatch(rf"/{hub.repo}/resolve/[^/]+/(.*)", path)
            if path.startswith(f"/api/models/{hub.repo}/tree/"):
                self.send(json.dumps(hub.tree()).encode(), body)
            elif path.startswith(f"/api/models/{hub.repo}"):
                self.send(json.dumps(hub.info()).encode(), body)
            elif file is not None and (hub.folder / file[1]).is_file():
                self.send_file(file[1], body)
            else:
                code = "RepoNotFound" if file is None else "EntryNotFound"
                self.send(b"{}", body, 404, {"X-Error-Code": code})

        def send_file(self, name: str, body: bool) -> None:
            data = (hub.folder / name).read_bytes()
            headers = {"ETag": f'"{hub.etag(name)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            large = name.endswith(".safetensors")
            start = 0
            if body and large:
                asked = self.headers.get("Range")
                hub.ranges.append(asked)
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
                headers |= {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if asked else {}
            cut = hub.cut_after if large else None
            self.send(data[start:], body, 206 if start else 200, headers, cut)

        def send(
            self, data: bytes, body: bool, code: int = 200, headers: dict[str, str] | None = None,
            cut: int | None = None,
        ) -> None:  # fmt: skip
            self.send_response(code)
            for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data[:cut])
                if cut is not None and cut < len(data):
                    self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

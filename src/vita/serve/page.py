"""Routes / and /static: the page, read once from the package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

FOLDER = Path(__file__).parent / "web"
INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}  # fmt: skip
# The page uses nothing but this server. Media that the user attaches are data: URLs.
POLICY = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "worker-src 'self'",
    "img-src 'self' data: blob:", "media-src 'self' data: blob:", "base-uri 'none'", "form-action 'none'",
    "frame-ancestors 'none'",
))  # fmt: skip
HEADERS = {
    "content-security-policy": POLICY,
    "permissions-policy": "camera=(self), microphone=(self), geolocation=(), payment=(), usb=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # the ETag is asked for each time, so that an update shows at once
}


@dataclass(frozen=True)
class StaticFile:
    """One file of the page.

    Attributes:
        body: bytes.
        type: Content-Type.
        etag: changes with the body.
    """

    body: bytes
    type: str
    etag: str


def read_files(folder: Path = FOLDER) -> dict[str, StaticFile]:
    """All files of the page by their path below the folder, such as "talk/talk.js"."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in TYPES:
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            files[path.relative_to(folder).as_posix()] = StaticFile(body, TYPES[path.suffix], etag)
    return files


def page_router() -> APIRouter:
    """Routes of the page. A name that is not one of its files is 404; paths are never opened."""
    router, files = APIRouter(include_in_schema=False), read_files()

    def answer(request: Request, name: str) -> Response:
        file = files.get(name)
        if file is None:
            raise HTTPException(404)
        headers = {**HEADERS, "etag": file.etag}
        if file.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(file.body, media_type=file.type, headers=headers)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        """The page."""
        return answer(request, INDEX)

    @router.api_route("/static/{name:path}", methods=["GET", "HEAD"])
    async def static(request: Request, name: str) -> Response:
        """A file of the page."""
        return answer(request, name)

    return router

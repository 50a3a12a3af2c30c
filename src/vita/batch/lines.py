"""Items of a JSONL file: OpenAI's batch lines, read by the server's own code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from vita.batch.items import DIGEST_BYTES, Asked, Item
from vita.errors import RequestError, ResourceError, VitaError
from vita.serve.errors import JSON, ApiError, as_api_error, invalid, unsupported
from vita.serve.options import Limits

if TYPE_CHECKING:
    from pydantic import ValidationError

    from vita.api import Vita

URL = "/v1/chat/completions"
BLOCK = 1 << 20  # bytes
SNIFF_LINES = 20  # of which one at least must be a JSON object
LIMITS = Limits()


def check_jsonl(path: Path) -> None:
    """Refuse a file that holds no JSON lines at all.

    Raises:
        RequestError: it cannot be read, is empty, or holds something else. ResourceError: a package is missing.
    """
    if find_spec("pydantic") is None:
        raise ResourceError(
            "a JSONL batch needs the package pydantic", fix='run pip install "vita-engine[batch]"'
        )  # fmt: skip
    with path.open("rb") as file:
        first = list(islice(_lines(file), SNIFF_LINES))
    if not first:
        raise RequestError("holds no requests", where=path, fix="write one JSON object a line")
    if not any(line is not None and _is_object(line) for _, line, _ in first):
        raise RequestError("is not JSONL: none of its first lines is a JSON object", where=path,
                           fix="write one JSON object a line, or name a folder, a .tsv or a .csv file")  # fmt: skip


def line_items(path: Path, max_tokens: int) -> Iterator[Item]:
    """The items of a JSONL file; empty lines are skipped.

    Args:
        path: of the file. Paths of media start at its folder.
        max_tokens: of an answer, if its line names no limit.
    """
    with path.open("rb") as file:
        for number, line, digest in _lines(file):
            yield Item(digest, digest, partial(_read, number, line, path.parent, max_tokens))


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None, bytes]]:
    """Number, bytes and digest of each line that is not empty; the bytes are None if there are too many."""
    number = 0
    while piece := file.readline(LIMITS.body_bytes):
        number += 1
        if number == 1:
            piece = piece.removeprefix(b"\xef\xbb\xbf")
        line: bytes | None = piece
        found = hashlib.sha256(piece.strip())
        while not piece.endswith(b"\n") and (piece := file.readline(BLOCK)):
            line = None
            found.update(piece.rstrip(b"\r\n"))
        if line is None or line.strip():
            yield number, line, found.digest()[:DIGEST_BYTES]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _read(number: int, line: bytes | None, folder: Path, max_tokens: int, model: Vita) -> Asked:
    """The request of one line; what is wrong with it is its error."""
    custom_id: str | None = None
    try:
        fields = _parse(number, line)
        if not isinstance(fields.get("custom_id"), str):
            raise invalid(f"line {number}: custom_id must be a string.", "custom_id")
        custom_id = str(fields["custom_id"])
        if fields.get("method", "POST") != "POST":
            raise invalid(f"line {number}: method must be POST.", "method")
        if fields.get("url", URL) != URL:
            raise invalid(f"line {number}: url must be {URL}.", "url")
        body = fields.get("body")
        if not isinstance(body, Mapping):
            raise invalid(f"line {number}: body must be an object.", "body")
        return _read_body(custom_id, body, folder, max_tokens, model)
    except (ApiError, VitaError) as error:
        return Asked(custom_id, error=as_api_error(error))


def _parse(number: int, line: bytes | None) -> Mapping[str, JSON]:
    if line is None:
        raise invalid(f"line {number} has more than {LIMITS.body_bytes:,} bytes.", code="body_too_large")
    try:
        fields = json.loads(line, parse_constant=_refuse_constant)
    except RecursionError:
        raise invalid(f"line {number} is nested too deeply.") from None
    except UnicodeDecodeError:  # bytes that look like UTF-16 or UTF-32 are decoded as such
        raise invalid(f"line {number} is not UTF-8.") from None
    except ValueError as error:
        raise invalid(f"line {number} is not valid JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise invalid(f"line {number} is not a JSON object.")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed in JSON")


def _read_body(custom_id: str, body: Mapping[str, JSON], folder: Path, max_tokens: int, model: Vita) -> Asked:
    """A body of /v1/chat/completions, as the server reads it, but that files may be named, too.

    Raises:
        ApiError: 400 or 404, naming the field.
    """
    from pydantic import ValidationError

    from vita.serve.chat_messages import read_chat
    from vita.serve.chat_types import ChatRequest, check_supported, sampling_params
    from vita.serve.model_names import check_name
    from vita.serve.parts import Reader

    try:
        request = ChatRequest.model_validate(body)
    except ValidationError as error:
        raise _explain(error) from error
    check_name(model, request.model)
    if request.stream:
        raise unsupported("stream", "a batch has no streams")
    if request.wants_audio:
        raise unsupported("modalities", "a batch answers with text only")
    check_supported(request)
    messages = read_chat(request.messages, Reader(LIMITS, allow_urls=True, folder=folder), _no_spoken_answer)
    top = (request.top_logprobs or 0) if request.logprobs else None
    return Asked(custom_id, messages, sampling_params(request, max_tokens), top)


def _explain(error: ValidationError) -> ApiError:
    """Pydantic's first complaint, with the field as OpenAI writes it: `messages[0].content`."""
    found = error.errors()[0]
    param = ""
    for part in found["loc"]:
        param += f"[{part}]" if isinstance(part, int) else f".{part}" if param else str(part)
    code = "missing_required_parameter" if found["type"] == "missing" else None
    return invalid(f"{param or 'body'}: {found['msg']}.", param or None, code)


def _no_spoken_answer(id: str, where: str) -> str:
    raise invalid(f"{where}: a batch has no spoken answers; send the transcript as content.", where)

"""Items of a folder of media files, and of a table with a row for each."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from vita.batch.items import Asked, Item, digest_of_values
from vita.errors import RequestError, VitaError
from vita.media.source import refuse_pipe
from vita.media.suffixes import URL, kind_of
from vita.serve.errors import as_api_error, invalid
from vita.sources import FilePath, Source, Url
from vita.types import Message, SamplingParams, system, user

if TYPE_CHECKING:
    from vita.api import Vita

COLUMNS = ("path", "url", "question", "id")
Row: TypeAlias = "list[str] | csv.Error"


@dataclass(frozen=True)
class Question:
    """What is asked about each file.

    Attributes:
        text: the question; None: only audio can be asked about.
        system: replaces the built-in system text.
        params: how tokens are chosen.
    """

    text: str | None = None
    system: str | None = None
    params: SamplingParams = field(default_factory=SamplingParams)


def check_folder(folder: Path, question: Question) -> None:
    """Refuse a folder in which there is nothing to ask about.

    Raises:
        RequestError: there is no media file, or no question.
    """
    first = next(_files(folder), None)
    if first is None:
        raise RequestError("holds no images, videos or audio files", where=folder, fix="check the path")
    if not question.text and kind_of(first) != "audio":
        raise RequestError("a folder needs a question", where=folder, fix='add `question`, such as "What is this?"')


def folder_items(folder: Path, question: Question) -> Iterator[Item]:
    """The media files in a folder and its subfolders, by name. Hidden ones and links to folders are left out."""
    for name in _files(folder):
        stable = digest_of_values(name, question.text, question.system)
        digest = digest_of_values(name, *_stat(folder / name), question.text, question.system)
        yield Item(digest, stable, partial(_read_file, _printable(name), FilePath(folder / name), name, question))


def _files(folder: Path) -> Iterator[str]:
    """Names of media files, relative to the folder."""
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and kind_of(name) is not None:
                yield Path(where, name).relative_to(folder).as_posix()


def _stat(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds; -1 for a file that is not there."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _printable(name: str) -> str:
    """A file name as text; bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(name).decode(errors="replace")


def _read_file(custom_id: str, source: Source, name: str, question: Question, model: Vita) -> Asked:
    """The request about one file; `model` is not needed, because there is no model to name."""
    try:
        refuse_pipe(source)
        return Asked(custom_id, _messages(source, name, question), question.params)
    except VitaError as error:
        return Asked(custom_id, error=as_api_error(error))


def _messages(source: Source, name: str, question: Question) -> tuple[Message, ...]:
    """One question about one file. A name that does not tell its kind is taken for an image.

    Raises:
        RequestError: there is no question.
    """
    kind = kind_of(name) or "image"
    if not question.text and kind != "audio":
        raise RequestError("there is no question", where=name, fix="write one")
    if kind == "audio":
        turn = user(question.text, audio=source)
    else:
        turn = user(question.text, video=source) if kind == "video" else user(question.text, image=source)
    return (turn,) if question.system is None else (system(question.system), turn)


def check_table(path: Path, question: Question) -> None:
    """Refuse a table whose columns are not known, or that has no rows.

    Raises:
        RequestError: naming the column.
    """
    columns = _columns(path)
    if "question" not in columns and not question.text:
        raise RequestError("has no column question", where=path, fix="add it, or `question` for all rows")
    if next(_rows(path, columns), None) is None:
        raise RequestError("holds no rows below its header", where=path, fix="write one row for each request")


def _columns(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        try:
            found = [name.strip().lower() for name in next(csv.reader(file, _dialect(path)), [])]
        except csv.Error as error:
            raise RequestError(f"line 1 cannot be read ({error})", where=path, fix="write the columns there") from error
    known = f"the columns are {', '.join(COLUMNS)}"
    if not any(found):
        raise RequestError("is empty", where=path, fix=f"write a header; {known}")
    for name in found:
        if name not in COLUMNS:
            raise RequestError(f"the column {_printable(name)!r:.60} is not known", where=path, fix=known)
        if found.count(name) > 1:
            raise RequestError(f"there are two columns {name}", where=path, fix="remove one")
    if "path" not in found and "url" not in found:
        raise RequestError("has neither a column path nor a column url", where=path, fix="add one")
    return found


def _dialect(path: Path) -> type[csv.Dialect]:
    return csv.excel if path.suffix.lower() == ".csv" else csv.excel_tab


def _rows(path: Path, columns: list[str]) -> Iterator[tuple[int, Row]]:
    """Number and cells of each row below the header, or why it cannot be read; empty rows are skipped."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, _dialect(path))
        number = -1
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                number += 1
                yield number, error
                continue
            if cells is None:
                return
            if any(cell.strip() for cell in cells):
                number += 1
                if number:
                    yield number, cells


def table_items(path: Path, question: Question) -> Iterator[Item]:
    """The rows of a table. Paths start at its folder."""
    columns = _columns(path)
    for number, row in _rows(path, columns):
        if isinstance(row, csv.Error):
            digest = digest_of_values("broken row", number, str(row))
            yield Item(digest, digest, partial(_failed, f"row-{number}", f"row {number} cannot be read: {row}."))
            continue
        if len(row) != len(columns):
            digest = digest_of_values("uneven row", *row)
            what = f"row {number} has {len(row)} columns, the header has {len(columns)}."
            yield Item(digest, digest, partial(_failed, f"row-{number}", what))
            continue
        cells = dict(zip(columns, (cell.strip() for cell in row), strict=True))
        values = [cells.get(name, "") for name in COLUMNS]
        stable = digest_of_values(*values, question.text, question.system)
        named = path.parent / cells["path"] if cells.get("path") else None
        digest = stable if named is None else digest_of_values(stable.hex(), *_stat(named))
        yield Item(digest, stable, partial(_read_row, number, cells, path.parent, question))


def _failed(custom_id: str, what: str, model: Vita) -> Asked:
    return Asked(custom_id, error=invalid(what))


def _read_row(number: int, cells: Mapping[str, str], folder: Path, question: Question, model: Vita) -> Asked:
    custom_id = _printable(cells.get("id") or f"row-{number}")
    path, url = cells.get("path"), cells.get("url")
    if bool(path) == bool(url):
        what = "both a path and a url" if path else "neither a path nor a url"
        return Asked(custom_id, error=invalid(f"row {number} has {what}."))
    text = _printable(cells.get("question") or question.text or "")
    if path and URL.match(path):
        path, url = "", path
    source: Source = FilePath(folder / path) if path else Url(url or "")
    return _read_file(custom_id, source, path or url or "", Question(text, question.system, question.params), model)

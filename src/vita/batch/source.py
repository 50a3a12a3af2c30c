"""What a batch reads: which kind of input a path is, and its items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vita.batch.items import Item
from vita.batch.lines import check_jsonl, line_items
from vita.batch.media import Question, check_folder, check_table, folder_items, table_items
from vita.checkpoint.files import exists, is_folder
from vita.errors import RequestError
from vita.types import SamplingParams

TABLES = (".tsv", ".csv")


@dataclass(frozen=True)
class Source:
    """An input that was checked.

    Attributes:
        kind: of the input.
        path: of the file or folder.
        question: for each file or row; of JSONL, only the default of `max_tokens` counts.
    """

    kind: Literal["jsonl", "table", "folder"]
    path: Path
    question: Question

    def items(self) -> Iterator[Item]:
        """Its items, read while they are iterated."""
        if self.kind == "folder":
            return folder_items(self.path, self.question)
        if self.kind == "table":
            return table_items(self.path, self.question)
        return line_items(self.path, self.question.params.max_tokens or SamplingParams.max_tokens or 1)


def open_source(path: Path, question: Question, out: Path) -> Source:
    """Check an input, and that the results do not overwrite it.

    Args:
        path: a folder, a .tsv or .csv table, or a file of JSON lines.
        question: for each file or row.
        out: of the results.

    Raises:
        RequestError: it cannot be read, holds nothing to ask, is the results file, or the question is no part of it.
    """
    try:
        if not path.exists():
            raise RequestError("no such file or folder", where=path, fix="check the path")
        if exists(out) and out.samefile(path):
            raise RequestError("is both the input and the results", where=out, fix="name another file for the results")
        if is_folder(out):
            raise RequestError("is a folder", where=out, fix="name a file for the results, such as out.jsonl")
        if path.is_dir():
            check_folder(path, question)
            return Source("folder", path, question)
        if not path.is_file():
            raise RequestError("is neither a file nor a folder", where=path, fix="write it to a file first")
        if path.suffix.lower() in TABLES:
            check_table(path, question)
            return Source("table", path, question)
        check_jsonl(path)
    except OSError as error:
        raise RequestError(f"cannot be read ({error.strerror or error})", where=path, fix="check the path") from error
    only = SamplingParams(max_tokens=question.params.max_tokens)
    if question.text is not None or question.system is not None or question.params != only:
        fix = "leave out the flags about question and answer, or name a folder or a table"
        raise RequestError("each line of a JSONL file has its question and parameters", where=path, fix=fix)
    return Source("jsonl", path, question)

"""The embedded model, loaded once, and a way to run a batch with it in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic", reason='SKIPPED LOUDLY: pip install -e ".[batch]" is missing')

import vita
from vita.batch.items import Shard, with_keys
from vita.batch.media import Question
from vita.batch.output import Results
from vita.batch.run import Batch, Counts
from vita.batch.source import open_source
from vita.types import SamplingParams

Run = Callable[..., Counts]


@pytest.fixture(scope="session")
def embedded() -> Iterator[vita.Vita]:
    """The embedded model on the CPU."""
    with vita.load(device="cpu") as model:
        yield model


@pytest.fixture
def run(embedded: vita.Vita) -> Run:
    """Run a batch as `vita batch` does."""

    def run(
        path: Path, out: Path, question: str | None = None, *, shard: str = "1/1", retry_failed: bool = False,
        concurrency: int = 4, ordered: bool = False, max_tokens: int = 4,
    ) -> Counts:  # fmt: skip
        source = open_source(path, Question(question, None, SamplingParams(max_tokens=max_tokens)), out)
        with Results(out, retry_failed=retry_failed) as results:
            items = with_keys(source.items(), Shard.parse(shard))
            return Batch(embedded, items, results, concurrency=concurrency, ordered=ordered).run()

    return run


def request(custom_id: str, content: object, **fields: Any) -> dict[str, Any]:
    """One line of OpenAI's batch input."""
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 4, **fields}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def texts(path: Path) -> dict[str, str]:
    """The answers by custom_id."""
    return {r["custom_id"]: r["response"]["body"]["choices"][0]["message"]["content"] for r in read(path)}

"""`vita batch` with the embedded model: one line an input, equal to one by one, resumed, in every form of input."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import vita
from tests.batch.conftest import Run, read, request, texts, write
from vita.errors import RequestError
from vita.types import SamplingParams

ASSETS = Path(__file__).parents[2] / "assets"
LOGO, SPEECH = ASSETS / "vita_logo.png", ASSETS / "what_can_you_do.flac"
FOUR = SamplingParams(max_tokens=4)


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    (folder / "inner" / ".hidden").mkdir(parents=True)
    shutil.copy(LOGO, folder / "inner" / "logo.png")
    shutil.copy(LOGO, folder / "inner" / ".hidden" / "logo.png")
    shutil.copy(SPEECH, folder / "speech.flac")
    (folder / "notes.txt").write_text("nothing to look at")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.mark.slow
def test_results_equal_one_by_one(embedded: vita.Vita, run: Run, tmp_path: Path) -> None:
    shutil.copy(LOGO, tmp_path / "logo.png")
    data = base64.b64encode(LOGO.read_bytes()).decode()
    audio = {"data": base64.b64encode(SPEECH.read_bytes()).decode(), "format": "flac"}
    ask = {"type": "text", "text": "What does the logo say?"}
    source = write(
        tmp_path / "in.jsonl",
        request("text", "Hello"), request("path", [image("logo.png"), ask]),
        request("url", [image(LOGO.as_uri()), ask]),
        request("data", [image(f"data:image/png;base64,{data}"), ask]),
        request("audio", [{"type": "input_audio", "input_audio": audio}]),
        request("file", [{"type": "audio_url", "audio_url": {"url": str(SPEECH)}}]),
        request("seed", "Hello", temperature=1.0, seed=7),
    )  # fmt: skip
    counts = run(source, tmp_path / "out.jsonl")
    assert (counts.answered, counts.failed, counts.on_disk) == (7, 0, 7)
    logo = embedded.ask("What does the logo say?", image=LOGO, params=FOUR).text
    said = embedded.ask(audio=SPEECH, params=FOUR).text
    assert texts(tmp_path / "out.jsonl") == {
        "text": embedded.ask("Hello", params=FOUR).text, "path": logo, "url": logo, "data": logo, "audio": said,
        "file": said, "seed": embedded.ask("Hello", params=SamplingParams(max_tokens=4, temperature=1.0, seed=7)).text,
    }  # fmt: skip


def test_the_documented_example_is_answered(run: Run, tmp_path: Path) -> None:
    assert run(ASSETS / "batch.jsonl", tmp_path / "out.jsonl", max_tokens=4).answered == 3
    assert "VITA" in texts(tmp_path / "out.jsonl")["logo"]


def test_lines_have_openais_shape(run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", request("a", "Hello", n=2, logprobs=True, top_logprobs=1))
    run(source, tmp_path / "out.jsonl")
    (found,) = read(tmp_path / "out.jsonl")
    assert list(found) == ["id", "custom_id", "response", "error"] and found["error"] is None
    assert found["response"]["status_code"] == 200
    body = found["response"]["body"]
    assert body["object"] == "chat.completion" and [c["index"] for c in body["choices"]] == [0, 1]
    assert body["usage"]["completion_tokens"] == 8
    assert len(body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 1


def test_a_line_that_is_not_utf_8_is_said_to_be_that(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"\xff\xfe{}\n" + json.dumps(request("a", "Hello")).encode() + b"\n{\xe9}\n")
    run(source, tmp_path / "out.jsonl", ordered=True)
    said = [result["error"] and result["error"]["message"] for result in read(tmp_path / "out.jsonl")]
    assert said == ["line 1 is not UTF-8.", None, "line 3 is not UTF-8."]


def test_what_is_wrong_with_a_line_is_its_result(run: Run, tmp_path: Path) -> None:
    bad: list[tuple[dict[str, Any] | str, str]] = [
        ("{not json", "line 2 is not valid JSON"),
        ("[1, 2]", "line 3 is not a JSON object"),
        ('{"a": NaN}', "NaN is not allowed in JSON"),
        ("[" * 100_000, "nested too deeply"),
        ({"body": {}}, "custom_id must be a string"),
        (request("a", "Hello") | {"url": "/v1/embeddings"}, "url must be /v1/chat/completions"),
        (request("b", "Hello") | {"method": "GET"}, "method must be POST"),
        (request("c", "Hello") | {"body": None}, "body must be an object"),
        (request("d", "Hello", temperature="hot"), "temperature: Input should be a valid number"),
        (request("e", "Hello", stream=True), "stream: a batch has no streams"),
        (request("f", "Hello", modalities=["audio", "text"]), "a batch answers with text only"),
        (request("g", "Hello", model="gpt-4o"), "'gpt-4o' is not loaded"),
        (request("h", [image("none.png")]), "none.png"),
        (request("i", [image("ftp://a/b.png")]), "ftp://a/b.png"),
        (request("j", "Hello", top_logprobs=2), "top_logprobs: needs logprobs"),
        (request("k", ""), "nothing"),
    ]
    source = write(tmp_path / "in.jsonl", request("good", "Hello"), *(line for line, _ in bad), "", "  ")
    counts = run(source, tmp_path / "out.jsonl", ordered=True)
    found = read(tmp_path / "out.jsonl")
    assert (counts.answered, counts.failed, len(found)) == (1, len(bad), 1 + len(bad))
    for result, (line, said) in zip(found[1:], bad, strict=True):
        message = result["error"]["message"]
        assert 400 <= result["response"]["status_code"] < 500, result
        if line != bad[-1][0]:
            assert said in message, message
        assert result["response"]["body"]["error"]["message"] == message and message.endswith(".")
        assert result["custom_id"] == (line.get("custom_id") if isinstance(line, dict) else None)


def test_a_folder_has_one_line_a_file(embedded: vita.Vita, run: Run, media: Path, tmp_path: Path) -> None:
    out = media / "out.jsonl"  # results in the folder are no input
    counts = run(media, out, "What is this?")
    assert (counts.answered, counts.failed) == (2, 1)
    by_name = {r["custom_id"]: r for r in read(out)}
    assert set(by_name) == {"broken.png", "inner/logo.png", "speech.flac"}
    assert "broken.png" in by_name["broken.png"]["error"]["message"]
    said = by_name["inner/logo.png"]["response"]["body"]["choices"][0]["message"]["content"]
    assert said == embedded.ask("What is this?", image=LOGO, params=FOUR).text
    again = run(media, out, "What is this?")
    assert (again.before, again.answered, again.failed) == (3, 0, 0)
    shutil.copy(LOGO, media / "broken.png")  # another size and time: another input
    assert run(media, out, "What is this?").answered == 1
    assert run(media, out, "And this?").answered == 3


def test_a_named_pipe_that_nobody_writes_to_is_refused(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    os.mkfifo(folder / "pipe.png")
    table = tmp_path / "in.csv"
    table.write_text("path,question\nmedia/pipe.png,What?\n")
    image = {"type": "image_url", "image_url": {"url": "media/pipe.png"}}
    lines = write(tmp_path / "in.jsonl", request("a", [image, {"type": "text", "text": "What?"}]))
    for source, question in ((folder, "What?"), (table, None), (lines, None)):
        out = tmp_path / f"{source.name}.out"
        assert run(source, out, question).failed == 1
        assert "pipe.png: is not a regular file" in read(out)[0]["error"]["message"]


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_a_table_has_one_line_a_row(suffix: str, run: Run, media: Path, tmp_path: Path) -> None:
    mark = "\t" if suffix == ".tsv" else ","
    rows = [
        ("Path", "question", "id"), ("inner/logo.png", "What is this?", "first"),
        ("inner/logo.png", '"Red, or blue?"', ""), ("speech.flac", "", ""), ("none.png", "What?", "gone"),
        ("inner/logo.png", "", "nothing asked"), ("speech.flac",), ("", "What?", "no file"),
    ]  # fmt: skip
    table = write(media / f"in{suffix}", *(mark.join(row) for row in rows))
    counts = run(table, tmp_path / "out.jsonl", ordered=True)
    found = read(tmp_path / "out.jsonl")
    assert [r["custom_id"] for r in found] == ["first", "row-2", "row-3", "gone", "nothing asked", "row-6", "no file"]
    assert (counts.answered, counts.failed) == (3, 4)
    said = [r["error"]["message"] for r in found if r["error"]]
    for message, words in zip(said, ("none.png", "no question", "row 6 has 1 columns", "neither a path"), strict=True):
        assert words in message


def test_equal_lines_are_answered_once_each(run: Run, tmp_path: Path) -> None:
    line = json.dumps(request("same", "Hello"))
    source, out = write(tmp_path / "in.jsonl", line, line, line), tmp_path / "out.jsonl"
    run(source, out)
    ids = [r["id"] for r in read(out)]
    assert len(ids) == len(set(ids)) == 3
    kept = [one for one in out.read_text().splitlines() if json.loads(one)["id"] != ids[1]]
    out.write_text("".join(f"{one}\n" for one in kept))
    counts = run(write(source, line, line, line + "\r", line), out)  # the end of a line is no content
    assert (counts.before, counts.answered) == (2, 2) and len({r["id"] for r in read(out)}) == 4


def test_failures_are_tried_again_on_demand(run: Run, tmp_path: Path) -> None:
    ask = {"type": "text", "text": "What?"}
    source = write(tmp_path / "in.jsonl", request("a", "Hello"), request("b", [image("late.png"), ask]))
    out = tmp_path / "out.jsonl"
    assert run(source, out).failed == 1
    shutil.copy(LOGO, tmp_path / "late.png")
    assert run(source, out).before == 2
    assert run(source, out, retry_failed=True).answered == 1
    assert sorted(texts(out)) == ["a", "b"]


def test_shards_add_up(run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", *(request(str(n), f"Say {n}") for n in range(6)))
    for part in ("1/2", "2/2"):
        run(source, tmp_path / f"{part[0]}.jsonl", shard=part)
    found = [r["custom_id"] for part in (1, 2) for r in read(tmp_path / f"{part}.jsonl")]
    assert sorted(found) == [str(n) for n in range(6)]


def test_ordered_results_are_in_the_order_of_the_input(run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", *(request(str(n), "Hello", max_tokens=12 - 2 * n) for n in range(6)))
    run(source, tmp_path / "out.jsonl", ordered=True, concurrency=3)
    assert [r["custom_id"] for r in read(tmp_path / "out.jsonl")] == [str(n) for n in range(6)]


def test_an_engine_that_failed_writes_no_failures(run: Run, tmp_path: Path) -> None:
    """They would count as done."""
    with vita.load(device="cpu") as other:
        pass
    from vita.batch.items import Shard, with_keys
    from vita.batch.lines import line_items
    from vita.batch.output import Results
    from vita.batch.run import Batch
    from vita.errors import ResourceError

    source = write(tmp_path / "in.jsonl", request("a", "Hello"))
    with pytest.raises(ResourceError), Results(tmp_path / "out.jsonl") as results:
        Batch(other, with_keys(line_items(source, 4), Shard()), results).run()
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("count", [0, -1, 129])
def test_concurrency_has_limits(run: Run, count: int, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", request("a", "Hello"))
    with pytest.raises(RequestError, match="must be 1 to 128"):
        run(source, tmp_path / "out.jsonl", concurrency=count)

"""The command `vita batch`: killed, interrupted, out of disk, with bad arguments."""

from __future__ import annotations

import io
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.batch.conftest import read, request, write
from tests.cli.commands import assert_sentence
from tests.cli.commands import run as vita_command
from tests.forks import Forked, Forks
from vita.batch.items import Shard, with_keys
from vita.batch.lines import line_items
from vita.batch.media import Question
from vita.batch.run import Counts
from vita.batch.source import open_source
from vita.cli.batch import bar

ASSETS = Path(__file__).parents[2] / "assets"
SECONDS = 120.0


def start(forks: Forks, *arguments: str, file_limit: int = 0) -> Forked:
    command = [sys.executable, "-m", "vita", "batch", *arguments]
    return forks.popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        file_limit=file_limit,
    )


def size(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(path: Path, lines: int) -> None:
    end = time.monotonic() + SECONDS
    while size(path) < lines:
        assert time.monotonic() < end, f"{size(path)} lines, waiting for {lines}"
        time.sleep(0.002)


def kill_at_random(forks: Forks, kills: int, tmp_path: Path) -> None:
    """Kill at random moments, go on, and compare with the input."""
    rng = random.Random(kills)
    count = 10 * kills + 20
    lines = [request(str(n % (count - 5)), f"Say {n % (count - 5)}", max_tokens=2) for n in range(count)]  # 5 twice
    source, out = write(tmp_path / "in.jsonl", *lines), tmp_path / "out.jsonl"
    for _ in range(kills):
        child = start(forks, str(source), str(out), "--concurrency", "2")
        wait_for(out, min(count, size(out) + rng.randint(0, 2)))
        time.sleep(rng.random() * 0.05)
        child.kill()
        assert child.wait() == -signal.SIGKILL, "it was complete before the last kill"
    assert start(forks, str(source), str(out)).wait() == 0
    found = read(out)
    assert sorted(r["id"] for r in found) == sorted(key for key, _ in with_keys(line_items(source, 4), Shard()))
    assert sorted(r["custom_id"] for r in found) == sorted(line["custom_id"] for line in lines)
    assert all(r["error"] is None for r in found)


def test_kill_9_loses_and_doubles_nothing(forks: Forks, tmp_path: Path) -> None:
    kill_at_random(forks, 10, tmp_path)


@pytest.mark.slow
def test_kill_9_at_50_moments_loses_and_doubles_nothing(forks: Forks, tmp_path: Path) -> None:
    kill_at_random(forks, 50, tmp_path)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_ends_it_in_order(forks: Forks, number: signal.Signals, code: int, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", *(request(str(n), "Hello", max_tokens=1 + 9 * n) for n in range(400)))
    out = tmp_path / "out.jsonl"
    child = start(forks, str(source), str(out), "--concurrency", "4")
    wait_for(out, 1)
    child.send_signal(number)
    said = child.communicate(timeout=SECONDS)[1].splitlines()[-1]
    assert child.returncode == code
    assert said.startswith("vita: ") and said.endswith("stopped, the same command goes on"), said
    assert 1 <= len(read(out)) < 400 and f"{len(read(out))} answered" in said


def test_a_full_disk_is_one_sentence(forks: Forks, tmp_path: Path) -> None:
    """A limit of the file's size fails as a full disk does, but for the reason."""
    source = write(tmp_path / "in.jsonl", *(request(str(n), f"Say {n}", max_tokens=1) for n in range(20)))
    out = tmp_path / "out.jsonl"
    child = start(forks, str(source), str(out), "--concurrency", "2", file_limit=3000)
    said = child.communicate(timeout=SECONDS)[1].splitlines()[-1]
    assert child.returncode == 2
    fix = "raise the limit (ulimit -f), or use another disk"
    assert said == f"vita: {out}: the file would be larger than is allowed here; {fix}."
    assert read(out) and out.stat().st_size <= 3000
    assert start(forks, str(source), str(out)).wait() == 0 and len({r["id"] for r in read(out)}) == len(read(out)) == 20


def test_summary_and_help(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", request("a", "Hello"), request("b", "Hello", model="other"))
    done = vita_command("batch", str(source), str(tmp_path / "out.jsonl"))
    assert (done.returncode, done.stdout) == (0, b"") and len(read(tmp_path / "out.jsonl")) == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("vita: 1 answered, 1 failed in ") and line.endswith(f" a second: {tmp_path / 'out.jsonl'}")
    shown = " ".join(vita_command("batch", "--help").stdout.decode().split())
    assert "exactly one line" in shown and "as soon as it is complete" in shown and "seed" in shown


class Terminal(io.StringIO):
    """Stands for a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar_with_rate_and_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in.jsonl", *(request(str(n), "Hello") for n in range(20)))
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with bar(open_source(source, Question(), tmp_path / "out.jsonl"), Shard()) as report:
        report(Counts(before=5, answered=6, failed=1, on_disk=7))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "12/20" in shown and "/s, 1 failed" in shown, shown


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("", "in.jsonl", "holds no requests"),
        ("\n \n", "in.jsonl", "holds no requests"),
        ("name,age\nA,3\n", "in.txt", "is not JSONL: none of its first lines is a JSON object"),
        ("", "in.tsv", "is empty; write a header; the columns are path, url, question, id"),
        ("path\tquestion\n", "in.tsv", "holds no rows below its header"),
        ("path\tcaption\na.png\tA\n", "in.tsv", "the column 'caption' is not known"),
        ("path,path,question\na.png,a.png,What?\n", "in.csv", "there are two columns path"),
        ("question\nWhat?\n", "in.csv", "neither a column path nor a column url"),
        ("path\na.png\n", "in.csv", "has no column question; add it, or --question for all rows"),
    ],
)
def test_an_input_that_is_none_is_one_sentence(text: str, name: str, said: str, tmp_path: Path) -> None:
    source = tmp_path / name
    source.write_text(text)
    assert_sentence(vita_command("batch", str(source), str(tmp_path / "out.jsonl")), str(source), said)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.slow
def test_bad_arguments_are_one_sentence(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", request("a", "Hello"))
    good, out, folder = str(source), str(tmp_path / "out.jsonl"), tmp_path / "folder"
    folder.mkdir()
    (folder / "notes.txt").write_text("no media")
    (tmp_path / "taken.txt").write_text("my notes")
    (tmp_path / "link.jsonl").symlink_to(source)
    for arguments, said in (
        ((good, good), "is both the input and the results"),
        ((good, str(tmp_path / "link.jsonl")), "is both the input and the results"),
        ((good, str(tmp_path / "none" / "out.jsonl")), "cannot be written (No such file or directory)"),
        ((good, str(folder)), "is a folder; name a file"),
        ((good, "/dev/null"), "is no regular file"),
        ((good, str(tmp_path / "taken.txt")), "holds something else than results of vita batch"),
        ((str(tmp_path / "none.jsonl"), out), "no such file or folder"),
        ((str(folder), out, "--question", "What?"), "holds no images, videos or audio files"),
        ((str(ASSETS), out), 'a folder needs a question; add --question, such as "What is this?"'),
        ((good, out, "--question", "What?"), "each line of a JSONL file has its question and parameters"),
        ((good, out, "--temperature", "1"), "each line of a JSONL file has its question and parameters"),
        ((good, out, "--shard", "3/2"), "--shard: 3/2 is no shard"),
        ((good, out, "--concurrency", "0"), "--concurrency: must be 1 to 128, not 0"),
        ((good, out, "--max-tokens", "0"), "--max-tokens"),
        ((good,), "OUT"),
    ):
        assert_sentence(vita_command("batch", *arguments), said)
    assert not Path(out).exists() and (tmp_path / "taken.txt").read_text() == "my notes"
    assert json.loads(source.read_text())["custom_id"] == "a"

"""The commands as a stranger uses them: right answers on stdout, one sentence and exit code 2 for every mistake."""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import wave
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import typer
from PIL import Image
from tests.checkpoints import copy_mini, edit_json, read_tensors, write_single

import vita
from vita.checkpoint.open import DEFAULT
from vita.cli import run as run_command
from vita.cli.app import app
from vita.cli.chat import HELP
from vita.cli.demo import flag_names, run_demo
from vita.cli.guard import run_guarded
from vita.options import SCHEMES

ROOT = Path(__file__).parents[2]
MINI = str(ROOT / "tests" / "goldens" / "mini" / "mini_ckpt")
ENV = {k: v for k, v in os.environ.items() if k not in ("VITA_DEBUG", "HF_HUB_OFFLINE")} | {"HF_HUB_OFFLINE": "1"}


@dataclass
class Ended:
    """How a command ended."""

    returncode: int
    stdout: bytes
    stderr: bytes


def inside(command: Callable[[], object], stdin: bytes | None) -> Ended:
    """A command inside this process, so that a hundred of them take seconds; its streams are no terminals."""
    out, error = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    kept = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin or b""), "utf-8")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            command()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    finally:
        sys.stdin = kept
    out.flush()
    error.flush()
    return Ended(code, out.buffer.getvalue(), error.buffer.getvalue())  # type: ignore[attr-defined]


def run(*arguments: str, stdin: bytes | None = None) -> Ended:
    """`vita` with these arguments."""
    kept, sys.argv = sys.argv, ["vita", *arguments]
    try:
        return inside(run_command, stdin)
    finally:
        sys.argv = kept


def demo(*arguments: str) -> Ended:
    """`video_audio_demo.py` with these arguments."""
    return inside(lambda: run_guarded(lambda: run_demo(list(arguments)), flag_names), None)


def process(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """`vita` in a process of its own."""
    command = [sys.executable, "-c", "from vita.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, env=ENV, timeout=120, check=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good file of each kind, and many bad ones."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (50, 80, 3), np.uint8)).save(folder / "good.png")
    with wave.open(str(folder / "good.wav"), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes(rng.normal(0, 2000, 16000).astype("<i2").tobytes())
    make_video(folder / "good.mp4")
    whole = (folder / "good.png").read_bytes()
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_bytes(b"this is no picture at all\n" * 40)
    (folder / "noise.wav").write_bytes(rng.bytes(4000))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "noise.mp4").write_bytes(rng.bytes(4000))
    (folder / "bomb.png").write_bytes(bomb(60_000, 60_000))
    header = (folder / "good.wav").read_bytes()[:44]
    (folder / "headless.wav").write_bytes(header)
    return folder


def bomb(width: int, height: int) -> bytes:
    """A small file whose header says that it is a huge image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\x02\x00\x00\x00")
    return head + chunk(b"IDAT", zlib.compress(b"\0" * 100_000)) + chunk(b"IEND", b"")


def make_video(file: Path) -> None:
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 64
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number * 20, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def assert_sentence(done: Ended, *said: str, code: int = 2) -> None:
    """One clear sentence on stderr, nothing on stdout, the exit code for something a user can mend."""
    error = done.stderr.decode()
    assert done.returncode == code, error
    assert done.stdout == b"", done.stdout
    lines = [line for line in error.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("vita: ") and lines[0].endswith((".", "help'.")), error
    assert "Traceback" not in error
    for words in said:
        assert words in error, error


class TestAsk:
    def test_all_kinds_of_media(self, files: Path, mini_model: vita.Vita) -> None:
        """Every flag reaches the model as the argument of the same name does in Python."""
        image, video, audio = str(files / "good.png"), str(files / "good.mp4"), str(files / "good.wav")
        asked: list[tuple[list[str], dict[str, Any]]] = [
            (["What is this?"], {"question": "What is this?"}),
            (["What is this?", "--image", image], {"question": "What is this?", "images": [image]}),
            (["What is this?", "--video", video], {"question": "What is this?", "videos": [video]}),
            (["--audio", audio], {"audios": [audio]}),
            (["And?", "--image", image, "--image", image, "--audio", audio, "--video", video],
             {"question": "And?", "images": [image, image], "videos": [video], "audios": [audio]}),
        ]  # fmt: skip
        answers = []
        for flags, arguments in asked:
            done = run("ask", "--model", MINI, "--json", "--max-tokens", "5", *flags)
            assert done.returncode == 0, done.stderr
            answer = json.loads(done.stdout)
            wanted = mini_model.ask(**arguments, params=vita.SamplingParams(max_tokens=5))
            assert answer["token_ids"] == list(wanted.token_ids) and answer["finish_reason"] == wanted.finish_reason
            assert answer["text"] == wanted.text and answer["usage"]["completion_tokens"] == len(wanted.token_ids)
            assert answer["usage"]["audio_seconds"] == (1.0 if "--audio" in flags else 0.0)
            assert (answer["usage"]["tiles"] > 0) == ("--image" in flags or "--video" in flags)
            answers.append(tuple(answer["token_ids"]))
        assert len(set(answers)) == len(answers), "every medium changes the answer, or this would show nothing"

    def test_streamed_whole_and_python_give_one_text(self, mini_model: vita.Vita) -> None:
        flags = ["ask", "Hello", "--model", MINI, "--dtype", "float32", "--max-tokens", "12"]
        streamed, whole = process(*flags), run(*flags, "--no-stream")
        text = mini_model.ask("Hello", params=vita.SamplingParams(max_tokens=12)).text
        assert streamed.stdout.decode() == whole.stdout.decode() == text + "\n"
        assert "the answer was cut off" in streamed.stderr.decode() and "\x1b" not in streamed.stderr.decode()

    def test_stdin_serves_as_question_or_medium(self, files: Path) -> None:
        flags = ["--model", MINI, "--max-tokens", "3", "--json"]
        typed = json.loads(run("ask", "-", *flags, stdin=b"Hello\n").stdout)
        assert typed["token_ids"] == json.loads(run("ask", "Hello", *flags).stdout)["token_ids"]
        piped = run("ask", "Hello", "--image", "-", *flags, stdin=(files / "good.png").read_bytes())
        assert json.loads(piped.stdout)["usage"]["images"] == 1
        assert_sentence(run("ask", "-", "--image", "-", *flags), "only one of the question and the media")

    def test_timings_are_shown_when_asked(self) -> None:
        done = run("ask", "Hello", "--model", MINI, "--max-tokens", "3", "--timings")
        shown = done.stderr.decode()
        assert all(word in shown for word in ("prefill", "decode", "tokens/s", "GB/s", "peak memory")), shown

    def test_json_has_the_names_of_the_api(self, files: Path) -> None:
        """Keys are the fields of `Usage` and `Timings`, and the rates that follow from them."""
        flags = ["--model", MINI, "--max-tokens", "3", "--json"]
        answer = json.loads(run("ask", "Hello", "--image", str(files / "good.png"), *flags).stdout)
        usage, timings = answer["usage"], answer["timings"]
        assert set(usage) == {field.name for field in fields(vita.Usage)} and usage["images"] == 1
        rates = {"tokens_per_second", "gigabytes_per_second", "images_per_second"}
        assert set(timings) == {field.name for field in fields(vita.Timings)} | rates and timings["queued"] >= 0
        assert timings["images_per_second"] == usage["images"] / timings["total"]
        typed = json.loads(run("ask", "Hello", *flags).stdout)
        assert typed["timings"]["images_per_second"] is None

    def test_log_probabilities_are_part_of_json(self) -> None:
        flags = ["ask", "Hello", "--model", MINI, "--max-tokens", "3", "--logprobs", "2"]
        assert_sentence(run(*flags), "--logprobs: is part of the JSON output; add --json")
        assert [len(token["top"]) for token in json.loads(run(*flags, "--json").stdout)["logprobs"]] == [2, 2, 2]

    def test_sampling_flags_reach_the_sampler(self) -> None:
        def ids(*flags: str) -> list[int]:
            done = run("ask", "Hello", "--model", MINI, "--max-tokens", "8", "--json", *flags)
            return list(json.loads(done.stdout)["token_ids"])

        warm = ["--temperature", "1.5"]
        assert ids(*warm, "--seed", "1") == ids(*warm, "--seed", "1") != ids(*warm, "--seed", "2")
        assert ids(*warm, "--seed", "1", "--top-k", "1") == ids()
        assert ids("--system", "Be short.") != ids()

    def test_a_closed_pipe_is_quiet(self) -> None:
        """The answer is as long as the context, and whoever reads it leaves after a byte."""
        command = [sys.executable, "-c", "from vita.cli import main; main()", "ask", "Hello", "--model", MINI,
                   "--max-tokens", "1000000", "--repetition-penalty", "1.3"]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV)
        try:
            assert process.stdout is not None and process.stderr is not None
            assert len(process.stdout.read(1)) == 1
            process.stdout.close()
            error = process.stderr.read()
            assert (process.wait(timeout=60), error) == (0, b"")
        finally:
            process.kill()

    def test_a_full_disk_is_one_sentence(self) -> None:
        full = Path("/dev/full")
        if not full.exists():
            pytest.skip("SKIPPED LOUDLY: this system has no /dev/full")
        command = [sys.executable, "-c", "from vita.cli import main; main()", "ask", "Hello", "--model", MINI]
        with full.open("wb") as disk:
            done = subprocess.run(
                [*command, "--max-tokens", "3"], stdout=disk, stderr=subprocess.PIPE, env=ENV, timeout=99, check=False
            )
        assert done.returncode == 2 and b"no space is left" in done.stderr and b"Traceback" not in done.stderr

    def test_a_clip_from_stdin_is_seen_and_heard(self, files: Path) -> None:
        flags = ["--model", MINI, "--video", "-", "--audio-from-video", "--max-tokens", "3"]
        assert_sentence(run("ask", *flags, stdin=(files / "good.mp4").read_bytes()), "has no sound in it")

    def test_bytes_that_are_no_text_are_read_as_well_as_can_be(self) -> None:
        flags = ["--model", MINI, "--max-tokens", "3", "--json"]
        done = run("ask", "-", *flags, stdin=b"Hello \xff\n")
        assert done.returncode == 0, done.stderr
        asked = json.loads(run("ask", "Hello \ufffd", *flags).stdout)
        assert json.loads(done.stdout)["token_ids"] == asked["token_ids"]

    @pytest.mark.parametrize("moment", ["importing", "opening", "loading", "answering"])
    def test_ctrl_c_leaves_quietly(self, moment: str) -> None:
        """The process pauses at the moment, and says so on stdout, until the signal comes."""
        event, name = {"importing": ("import", "torch"), "opening": ("open", "config.json"),
                       "loading": ("open", ".safetensors"), "answering": ("", "")}[moment]  # fmt: skip
        code = (
            "import sys, time\n"
            "def pause(event, arguments):\n"
            f"    if event == {event!r} and str(arguments[0]).endswith({name!r}):\n"
            "        print('paused', end='', flush=True)\n"
            "        time.sleep(99)\n"
            "sys.addaudithook(pause)\n"
            "from vita.cli import main; main()"
        )
        command = [sys.executable, "-c", code, "ask", "Hello", "--model", MINI,
                   "--max-tokens", "1000000", "--repetition-penalty", "1.3"]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV, bufsize=0)
        try:
            assert process.stdout is not None
            before = process.stdout.read(6 if event else 1)
            process.send_signal(signal.SIGINT)
            said, error = process.communicate(timeout=60)
        finally:
            process.kill()
        assert (process.returncode, error) == (130, b"")
        assert (before, said) == (b"paused", b"") if event else before


MISTAKES: dict[str, tuple[Callable[[Path], list[str]], tuple[str, ...]]] = {
    "nothing asked": (lambda f: ["ask"], ("there is no question",)),
    "image missing": (lambda f: ["ask", "x", "--image", str(f / "no.png")], ("no.png", "no such file")),
    "image empty": (lambda f: ["ask", "x", "--image", str(f / "empty.png")], ("empty.png", "is empty")),
    "image cut": (lambda f: ["ask", "x", "--image", str(f / "cut.png")], ("cut.png",)),
    "image is text": (lambda f: ["ask", "x", "--image", str(f / "text.png")], ("text.png",)),
    "image is a folder": (lambda f: ["ask", "x", "--image", str(f)], ("folder",)),
    "image is a bomb": (lambda f: ["ask", "x", "--image", str(f / "bomb.png")], ("more than 120 million pixels",)),
    "audio is noise": (lambda f: ["ask", "x", "--audio", str(f / "noise.wav")], ("noise.wav",)),
    "audio without samples": (lambda f: ["ask", "x", "--audio", str(f / "headless.wav")], ("headless.wav",)),
    "audio is an image": (lambda f: ["ask", "x", "--audio", str(f / "good.png")], ("good.png",)),
    "video empty": (lambda f: ["ask", "x", "--video", str(f / "empty.mp4")], ("empty.mp4", "is empty")),
    "video is noise": (lambda f: ["ask", "x", "--video", str(f / "noise.mp4")], ("noise.mp4",)),
    "video is audio": (lambda f: ["ask", "x", "--video", str(f / "good.wav")], ("good.wav",)),
    "video without audio": (
        lambda f: ["ask", "--video", str(f / "good.mp4"), "--audio-from-video"], ("good.mp4", "no sound"),
    ),
    "audio of no video": (lambda f: ["ask", "x", "--audio-from-video"], ("--audio-from-video", "needs a --video")),
    "video times": (lambda f: ["ask", "x", "--video", str(f / "good.mp4"), "--start", "9"], ("good.mp4",)),
    "frames": (lambda f: ["ask", "x", "--video", str(f / "good.mp4"), "--max-frames", "0"], ("max_frames",)),
    "tiles": (lambda f: ["ask", "x", "--max-tiles", "0"], ("--max-tiles: must be 1 to 12, not 0",)),
    "tiles of a missing image": (
        lambda f: ["ask", "x", "--image", str(f / "no.png"), "--max-tiles", "13"], ("--max-tiles: must be 1 to 12",),
    ),
    "no network": (lambda f: ["ask", "x", "--image", "http://127.0.0.1:9/a.png"], ("127.0.0.1",)),
    "unknown scheme": (lambda f: ["ask", "x", "--image", "ftp://host/a.png"], ("ftp://host/a.png",)),
    "tokens": (lambda f: ["ask", "x", "--max-tokens", "0"], ("--max-tokens: must be 1 or more",)),
    "tokens no number": (lambda f: ["ask", "x", "--max-tokens", "many"], ("--max-tokens", "integer")),
    "top p": (lambda f: ["ask", "x", "--top-p", "2"], ("--top-p: must be over 0 and at most 1",)),
    "log-probabilities": (lambda f: ["ask", "x", "--logprobs", "3"], ("--logprobs: is part of the JSON output",)),
    "chat tiles": (lambda f: ["chat", "--model", MINI, "--max-tiles", "0"], ("--max-tiles: must be 1 to 12, not 0",)),
    "chat top p": (lambda f: ["chat", "--model", MINI, "--top-p", "2"], ("--top-p: must be over 0",)),
    "chat media on stdin": (lambda f: ["chat", "--model", MINI, "--image", "-"], ("-: standard input is the",)),
    "dtype": (lambda f: ["ask", "x", "--dtype", "int3"], ("--dtype: unknown dtype 'int3'",)),
    "quantize": (lambda f: ["ask", "x", "--quantize", "int3"], ("--quantize: unknown scheme 'int3'; use int8",)),
    "device": (lambda f: ["ask", "x", "--device", "abacus"], ("--device: unknown device 'abacus'",)),
    "memory": (lambda f: ["ask", "x", "--memory", "much"], ("--memory: 'much' is not a size; use auto",)),
    "memory by its old name": (lambda f: ["ask", "x", "--fit", "much"], ("--memory: 'much' is not a size",)),
    "memory twice": (lambda f: ["ask", "x", "--fit", "1GB", "--memory", "1GB"], ("--fit: is the old name",)),
    "memory and quantize": (
        lambda f: ["info", MINI, "--memory", "1GB", "--quantize", "int8"], ("--memory: cannot be used with quantize",),
    ),
    "memory too little": (lambda f: ["ask", "x", "--memory", "1MB"], ("--memory: the smallest variant", "are allowed")),
    "kv cache": (lambda f: ["chat", "--model", MINI, "--kv-cache", "int2"], ("--kv-cache: unknown format 'int2'",)),
    "seed": (lambda f: ["ask", "x", "--seed", str(2**70)], ("seed",)),
    "base alone": (lambda f: ["ask", "x", "--base", MINI], ("--base: needs a model, the LoRA folder",)),
    "flag": (lambda f: ["ask", "x", "--colour", "red"], ("--colour", "See 'vita ask --help'")),
    "hub offline": (lambda f: ["ask", "x", "--model", "nobody/nothing", "--offline"], ("nobody/nothing", "offline")),
    "model missing": (lambda f: ["ask", "x", "--model", str(f / "none")], ("no such folder",)),
    "model is a file": (lambda f: ["ask", "x", "--model", str(f / "good.png")], ("is a file",)),
    "model is empty": (lambda f: ["ask", "x", "--model", str(f)], ("no config.json",)),
    "verify nothing": (lambda f: ["verify", str(f)], ("no model/model.json",)),
    "info nothing": (lambda f: ["info", str(f)], ("no config.json",)),
    "command": (lambda f: ["answer"], ("answer",)),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_is_one_sentence(files: Path, name: str) -> None:
    arguments, said = MISTAKES[name]
    flags = arguments(files)
    if flags[0] == "ask" and "--model" not in flags and "--base" not in flags:
        flags += ["--model", MINI]
    assert_sentence(run(*flags), *said)


COMMANDS = ("ask", "chat", "info", "verify", "bench", "eval", "convert", "doctor")


class TestOtherCommands:
    def test_help_and_version_need_no_model(self) -> None:
        done = run("--help")
        shown = done.stdout.decode()
        assert (done.returncode, done.stderr) == (0, b"")
        for command in COMMANDS:
            assert re.search(rf"^\W*{command}\s+[A-Z]", shown, re.MULTILINE), f"{command} is not listed: {shown}"
        assert run("--version").stdout.decode() == run("-V").stdout.decode() == f"vita {vita.__version__}\n"
        assert run("-h").stdout == done.stdout == run().stdout

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_has_help_with_two_examples_that_parse(self, name: str, monkeypatch: Any) -> None:
        monkeypatch.setenv("COLUMNS", "120")
        done = run(name, "--help")
        shown = done.stdout.decode()
        assert (done.returncode, done.stderr, run(name, "-h").stdout) == (0, b"", done.stdout)
        found = re.findall(r"^ +((?:\w+=\w+ )?vita .*?) *$", shown.split("Examples:")[1], re.MULTILINE)
        assert len(found) == 2, shown
        command = typer.main.get_group(app).commands[name]
        for line in found:
            words = shlex.split(line.split(" > ")[0])
            words = words[words.index("vita") :]
            assert words[1] == name
            command.make_context(name, words[2:], resilient_parsing=False)  # raises for a flag that does not exist
        for parameter in command.params:
            hidden = getattr(parameter, "hidden", False)
            assert hidden or getattr(parameter, "help", None), f"{parameter.name} is not explained"
            assert all((flag in shown) != hidden for flag in parameter.opts if flag.startswith("--")), parameter.opts

    def test_help_of_ask_is_in_panels(self) -> None:
        shown = run("ask", "--help").stdout.decode()
        titles = re.findall(r"─ (Media|Model|Answer|Output) ─", shown)
        assert titles == ["Media", "Model", "Answer", "Output"]
        media, model, answer, output = re.split(r"─ (?:Media|Model|Answer|Output) ─", shown)[1:]
        for panel, flags in (
            (media, ("--image", "--audio-from-video", "--max-tiles")), (model, ("--device", "--memory")),
            (answer, ("--temperature", "--logprobs")), (output, ("--json", "--timings", "--verbose")),
        ):  # fmt: skip
            assert all(flag in panel for flag in flags), panel

    def test_verify_names_every_scheme(self) -> None:
        shown = " ".join(re.sub(r"[│\s]+", " ", run("verify", "--help").stdout.decode()).split())
        for scheme in SCHEMES:
            assert scheme in shown, shown

    def test_python_dash_m_is_the_command(self) -> None:
        command = [sys.executable, "-m", "vita"]
        done = subprocess.run([*command, "-V"], capture_output=True, env=ENV, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"vita {vita.__version__}\n".encode(), b"")
        wrong = subprocess.run([*command, "answer"], capture_output=True, env=ENV, timeout=60, check=False)
        assert_sentence(Ended(wrong.returncode, wrong.stdout, wrong.stderr), "answer", "See 'vita --help'")

    def test_help_imports_nothing_heavy(self) -> None:
        code = (
            "import sys; sys.argv=['vita','--help']\n"
            "from vita.cli import run\n"
            "try: run()\nexcept SystemExit: pass\n"
            "print([m for m in ('torch','numpy','PIL','av','tokenizers') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ENV, timeout=60, check=False)
        assert done.stdout.decode().strip().endswith("[]")

    def test_info_counts_and_predicts(self) -> None:
        facts = json.loads(run("info", MINI, "--json").stdout)
        tensors = read_tensors(Path(MINI))
        unused = sum(tensors[n].shape[1] * (1408 - 1378) for n in ("model.embed_tokens.weight", "lm_head.weight"))
        stored = sum(t.numel() for n, t in tensors.items() if "global_cmvn" not in n)
        assert facts["total"] == stored - unused and facts["problem"] is None
        text = run("info", MINI).stdout.decode()
        assert f"{facts['total'] / 1e6:,.3f} M" in text and "missing     nothing" in text

    def test_info_says_what_a_memory_limit_changes(self) -> None:
        facts = json.loads(run("info", MINI, "--json").stdout)
        text = run("info", MINI).stdout.decode()
        assert f"KV cache    budget {facts['kv_budget'] / 1e9:.2f} GB" in text and "in turn" not in text
        limited = run("info", MINI, "--memory", "2GB")
        assert limited.returncode == 0 and b"limit       2GB: " in limited.stdout and b"in turn" in limited.stdout
        tight = run("info", MINI, "--memory", "1MB").stdout.decode()
        assert "KV cache    no budget: memory: the smallest variant (int4) needs about" in tight

    def test_the_chosen_variant_is_printed(self) -> None:
        for flag in "--memory", "--fit":
            done = run("ask", "Hello", "--model", MINI, "--dtype", "float32", "--max-tokens", "2", flag, "2GB")
            assert b"vita: float32 is the least quantised variant within 2GB\n" in done.stderr
        assert b"--memory" in run("ask", "--help").stdout and b"--fit" not in run("ask", "--help").stdout

    def test_info_says_what_is_missing(self, mini: Path, tmp_path: Path) -> None:
        folder = copy_mini(mini, tmp_path)
        tensors = read_tensors(folder)
        del tensors["model.norm.weight"]
        write_single(folder, tensors)
        done = run("info", str(folder))
        assert done.returncode == 2 and "1 missing (model.norm.weight)" in done.stdout.decode()

    def test_verify_prints_rows_and_counts(self, mini: Path) -> None:
        done = run("verify", str(mini))
        _, *rows, last = done.stdout.decode().splitlines()
        ends = [re.search(r"  (pass|skipped)(?: \(.*\))?$", row) for row in rows]
        passed, skipped = (sum(e is not None and e[1] == status for e in ends) for status in ("pass", "skipped"))
        assert done.returncode == 0 and last == f"{passed} passed, 0 failed, {skipped} skipped"
        assert passed > 80 and passed + skipped == len(rows)

    def test_verify_fails_with_exit_code_1(self, mini: Path, tmp_path: Path) -> None:
        import shutil

        copy = shutil.copytree(mini, tmp_path / "set")
        edit_json(copy / "model" / "model.json", lambda d: d["cases"]["text"]["greedy_ids"].reverse())
        done = run("verify", str(copy), "--json")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 1
        assert {(r["stage"], r["case"]) for r in rows if r["status"] == "fail"} == {
            ("greedy ids, cached", "text"), ("greedy ids, not cached", "text"),
        }  # fmt: skip

    def test_convert_writes_a_smaller_checkpoint_that_answers(self, tmp_path: Path) -> None:
        out = str(tmp_path / "small")
        done = run("convert", MINI, out, "--quantize", "int8")
        assert done.returncode == 0 and "int8" in done.stdout.decode()
        flags = ["--json", "--max-tokens", "6"]
        small = json.loads(run("ask", "Hello", "--model", out, *flags).stdout)
        loaded = json.loads(run("ask", "Hello", "--model", MINI, "--quantize", "int8", *flags).stdout)
        assert small["token_ids"] == loaded["token_ids"]
        facts = json.loads(run("info", out, "--json").stdout)
        assert facts["quantized"] == "int8" and facts["problem"] is None
        assert facts["memory"]["decoder"] < json.loads(run("info", MINI, "--json").stdout)["memory"]["decoder"]
        assert_sentence(run("convert", MINI, out), "exists already")

    @pytest.mark.slow
    def test_bench_measures_every_stage_and_compares(self, tmp_path: Path) -> None:
        done = run("bench", MINI, "--tokens", "4", "--json")
        assert done.returncode == 0, done.stderr.decode()
        report = json.loads(done.stdout)
        stages = {f["stage"] for f in report["figures"]}
        assert {"load, warm", "vision, 5 tiles", "speech, 10 s", "prefill, 5 tiles", "decode, 5 tiles"} <= stages
        assert all(f["seconds"] > 0 for f in report["figures"]) and all(v > 0 for v in report["peaks"].values())
        file = tmp_path / "before.json"
        file.write_bytes(done.stdout)
        again = run("bench", MINI, "--tokens", "4", "--compare", str(file)).stdout.decode()
        assert '"stage"' not in again, "without --json there is the table only"
        assert sum(line.count("x ") + line.endswith("x") for line in again.splitlines()) >= len(stages)

    def test_bench_refuses_a_report_that_is_not_there(self) -> None:
        assert_sentence(run("bench", MINI, "--compare", "nowhere.txt"), "cannot be read")
        assert_sentence(run("bench", MINI, "--json", "--compare", "nowhere.txt"), "--compare: adds ratios to the table")

    def test_eval_is_for_the_embedded_world(self) -> None:
        assert_sentence(run("eval", MINI), "small world")

    @pytest.mark.parametrize(("flags", "count"), [([], 420), (["--images", "50"], 50), (["--pictures", "50"], 50)])
    def test_eval_passes_the_number_of_images_on(
        self, flags: list[str], count: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The recipe takes ten minutes, so only its command line is looked at; `--pictures` is the old name."""
        ran: list[list[str]] = []

        def note(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
            ran.append(command)
            return subprocess.CompletedProcess(command, 0)

        monkeypatch.setattr("vita.cli.evaluate.subprocess.run", note)
        assert run("eval", *flags).returncode == 0
        (command,) = ran
        assert command[command.index("--pictures") + 1] == str(count)

    def test_doctor_says_what_this_machine_has(self) -> None:
        done = run("doctor")
        assert (done.returncode, done.stderr) == (0, b"")
        lines = done.stdout.decode().splitlines()
        found = {line[6:22].strip(): line[23:] for line in lines}
        assert all(line[:6] in ("ok    ", "note  ") for line in lines) and len(found) == len(lines) >= 12
        assert all("; " in line for line in lines if line.startswith("note")), "a note says what to do"
        assert found["Python"] == platform.python_version() and found["PyTorch"] == torch.__version__
        assert found["CPU"] == f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
        total = psutil.virtual_memory().total
        assert re.fullmatch(rf"\d+\.\d of {total / 1e9:.1f} GB available", found["memory"]), found["memory"]
        assert float(found["memory read"].split()[0]) > 0.1
        assert found["CUDA"].startswith("none") != torch.cuda.is_available()
        size = sum(f.stat().st_size for f in DEFAULT.rglob("*") if f.is_file())
        assert found["embedded model"].endswith(f" {size / 1e6:.1f} MB")
        assert sum("kernels" in name for name in found) == 1

    def test_doctor_says_what_to_mend(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("vita.checkpoint.open.DEFAULT", tmp_path)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        done = run("doctor")
        notes = [line for line in done.stdout.decode().splitlines() if line.startswith("note")]
        assert done.returncode == 0
        assert any("embedded model" in n and "no config.json" in n and "install the package again" in n for n in notes)
        assert any("HEIC" in n and "pip install pillow-heif" in n for n in notes)
        assert any("GPU" in n and "pip install nvidia-ml-py" in n for n in notes)


class TestChat:
    def talk(self, *lines: str) -> tuple[str, str]:
        """What is printed and what is noted, for these lines of input."""
        done = run("chat", "--model", MINI, "--max-tokens", "4", stdin="\n".join(lines).encode())
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode(), done.stderr.decode()

    def test_commands(self, files: Path, mini_model: vita.Vita) -> None:
        """Every line of input has its answer, in order; the answers are those of the same conversation in Python."""
        said, noted = self.talk(
            "Hello", f"/image {files / 'good.png'}", "What is it?", "/image", "/nonsense", "/reset", "/help",
            f"/audio {files / 'good.wav'}", "/image nowhere.png what?", "Still there?", "/system Be brief.", "Hello",
            "/quit", "not reached",
        )  # fmt: skip
        params, chat = vita.SamplingParams(max_tokens=4), mini_model.chat()
        first = [chat.ask("Hello", params=params), chat.ask("What is it?", images=[files / "good.png"], params=params)]
        chat.reset()
        second = [chat.ask(audios=[files / "good.wav"], params=params), chat.ask("Still there?", params=params)]
        third = mini_model.chat(system_text="Be brief.").ask("Hello", params=params)
        assert third.token_ids != first[0].token_ids, "a system text changes the answer, or this would show nothing"
        wanted = [
            first[0].text, "Now the question:", first[1].text, "/image needs the path of a file.",
            "There is no command /nonsense; /help lists them.", "The conversation is forgotten.", HELP,
            second[0].text, second[1].text, "The system text is set; the conversation starts over.", third.text,
        ]  # fmt: skip
        assert said == "\n".join(wanted) + "\n"
        answers = [*first, *second, third]
        assert noted.count("the answer was cut off") == sum(a.finish_reason == "length" for a in answers) > 0
        (mistake,) = [line for line in noted.splitlines() if not line.startswith("vita: note: ")]
        assert mistake.startswith("vita: nowhere.png: no such file")

    def test_help_lists_every_command(self) -> None:
        assert self.talk("/help") == (HELP + "\n", "")
        assert "Ctrl-C stops the answer" in HELP
        for command in re.findall(r"^/\w+", HELP, re.MULTILINE):
            said, _ = self.talk(command)
            assert "There is no command" not in said, command

    def test_the_end_of_input_ends_it(self) -> None:
        assert self.talk() == ("", "")


@pytest.fixture
def question(files: Path) -> Iterator[list[str]]:
    yield ["--model_path", MINI, "--image_path", str(files / "good.png"), "--question", "What is this?"]


class TestDemo:
    def test_the_known_flags_answer(self, files: Path, question: list[str]) -> None:
        done = demo(*question, "--model_type", "qwen2p5_instruct", "--conv_mode", "qwen2p5_instruct")
        assert done.returncode == 0, done.stderr.decode()
        assert "Time consume:" in done.stdout.decode() and "prefill" in done.stderr.decode()

    def test_question_and_audio_may_come_together(
        self, files: Path, question: list[str], mini_model: vita.Vita
    ) -> None:
        done = demo(*question, "--audio_path", str(files / "good.wav"))
        assert done.returncode == 0, done.stderr.decode()
        wanted = mini_model.ask("What is this?", images=[files / "good.png"], audios=[files / "good.wav"])
        assert wanted.text in done.stdout.decode()

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (["--model_type", "mixtral-8x7b"], "--model_type: 'mixtral-8x7b' is another model family's; only qwen2p5"),
            (["--conv_mode", "sonnet"], "--conv_mode: 'sonnet' is unknown"),
            (["--frameCat"], "projector takes five tiles side by side"),
            (["--wrong"], "--wrong"),
            (["--max_tiles", "0"], "--max_tiles: must be 1 to 12, not 0"),
            (["--max_tiles", "many"], "--max_tiles"),
            (["--image_path", "nowhere.png"], "nowhere.png: no such file"),
        ],
    )
    def test_mistakes(self, question: list[str], flags: list[str], said: str) -> None:
        assert_sentence(demo(*question, *flags), said)

    @pytest.mark.parametrize("flag", ["--max_tiles", "--max-tiles"])
    def test_tiles(self, flag: str, tmp_path: Path, mini_model: vita.Vita) -> None:
        file = tmp_path / "wide.png"
        Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 240, 3), np.uint8)).save(file)
        arguments = ["--model_path", MINI, "--image_path", str(file), "--question", "What?"]
        one = mini_model.ask("What?", images=[file], options=vita.MediaOptions(max_tiles=1))
        many = mini_model.ask("What?", images=[file])
        assert one.usage.tiles == 1 < many.usage.tiles
        assert f"1 tile, {one.usage.image_tokens} tokens" in demo(*arguments, flag, "1").stderr.decode()
        assert f"{many.usage.tiles} tiles, {many.usage.image_tokens} tokens" in demo(*arguments).stderr.decode()

    def test_help_explains_every_flag(self) -> None:
        done = demo("--help")
        shown = done.stdout.decode()
        assert done.returncode == 0 and "examples:" in shown
        options = shown.split("options:")[1].split("examples:")[0]
        for entry in re.split(r"\n  (?=-)", options.strip("\n")):
            assert re.search(r" {2,}\w+|\n +\w+", entry.strip()), f"not explained: {entry}"
        assert "--say_next" not in shown

    def test_no_question(self, files: Path) -> None:
        assert_sentence(demo("--image_path", str(files / "good.png")), "there is no question")
        assert_sentence(demo("--model_base", MINI, "--question", "x"), "--model_base: needs --model_path")

"""`vita ask`: right answers on stdout; one sentence and exit code 2 for every mistake."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tests.cli.commands import ENV, MINI, assert_sentence, process, run
from tests.forks import Forks

import vita
from vita.cli.guard import SHOW_CURSOR


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

    def test_streamed_whole_and_python_give_one_text(self, forks: Forks, mini_model: vita.Vita) -> None:
        flags = ["ask", "Hello", "--model", MINI, "--dtype", "float32", "--max-tokens", "12"]
        streamed, whole = process(forks, *flags), run(*flags, "--no-stream")
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

    @pytest.mark.slow
    def test_a_closed_pipe_is_quiet(self, forks: Forks) -> None:
        """The answer is as long as the context, and whoever reads it leaves after a byte."""
        command = [sys.executable, "-c", "from vita.cli import main; main()", "ask", "Hello", "--model", MINI,
                   "--max-tokens", "1000000", "--repetition-penalty", "1.3"]  # fmt: skip
        process = forks.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV)
        try:
            assert process.stdout is not None and process.stderr is not None
            assert len(process.stdout.read(1)) == 1
            process.stdout.close()
            error = process.stderr.read()
            assert (process.wait(timeout=60), error) == (0, b"")
        finally:
            process.kill()

    @pytest.mark.parametrize("command", [("ask", "Hello"), ("chat",)])
    def test_a_full_disk_is_one_sentence(self, forks: Forks, command: tuple[str, ...]) -> None:
        full = Path("/dev/full")
        if not full.exists():
            pytest.skip("SKIPPED LOUDLY: this system has no /dev/full")
        line = [sys.executable, "-c", "from vita.cli import main; main()", *command, "--model", MINI]
        with full.open("wb") as disk:
            done = forks.run(
                [*line, "--max-tokens", "3"], input=b"Hello\n", stdout=disk, stderr=subprocess.PIPE, env=ENV, timeout=99
            )
        assert done.returncode == 2 and b"no space is left" in done.stderr and b"Traceback" not in done.stderr

    def test_a_clip_from_stdin_is_seen_and_heard(self, files: Path) -> None:
        flags = ["--model", MINI, "--video", "-", "--audio-from-video", "--max-tokens", "3"]
        assert_sentence(run("ask", *flags, stdin=(files / "good.mp4").read_bytes()), "has no audio in it")

    def test_bytes_that_are_no_text_are_read_as_well_as_can_be(self) -> None:
        flags = ["--model", MINI, "--max-tokens", "3", "--json"]
        done = run("ask", "-", *flags, stdin=b"Hello \xff\n")
        assert done.returncode == 0, done.stderr
        asked = json.loads(run("ask", "Hello \ufffd", *flags).stdout)
        assert json.loads(done.stdout)["token_ids"] == asked["token_ids"]

    @pytest.mark.parametrize(
        "moment", ["importing", pytest.param("opening", marks=pytest.mark.slow), "loading", "answering"]
    )
    def test_ctrl_c_leaves_quietly(self, forks: Forks, moment: str) -> None:
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
        start = subprocess.Popen if moment == "importing" else forks.popen
        process = start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV, bufsize=0)
        try:
            assert process.stdout is not None
            before = process.stdout.read(6 if event else 1)
            process.send_signal(signal.SIGINT)
            said, error = process.communicate(timeout=60)
        finally:
            process.kill()
        assert (process.returncode, error) == (130, b"")
        assert (before, said) == (b"paused", b"") if event else before

    @pytest.mark.parametrize("interrupt", [False, True])
    @pytest.mark.slow
    def test_a_terminal_shows_progress_while_loading_and_ctrl_c_clears_it(self, forks: Forks, interrupt: bool) -> None:
        """stderr is a terminal; opening the weights takes a second, or until the signal comes."""
        code = (
            "import sys, time\n"
            "def pause(event, arguments):\n"
            "    if event == 'open' and str(arguments[0]).endswith('.safetensors'):\n"
            f"        time.sleep({99 if interrupt else 1})\n"
            "sys.addaudithook(pause)\n"
            "from vita.cli import main; main()"
        )
        terminal, theirs = pty.openpty()
        command = [sys.executable, "-c", code, "ask", "Hello", "--model", MINI, "--max-tokens", "3"]
        process = forks.popen(command, stdout=subprocess.PIPE, stderr=theirs, env=ENV | {"TERM": "xterm"})
        os.close(theirs)
        try:
            shown = b""
            while b"loading the model" not in shown:
                shown += os.read(terminal, 4096)
            if interrupt:
                process.send_signal(signal.SIGINT)
            with contextlib.suppress(OSError):  # what reading says once the process has left its terminal
                while more := os.read(terminal, 4096):
                    shown += more
            said, _ = process.communicate(timeout=60)
        finally:
            process.kill()
            os.close(terminal)
        assert shown.rindex(SHOW_CURSOR.encode()) > shown.rindex(b"\x1b[?25l") and b"Traceback" not in shown
        assert (process.returncode, said == b"") == ((130, True) if interrupt else (0, False))


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
        lambda f: ["ask", "--video", str(f / "good.mp4"), "--audio-from-video"], ("good.mp4", "no audio"),
    ),
    "audio of no video": (lambda f: ["ask", "x", "--audio-from-video"], ("--audio-from-video", "needs a --video")),
    "video times": (lambda f: ["ask", "x", "--video", str(f / "good.mp4"), "--start", "9"], ("good.mp4",)),
    "frames": (
        lambda f: ["ask", "x", "--video", str(f / "good.mp4"), "--max-frames", "0"],
        ("--max-frames: must be 1 or more, not 0",),
    ),
    "no rate": (lambda f: ["ask", "x", "--video", str(f / "good.mp4"), "--fps", "0"], ("--fps: must be more than 0",)),
    "times crossed": (
        lambda f: ["ask", "x", "--video", str(f / "good.mp4"), "--start", "3", "--end", "1"],
        ("--start: 3 s is after --end, 1 s; swap them",),
    ),
    "tiles": (lambda f: ["ask", "x", "--max-tiles", "0"], ("--max-tiles: must be 1 to 12, not 0",)),
    "tiles of a missing image": (
        lambda f: ["ask", "x", "--image", str(f / "no.png"), "--max-tiles", "13"], ("--max-tiles: must be 1 to 12",),
    ),
    "no network": (lambda f: ["ask", "x", "--image", "http://127.0.0.1:9/a.png"], ("127.0.0.1",)),
    "unknown scheme": (lambda f: ["ask", "x", "--image", "ftp://host/a.png"], ("ftp://host/a.png",)),
    "tokens": (lambda f: ["ask", "x", "--max-tokens", "0"], ("--max-tokens: must be 1 or more",)),
    "tokens no number": (lambda f: ["ask", "x", "--max-tokens", "many"], ("--max-tokens", "integer")),
    "top p": (lambda f: ["ask", "x", "--top-p", "2"], ("--top-p: must be over 0 and at most 1",)),
    "voice alone": (lambda f: ["ask", "x", "--voice", "espeak"], ("vita: --voice: is about speech; add --speak FILE",)),
    "language alone": (lambda f: ["ask", "x", "--language", "de"], ("vita: --language: is about speech; add",)),
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
        lambda f: ["info", MINI, "--memory", "1GB", "--quantize", "int8"],
        ("--memory: cannot be used with --quantize",),
    ),
    "memory too little": (lambda f: ["ask", "x", "--memory", "1MB"], ("--memory: the smallest variant", "are allowed")),
    "kv cache": (lambda f: ["chat", "--model", MINI, "--kv-cache", "int2"], ("--kv-cache: unknown format 'int2'",)),
    "seed": (lambda f: ["ask", "x", "--seed", str(2**70)], ("seed",)),
    "base alone": (
        lambda f: ["ask", "x", "--base", MINI],
        ("--base: needs a model, the LoRA folder; name that folder as --model",),
    ),
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

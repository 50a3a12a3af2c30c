"""`vita chat`: every line has its answer; Ctrl-C stops the answer and keeps the turn."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.cli.commands import ENV, MINI, reader_at, run

import vita
from vita.cli.chat import HELP, ChatFlags, Conversation
from vita.options import EngineOptions


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

    def test_the_flags_of_ask_reach_the_model(self, tmp_path: Path, mini_model: vita.Vita) -> None:
        file = tmp_path / "wide.png"
        Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 240, 3), np.uint8)).save(file)
        sampling = vita.SamplingParams(
            max_tokens=4, temperature=1.5, top_p=0.9, top_k=50, min_p=0.001, repetition_penalty=1.2, seed=3, stop="zzz"
        )
        flags = ["--temperature", "1.5", "--top-p", "0.9", "--top-k", "50", "--min-p", "0.001", "--seed", "3",
                 "--repetition-penalty", "1.2", "--stop", "zzz", "--max-tiles", "1", "--image", str(file)]  # fmt: skip
        done = run("chat", "--model", MINI, "--max-tokens", "4", *flags, stdin=b"What is it?")
        chat = mini_model.chat(options=vita.MediaOptions(max_tiles=1))
        assert done.stdout.decode() == chat.ask("What is it?", images=[file], params=sampling).text + "\n"
        assert done.stdout.decode() != mini_model.chat().ask("What is it?", images=[file], params=sampling).text + "\n"

    def test_help_lists_every_command(self) -> None:
        assert self.talk("/help") == (HELP + "\n", "")
        assert "Ctrl-C stops the answer" in HELP
        for command in re.findall(r"^/\w+", HELP, re.MULTILINE):
            said, _ = self.talk(command)
            assert "There is no command" not in said, command

    def test_the_end_of_input_ends_it(self) -> None:
        assert self.talk() == ("", "")

    @pytest.mark.parametrize("pieces", [1, 3])
    def test_ctrl_c_keeps_the_turn_with_its_image_and_what_was_said(
        self, pieces: int, files: Path, mini_model: vita.Vita, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """Ctrl-C after so many pieces; the next question sees the image and the text that was printed."""
        params = vita.SamplingParams(max_tokens=200, repetition_penalty=1.3)
        talk = Conversation(mini_model, chat_flags(params, images=(str(files / "good.png"),)))
        real, written = sys.stdout.write, [0]

        def write(text: str) -> int:
            count = real(text)
            written[0] += 1
            if written[0] == pieces:
                signal.raise_signal(signal.SIGINT)
            return count

        with monkeypatch.context() as patch:
            patch.setattr(sys.stdout, "write", write)
            talk.ask("What is it?")
        said, error = capsys.readouterr()
        assert said.endswith("\n(stopped)\n") and error == ""
        said = said.removesuffix("\n(stopped)\n")
        question, *answer = talk.chat.turns
        assert (question.role, question.images) == ("user", 1)
        assert [turn.pieces[0] for turn in answer] == [said] and len(said) >= pieces
        talk.ask("And now?")
        after = capsys.readouterr().out
        same = mini_model.session()
        for turn in (question, *answer):
            same.add(turn)
        assert after == same.submit(vita.user("And now?"), params).result().text + "\n"

    def test_media_of_a_question_that_was_stopped_unread_go_with_the_next_one(
        self, files: Path, tmp_path: Path, mini_model: vita.Vita, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pipe = tmp_path / "image"
        os.mkfifo(pipe)
        talk = Conversation(mini_model, chat_flags(vita.SamplingParams(max_tokens=4), images=(str(pipe),)))
        main = threading.get_ident()

        def interrupt() -> None:
            writers.append(reader_at(pipe))
            signal.pthread_kill(main, signal.SIGINT)

        writers: list[int] = []
        other = threading.Thread(target=interrupt)
        other.start()
        talk.ask("What is it?")
        other.join()
        os.close(*writers)
        assert capsys.readouterr().out == "\n(stopped; the media go with the next question)\n"
        assert talk.pending.images == [str(pipe)] and talk.chat.turns == ()

    def test_ctrl_c_in_a_terminal_stops_the_answer_only(self) -> None:
        """Twice, as a user does it: the answers are as long as the context, and Ctrl-D ends the program."""
        terminal, theirs = pty.openpty()
        command = [sys.executable, "-m", "vita", "chat", "--model", MINI, "--max-tokens", "1000000",
                   "--repetition-penalty", "1.3"]  # fmt: skip
        process = subprocess.Popen(
            command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV, bufsize=0
        )
        said = b""
        try:
            assert process.stdout is not None and process.stderr is not None
            for number in 1, 2:
                os.write(terminal, b"Hello\n")
                said = read_until(process.stdout, said, lambda s: b"\n> " in s and len(s.split(b"\n> ")[-1]) > 3)
                process.send_signal(signal.SIGINT)
                said = read_until(process.stdout, said, lambda s, n=number: s.count(b"\n(stopped)\n> ") == n)
            os.write(terminal, b"\x04")
            error = process.stderr.read()
            assert (process.wait(timeout=60), error) == (0, b"")
        finally:
            process.kill()
            os.close(terminal)
            os.close(theirs)

    def test_ctrl_c_leaves_a_chat_that_reads_a_pipe(self) -> None:
        command = [sys.executable, "-m", "vita", "chat", "--model", MINI, "--max-tokens", "3"]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV, bufsize=0
        )
        try:
            assert process.stdin is not None and process.stdout is not None and process.stderr is not None
            process.stdin.write(b"/nonsense\n")
            assert process.stdout.read(9) == b"There is "
            process.send_signal(signal.SIGINT)
            assert (process.wait(timeout=60), process.stderr.read()) == (130, b"")
        finally:
            process.kill()


def chat_flags(params: vita.SamplingParams, images: tuple[str, ...] = ()) -> ChatFlags:
    """Flags of a chat with the mini model, which is loaded already."""
    return ChatFlags(
        model=MINI, base=None, options=EngineOptions(), params=params, system=None, images=images, videos=(), audios=(),
        fps=1.0, max_frames=16, media=vita.MediaOptions(), verbose=False,
    )  # fmt: skip


def read_until(stream: Any, said: bytes, enough: Callable[[bytes], bool]) -> bytes:
    """What a process has said, once it is enough."""
    while not enough(said):
        more = stream.read(64)
        assert more, said
        said += more
    return said

"""`vita chat` line by line: every line has its answer; Ctrl-C stops the answer and keeps the turn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.commands import ENV, MINI, Ended, assert_sentence, reader_at, run
from tests.forks import Forks

import vita
from vita.cli.chat.commands import COMMANDS, describe_model, help_text
from vita.cli.chat.conversation import ChatFlags, Conversation
from vita.options import EngineOptions


def chat_flags(params: vita.SamplingParams, system: str | None = None) -> ChatFlags:
    """Flags of a chat with the mini model, which is loaded already."""
    return ChatFlags(
        model=MINI, base=None, options=EngineOptions(dtype="float32", device="cpu"), params=params, system=system,
        images=(), videos=(), audios=(), fps=1.0, max_frames=16, media=vita.MediaOptions(), verbose=False,
    )  # fmt: skip


class TestChat:
    def talk(self, *lines: str, code: int = 0) -> tuple[str, str]:
        """What is printed and what is noted, for these lines of input."""
        done = run("chat", "--model", MINI, "--max-tokens", "4", stdin="".join(line + "\n" for line in lines).encode())
        assert done.returncode == code, done.stderr.decode()
        return done.stdout.decode(), done.stderr.decode()

    def test_commands(self, files: Path, mini_model: vita.Vita, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every line of input has its answer, in order; the answers are those of the same conversation in Python.
        Answers and lists are printed, all else is noted; the exit code tells that lines failed."""
        monkeypatch.setenv("COLUMNS", "80")
        said, noted = self.talk(
            "Hello", f"/image {files / 'good.png'}", "What is it?", "/image", "/imgae", "/reset", "/help",
            f"/audio {files / 'good.wav'}", "/image nowhere.png what?", "Still there?", "/system", "/system Be brief.",
            "Hello", "/system", "/quit", "not reached", code=2,
        )  # fmt: skip
        params, chat = vita.SamplingParams(max_tokens=4), mini_model.chat()
        first = [chat.ask("Hello", params=params), chat.ask("What is it?", images=[files / "good.png"], params=params)]
        chat.reset()
        second = [chat.ask(audios=[files / "good.wav"], params=params), chat.ask("Still there?", params=params)]
        third = mini_model.chat(system_text="Be brief.").ask("Hello", params=params)
        assert third.token_ids != first[0].token_ids, "a system text changes the answer, or this would show nothing"
        wanted = [
            first[0].text, first[1].text, help_text(80), second[0].text, second[1].text,
            "The built-in system text is used.", third.text, "Be brief.",
        ]  # fmt: skip
        assert said == "\n".join(wanted) + "\n"
        answers = [*first, *second, third]
        assert noted.count("the answer was cut off") == sum(a.finish_reason == "length" for a in answers) > 0
        assert [line for line in noted.splitlines() if not line.startswith("vita: note: ")] == [
            f"{files / 'good.png'}: image, 80 x 50 pixels, 7 tiles",
            "vita: /image: needs the path of a file.",
            "vita: there is no command /imgae; did you mean /image? /help lists the commands.",
            "The conversation is forgotten.",
            f"{files / 'good.wav'}: audio, 1.0 s",
            "vita: nowhere.png: no such file; check the path.",
            "The system text is set; the conversation starts over.",
        ]

    @pytest.mark.parametrize("columns", [20, 40, 60, 80, 100, 120])
    def test_help_fits_the_terminal(self, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        said, _ = self.talk("/help")
        widest = max(map(len, said.splitlines()))
        assert widest <= max(columns, len("/regenerate [TEMPERATURE]")) and (columns > 100 or widest > columns - 12)
        words = said.split()
        for name, command in COMMANDS.items():
            help = command.help.split()
            at = [k for k in range(len(words)) if words[k : k + len(help)] == help]
            assert name == "exit" or (at and f"/{name}" in words), f"/{name} is not explained at {columns} columns"
        assert "Ctrl-C stops the answer" in " ".join(words)

    def test_dropped_files(self, files: Path, mini_model: vita.Vita) -> None:
        """A path alone attaches the file; an empty line asks about audio. Media come in the order of training."""
        said, noted = self.talk(
            f"{files / 'good.wav'} ", f"'{files / 'good.png'}'", "What is it?",
            f"file://{files / 'good.mp4'} And this?", "", f"{files / 'good.wav'}", "",
        )  # fmt: skip
        params, chat = vita.SamplingParams(max_tokens=4), mini_model.chat()
        answers = [
            chat.ask("What is it?", images=[files / "good.png"], audios=[files / "good.wav"], params=params),
            chat.ask("And this?", videos=[files / "good.mp4"], params=params),
            chat.ask(audios=[files / "good.wav"], params=params),
        ]
        assert said == "".join(answer.text + "\n" for answer in answers)
        assert f"{files / 'good.mp4'}: video, 3.0 s, 64 x 64 pixels, 4 frames\n" in noted
        assert noted.count("shown to the model more than once") == 1, "a note about a file is not repeated"

    def test_media_without_a_question_are_an_error_of_a_script(self, files: Path) -> None:
        _, noted = self.talk("Hello", str(files / "good.png"), code=2)
        assert noted.endswith("vita: image: attached, but no question followed; add one.\n")

    @pytest.mark.parametrize("name", ["cut.png", "text.png", "bomb.png", "noise.wav", "noise.mp4", "", "empty.mp4"])
    def test_a_bad_file_fails_when_it_is_attached_and_the_chat_goes_on(self, name: str, files: Path) -> None:
        said, noted = self.talk(str(files / name), "/detach", code=2)
        first, second = noted.splitlines()
        assert said == "" and first.startswith("vita: ") and name in first and second == "Nothing is attached."

    def test_an_animated_image_is_a_video(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue", "white")]
        for name, more in ("still.gif", []), ("moving.gif", frames[1:]), ("moving.webp", frames[1:]):
            frames[0].save(tmp_path / name, save_all=True, append_images=more, duration=500)
        (tmp_path / "strange").write_bytes(b"?")
        _, noted = self.talk(*(str(tmp_path / name) for name in ("still.gif", "moving.gif", "moving.webp", "strange")),
                             "/detach", code=2)  # fmt: skip
        lines = [line for line in noted.splitlines() if not line.startswith("vita: ")]
        assert [line.rpartition("/")[2].split(",")[0] for line in lines[:3]] == [
            "still.gif: image", "moving.gif: video", "moving.webp: video",
        ]  # fmt: skip
        assert "strange: the name does not say what it is; write /image, /video or /audio before it.\n" in noted

    def test_lines_may_go_on_and_hold_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        lines = f"First\\\nsecond \xff\\\n\\\nlast\n/save {tmp_path / 'a.json'}\n"
        done = run("chat", "--model", MINI, "--max-tokens", "2", stdin=lines.encode("latin-1"))
        assert done.returncode == 0, done.stderr
        question, answer = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["messages"]
        assert question == {"role": "user", "content": "First\nsecond \ufffd\n\nlast", "media": []}
        assert answer["content"] + "\n" == done.stdout.decode()

    @pytest.mark.parametrize("name", ["missing.png", "empty.png"])
    def test_a_file_on_the_command_line_is_checked_before_the_model_is_loaded(self, name: str, files: Path) -> None:
        assert_sentence(run("chat", "--model", "no/such/model", "--image", str(files / name)), name)

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

    def test_the_end_of_input_ends_it(self) -> None:
        assert self.talk() == ("", "")

    @pytest.mark.parametrize("pieces", [1, 3])
    def test_ctrl_c_keeps_the_turn_with_its_image_and_what_was_said(
        self, pieces: int, files: Path, mini_model: vita.Vita, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """Ctrl-C after so many pieces; the next question sees the image and the text that was printed."""
        params = vita.SamplingParams(max_tokens=200, repetition_penalty=1.3)
        talk = Conversation(mini_model, chat_flags(params))
        assert talk.handle(f"/image {files / 'good.png'}")
        capsys.readouterr()
        real, written = sys.stdout.write, [0]

        def write(text: str) -> int:
            count = real(text)
            written[0] += 1
            if written[0] == pieces:
                signal.raise_signal(signal.SIGINT)
            return count

        with monkeypatch.context() as patch:
            patch.setattr(sys.stdout, "write", write)
            assert talk.handle("What is it?")
        said, error = capsys.readouterr()
        assert said.endswith("\n") and error == "(stopped)\n"
        said = said.removesuffix("\n")
        question, *answer = talk.session.turns
        assert (question.role, question.images) == ("user", 1)
        assert [turn.pieces[0] for turn in answer] == [said] and len(said) >= pieces
        assert not talk.pending and talk.exchanges[0].answer == said
        talk.handle("And now?")
        after = capsys.readouterr().out
        same = mini_model.session()
        for turn in (question, *answer):
            same.add(turn)
        assert after == same.submit(vita.user("And now?"), params).result().text + "\n"

    def test_ctrl_c_while_a_file_is_read_keeps_what_is_attached(
        self, files: Path, tmp_path: Path, mini_model: vita.Vita, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pipe = tmp_path / "image"
        os.mkfifo(pipe)
        talk = Conversation(mini_model, chat_flags(vita.SamplingParams(max_tokens=4)))
        talk.handle(f"/image {files / 'good.png'}")
        capsys.readouterr()
        main = threading.get_ident()

        def interrupt() -> None:
            writers.append(reader_at(pipe))
            time.sleep(0.3)  # a signal between the opening and the read would be seen after the read only
            signal.pthread_kill(main, signal.SIGINT)

        writers: list[int] = []
        other = threading.Thread(target=interrupt)
        other.start()
        assert talk.handle(f"/image {pipe}")
        other.join()
        os.close(*writers)
        assert capsys.readouterr() == ("", "\n(stopped)\n")
        assert [item.path for item in talk.pending] == [str(files / "good.png")] and talk.session.turns == ()

    def test_media_of_a_question_that_failed_go_with_the_next_one(
        self, files: Path, mini_model: vita.Vita, capsys: pytest.CaptureFixture[str]
    ) -> None:
        params = vita.SamplingParams(max_tokens=4)
        talk = Conversation(mini_model, chat_flags(params))
        talk.handle(f"/image {files / 'good.png'}")
        talk.handle("too long " * 20_000)
        assert "the model's context is" in capsys.readouterr().err and talk.failures == 1
        talk.handle("What is it?")
        answer = mini_model.ask("What is it?", images=[files / "good.png"], params=params)
        assert capsys.readouterr().out == answer.text + "\n" and not talk.pending

    def test_ctrl_c_leaves_a_chat_that_reads_a_pipe(self, forks: Forks) -> None:
        command = [sys.executable, "-m", "vita", "chat", "--model", MINI, "--max-tokens", "3"]
        process = forks.popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV, bufsize=0
        )
        try:
            assert process.stdin is not None and process.stdout is not None and process.stderr is not None
            process.stdin.write(b"/nonsense\n")
            wanted = b"vita: there is no command /nonsense; /help lists the commands.\n"
            assert process.stderr.read(len(wanted)) == wanted
            process.send_signal(signal.SIGINT)
            assert (process.wait(timeout=60), process.stdout.read(), process.stderr.read()) == (130, b"", b"")
        finally:
            process.kill()


class TestRegenerate:
    def test_another_answer_takes_the_place_of_the_last_one(
        self, mini_model: vita.Vita, capsys: pytest.CaptureFixture[str]
    ) -> None:
        params = vita.SamplingParams(max_tokens=8, temperature=2.0, seed=5)
        talk = Conversation(mini_model, chat_flags(params))
        for line in ("Hello", "And?", "/regenerate", "/regenerate", "/regenerate 0"):
            assert talk.handle(line)
        answers = capsys.readouterr().out.removesuffix("\n").split("\n")
        assert len(answers) == 5 and len(set(answers[1:])) > 2, "a seed does not make it the same answer again"
        assert [turn.pieces[0] for turn in talk.session.turns] == ["Hello", answers[0], "And?", answers[4]]
        assert [(e.question, e.answer) for e in talk.exchanges] == [("Hello", answers[0]), ("And?", answers[4])]
        chat = mini_model.session()
        for turn in talk.session.turns[:2]:
            chat.add(turn)
        greedy = chat.submit(vita.user("And?"), vita.SamplingParams(max_tokens=8)).result()
        assert greedy.text == answers[4]

    def test_greedy_answers_are_sampled(self, mini_model: vita.Vita) -> None:
        talk = Conversation(mini_model, chat_flags(vita.SamplingParams(max_tokens=12)))
        answers = []
        for line in ("Hello", *["/regenerate"] * 4):  # a sampled answer may by chance be the greedy one
            assert talk.handle(line)
            answers.append(talk.exchanges[-1].answer)
        assert len(set(answers)) > 1

    @pytest.mark.parametrize(
        ("lines", "said"),
        [
            (["/regenerate"], "there is no question yet"),
            (["Hello", "/regenerate warm"], "'warm' is not a temperature"),
            (["Hello", "/regenerate 11"], "temperature"),
            (["Hello", "/regenerate nan"], "temperature"),
        ],
    )
    def test_what_cannot_be_done_changes_nothing(
        self, lines: list[str], said: str, mini_model: vita.Vita, capsys: pytest.CaptureFixture[str]
    ) -> None:
        talk = Conversation(mini_model, chat_flags(vita.SamplingParams(max_tokens=4)))
        turns = []
        for line in lines:
            turns = list(talk.session.turns)
            assert talk.handle(line)
        assert said in capsys.readouterr().err and (talk.failures, list(talk.session.turns)) == (1, turns or [])


class TestModel:
    def test_another_model_takes_the_place_of_the_first(
        self, mini: Path, files: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        params = vita.SamplingParams(max_tokens=4)
        talk = Conversation(vita.load(MINI, dtype="float32", device="cpu"), chat_flags(params))
        shown = describe_model(MINI, talk.model)
        for line in ("/model", f"/image {files / 'good.png'}", "/model no/such/model", "Hello"):
            assert talk.handle(line)
        said, noted = capsys.readouterr()
        assert said.startswith(shown + "\n") and "no/such/model" in noted and len(talk.session.turns) == 2
        old, hello = talk.model, talk.exchanges[0].answer
        assert len(talk.exchanges) == 1 and not talk.pending, "the image went with the question"
        talk.handle(str(files / "good.png"))
        talk.handle("/model default")
        assert not old.engine.is_healthy and talk.session.turns == () and talk.exchanges == []
        assert capsys.readouterr().out.startswith("default: 7.9 million parameters, float32 on cpu, context of 4096")
        assert talk.pending[0].describe().endswith("80 x 50 pixels, 3 tiles"), "it is cut as the new model wants it"
        talk.handle("/detach")
        talk.handle(f"/model '{MINI}'")
        talk.handle("Hello")
        assert talk.exchanges[0].answer != hello, "this time without the image"
        assert talk.exchanges[0].answer == talk.model.ask("Hello", params=params).text
        talk.model.close()

    def test_the_first_model_comes_back_if_the_other_cannot_be_loaded(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        broken = tmp_path / "broken"
        broken.mkdir()
        for file in Path(MINI).iterdir():
            if "safetensors" not in file.name:
                (broken / file.name).symlink_to(file)
        from safetensors.numpy import save_file

        save_file({"nothing": np.zeros(3, np.float32)}, str(broken / "model.safetensors"))
        talk = Conversation(
            vita.load(MINI, dtype="float32", device="cpu"), chat_flags(vita.SamplingParams(max_tokens=4))
        )
        assert talk.handle(f"/model {broken}")
        assert "vita: " in capsys.readouterr().err and talk.failures == 1
        assert talk.handle("Hello") and talk.session.turns and talk.name == MINI
        talk.model.close()

    def test_a_second_interrupt_while_the_first_model_comes_back_ends_the_chat(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        talk = Conversation(vita.load(MINI, dtype="float32", device="cpu"), chat_flags(vita.SamplingParams()))

        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("vita.cli.chat.conversation.load_model", interrupted)
        with pytest.raises(KeyboardInterrupt):
            talk.handle("/model default")


class TestSave:
    def save(self, name: str, *lines: str) -> Ended:
        text = "\n".join([*lines, f"/save {name}"])
        return run("chat", "--model", MINI, "--max-tokens", "4", "--system", "Be brief.", stdin=text.encode())

    def test_markdown_and_json(self, files: Path, tmp_path: Path) -> None:
        lines = ("/image " + str(files / "good.png") + " What is it?", str(files / "good.wav"), "")
        done = self.save(str(tmp_path / "my chat.md"), *lines)
        first, second = done.stdout.decode().removesuffix("\n").split("\n")
        assert done.returncode == 0 and f"The conversation is saved in {tmp_path}/my chat.md.\n" in done.stderr.decode()
        assert (tmp_path / "my chat.md").read_text(encoding="utf-8") == (
            f"# Conversation with {MINI}\n\nSystem text: Be brief.\n\n"
            f"**You:**\n[image: {files}/good.png]\nWhat is it?\n\n**VITA:**\n{first}\n\n"
            f"**You:**\n[audio: {files}/good.wav]\n\n**VITA:**\n{second}\n"
        )
        assert self.save(f"'{tmp_path}/a.json'", *lines).returncode == 0
        saved = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
        assert (saved["model"], saved["system"]) == (MINI, "Be brief.")
        assert saved["messages"] == [
            {"role": "user", "content": "What is it?", "media": [{"kind": "image", "path": f"{files}/good.png"}]},
            {"role": "assistant", "content": first},
            {"role": "user", "content": "", "media": [{"kind": "audio", "path": f"{files}/good.wav"}]},
            {"role": "assistant", "content": second},
        ]

    def test_what_cannot_be_saved(self, tmp_path: Path) -> None:
        (tmp_path / "a.md").write_text("mine")
        for name, lines, said in (
            (tmp_path / "a.md", ["Hello"], "a.md: exists already; choose another name."),
            (tmp_path / "no" / "a.md", ["Hello"], "a.md: cannot be written (No such file or directory)"),
            (tmp_path / "b.md", [], "/save: there is nothing to save yet; ask a question first."),
        ):
            done = self.save(str(name), *lines)
            assert (done.returncode, said in done.stderr.decode()) == (2, True), done.stderr
        assert (tmp_path / "a.md").read_text() == "mine" and not (tmp_path / "b.md").exists()

"""`vita chat` in a terminal, key by key: completion, history, several lines, Ctrl-C and Ctrl-D, the plain fallback."""

from __future__ import annotations

import json
import shutil
import stat
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from prompt_toolkit.history import FileHistory, InMemoryHistory
from scripts.terminal import ALT_ENTER, CTRL_C, CTRL_D, UP, Terminal, start_process
from tests.cli.commands import ENV, MINI
from tests.forks import Forks

from vita.cli.chat.commands import help_text
from vita.cli.chat.history import history_file, open_history, shorten
from vita.cli.chat.loop import WELCOME

PASTE = "\x1b[200~{}\x1b[201~"
Start = Callable[..., Terminal]


@pytest.fixture
def folder(tmp_path: Path, files: Path) -> Path:
    """Where the chat runs: an image in a folder with a space in its name."""
    (tmp_path / "my pics").mkdir()
    shutil.copy(files / "good.png", tmp_path / "my pics" / "good one.png")
    return tmp_path


def start(folder: Path, forks: Forks | None, *flags: str, **environment: str) -> Terminal:
    """A chat whose answers are a few tokens long, at its first prompt."""
    command = [sys.executable, "-m", "vita", "chat", "--model", MINI, "--max-tokens", "3", *flags]
    env = ENV | {"VITA_HISTORY": str(folder / "state" / "history"), "TERM": "xterm-256color"} | environment
    how = start_process if forks is None else forks.in_terminal
    terminal = Terminal(command, columns=120, rows=120, env=env, cwd=folder, start=how)
    terminal.wait(lambda screen: screen.endswith("\n>"), seconds=150)
    assert terminal.lines[-2] == WELCOME
    return terminal


def at_prompt(prompt: str, count: int) -> Callable[[str], bool]:
    """The last line is this prompt, and the prompt has been shown so often before."""
    return lambda screen: (
        screen.split("\n")[-1] == prompt and sum(line.startswith(prompt) for line in screen.split("\n")) == count
    )


@pytest.mark.slow
def test_tab_history_and_the_end(forks: Forks, folder: Path) -> None:
    with start(folder, forks) as chat:
        chat.type("/im\t")
        chat.wait("> /image")
        chat.type("m\tg\t")
        chat.wait("> /image my\\ pics/good\\ one.png")
        chat.type("\r")
        chat.wait("\n[image] >")
        assert chat.lines[-2] == "my pics/good one.png: image, 80 x 50 pixels, 7 tiles"
        chat.type("What is it?\r")
        chat.wait(at_prompt(">", 2))
        chat.type("/s\t\t")
        assert all(word in chat.wait("replace the system text") for word in ("/save", "/system"))
        chat.type(CTRL_C + "/reg\t\r" + CTRL_D)  # a quick typist's Enter takes what Tab has completed
        assert chat.end() == 0
        assert chat.lines[-1] == ">", "and the shell's prompt stands on a line of its own"
        assert chat.screen.cursor.x == 0 and chat.screen.cursor.y == len(chat.lines)
        assert "> /regenerate" in chat.lines and "no command" not in chat.text
    history = folder / "state" / "history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    kept = list(FileHistory(str(history)).load_history_strings())
    assert kept == ["/regenerate ", "What is it?", "/image my\\ pics/good\\ one.png"]
    with start(folder, forks) as chat:
        chat.type(UP * 2)
        chat.wait("> What is it?")
        chat.type(CTRL_C + CTRL_D)
        assert chat.end() == 0


@pytest.mark.slow
def test_a_narrow_terminal_breaks_no_word(folder: Path) -> None:
    """The welcome and /help have the width of the terminal, and no line of theirs is wrapped by it."""
    command = [sys.executable, "-m", "vita", "chat", "--model", MINI]
    env = ENV | {"VITA_HISTORY": "off", "TERM": "xterm-256color"}
    with Terminal(command, columns=60, rows=90, env=env, cwd=folder) as chat:
        chat.wait(lambda screen: screen.endswith("\n>"), seconds=150)
        assert chat.lines[-3:-1] == textwrap.wrap(WELCOME, 60)
        chat.type("/help\r")
        chat.wait(at_prompt(">", 2))
        assert help_text(60) in chat.text
        chat.type(CTRL_D)
        assert chat.end() == 0


def test_ctrl_c_keeps_what_is_attached_and_stops_an_answer(forks: Forks, folder: Path) -> None:
    with start(folder, forks, "--max-tokens", "1000000") as chat:
        chat.type(PASTE.format(f"'{folder}/my pics/good one.png' ") + "\r")  # as a terminal drops a file
        chat.wait("\n[image] >")
        chat.type("half a question" + CTRL_C)
        chat.wait(at_prompt("[image] >", 2))
        assert "Ctrl-C once more" not in chat.text
        chat.type(CTRL_C)
        chat.wait(at_prompt("[image] >", 3))
        assert "(Ctrl-C once more, or Ctrl-D, to leave)" in chat.lines
        for count, question in enumerate(("Hello", "Why?"), start=1):  # their answers are over 1,000 tokens long
            chat.type(question + "\r")
            chat.wait(lambda screen, asked=f"> {question}\n": len(screen.partition(asked)[2]) > 3)
            chat.type(CTRL_C)
            chat.wait(lambda screen: screen.endswith("\n(stopped)\n>"))
            assert chat.text.count("(stopped)") == count
            if count == 1:
                chat.type("/reset\r")
                chat.wait("forgotten.\n>")
        chat.type(CTRL_C)
        chat.wait("to leave)\n>")
        chat.type(CTRL_C)
        assert chat.end() == 130


@pytest.mark.slow
def test_several_lines(forks: Forks, folder: Path) -> None:
    with start(folder, forks) as chat:
        chat.type("one\\\rtwo" + ALT_ENTER + "three" + PASTE.format("\nfour\nfive"))
        chat.wait("> one\n  two\n  three\n  four\n  five")
        chat.type("\r")
        chat.wait(at_prompt(">", 2))
        chat.type("/save a.json\r")
        chat.wait("saved in a.json.\n>")
        chat.type(CTRL_D)
        assert chat.end() == 0
    messages = json.loads((folder / "a.json").read_text(encoding="utf-8"))["messages"]
    assert messages[0]["content"] == "one\ntwo\nthree\nfour\nfive"


@pytest.mark.parametrize("why", [pytest.param("simple terminal", marks=pytest.mark.slow), "prompt_toolkit is missing"])
def test_the_plain_fallback(why: str, folder: Path) -> None:
    """In a process that has not imported prompt_toolkit yet."""
    (folder / "prompt_toolkit.py").write_text("raise ImportError")
    blocked = {"PYTHONPATH": f"{folder}:{ENV.get('PYTHONPATH', '')}"}
    with start(folder, None, **({"TERM": "dumb"} if why == "simple terminal" else blocked)) as chat:
        chat.type("one\\\ntwo\n")
        chat.wait(at_prompt(">", 2))
        chat.type("'my pics/good one.png'\n")
        chat.wait("80 x 50 pixels, 7 tiles\n[image] >")
        chat.type("/save a.json\n")
        chat.wait("saved in a.json.")
        chat.type(CTRL_C)
        chat.wait("to leave)\n[image] >")
        chat.type(CTRL_D)
        assert chat.end() == 0
        assert (chat.lines[-1], chat.screen.cursor.x, chat.screen.cursor.y) == ("[image] >", 0, len(chat.lines))
    messages = json.loads((folder / "a.json").read_text(encoding="utf-8"))["messages"]
    assert messages[0]["content"] == "one\ntwo"
    assert not (folder / "state").exists()


class TestHistoryFile:
    def test_where_it_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("VITA_HISTORY", raising=False)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        assert history_file() == tmp_path / "vita" / "chat_history"
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert history_file() == tmp_path / ".local" / "state" / "vita" / "chat_history"
        monkeypatch.setenv("VITA_HISTORY", "off")
        assert history_file() is None and isinstance(open_history(), InMemoryHistory)

    def test_it_is_shortened_to_the_newest_entries(self, tmp_path: Path) -> None:
        history = FileHistory(str(tmp_path / "h"))
        for number in range(8):
            history.store_string(f"line {number}\nand more")
            shorten(tmp_path / "h", most=3)
        assert list(history.load_history_strings()) == [f"line {n}\nand more" for n in (7, 6, 5, 4)]
        assert [file.name for file in tmp_path.iterdir()] == ["h"]

    def test_a_file_that_cannot_be_written_is_no_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VITA_HISTORY", str(tmp_path))
        assert isinstance(open_history(), InMemoryHistory)
        monkeypatch.setenv("VITA_HISTORY", str(tmp_path / "sub" / "h"))
        history = open_history()
        shutil.rmtree(tmp_path / "sub")
        history.append_string("Hello")
        assert history.get_strings() == ["Hello"]

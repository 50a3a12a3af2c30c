"""Paths in a line of input of `vita chat`: typed, quoted, escaped, dropped by a terminal, completed with Tab."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from vita.cli.chat.completion import ChatCompleter
from vita.cli.chat.paths import Dropped, find_dropped, first_word, split_path
from vita.media.suffixes import kind_of

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C"], exclude_characters="/"), min_size=1, max_size=20)
WORDS = st.lists(st.sampled_from(["What", "is", "it?", "it's", "a", '"cat"', "it/is", "file:", "\\"]), max_size=5)


def escaped(path: str) -> str:
    """As terminals of macOS and many of Linux write a dropped path."""
    return "".join(c if c.isalnum() or c in "/._-" else "\\" + c for c in path)


def url(path: str) -> str:
    return "file://" + quote(path)


WRITTEN = {"bare": str, "escaped": escaped, "quoted": shlex.quote, "url": url}


@pytest.mark.parametrize("write", [escaped, shlex.quote, url], ids=lambda f: f.__name__)
@given(name=NAMES, words=WORDS)
def test_a_dropped_path_is_found_before_and_after_any_question(write, name: str, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    path, question = f"/some folder/{name}.png", " ".join(words)
    found = Dropped((("image", path),), question)
    assert find_dropped(f"{write(path)} {question}", lambda p: p == path) == found
    assert find_dropped(f"{question} {write(path)} ", lambda p: p == path) == found


@given(st.text(max_size=80))
def test_a_question_without_a_path_is_left_as_it_is(text: str) -> None:
    assert find_dropped("Is " + text, lambda p: False) == Dropped((), ("Is " + text).strip())


@given(st.text(max_size=60))
def test_any_text_has_a_first_word(text: str) -> None:
    word, rest = first_word(text)
    assert text.endswith(rest) and (word or not text or text[0].isspace() or text[:2] in ("''", '""'))


@pytest.mark.parametrize("written", WRITTEN)
def test_real_files_with_spaces(written: str, tmp_path: Path) -> None:
    file = tmp_path / "my cat (1).JPG"
    file.touch()
    assert find_dropped(WRITTEN[written](str(file)) + " ") == Dropped((("image", str(file)),), "")
    assert split_path(WRITTEN[written](str(file)) + " What is it?") == (str(file), "What is it?")


def test_several_files_of_several_kinds(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.png", "b c.mp4", "d.flac")]
    for file in files:
        file.touch()
    kinds = ("image", "video", "audio")
    named = tuple((kind, str(file)) for kind, file in zip(kinds, files, strict=True))
    line = " ".join(shlex.quote(str(file)) for file in files)
    assert find_dropped(line) == Dropped(named, "")
    assert find_dropped(f"{line} What are they?") == find_dropped(f"What are they? {line}")
    assert find_dropped(f"What are they? {line}") == Dropped(named, "What are they?")


def test_a_lone_path_is_one_even_if_there_is_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_dropped("/no/such one.png") == Dropped((("image", "/no/such one.png"),), "")
    assert find_dropped("https://example.com/a.webp?size=2").files == (("image", "https://example.com/a.webp?size=2"),)
    assert find_dropped(f"{tmp_path}").files == ((None, str(tmp_path)),)
    (tmp_path / "photo").touch()
    assert find_dropped(str(tmp_path / "photo")).files == ((None, str(tmp_path / "photo")),)
    (tmp_path / "logo.png").touch()
    monkeypatch.chdir(tmp_path)
    assert find_dropped("logo.png").files == (("image", "logo.png"),)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_dropped("~/logo.png").files == (("image", "~/logo.png"),)


@pytest.mark.parametrize(
    "line",
    ["logo.png is my favourite file", "What is in /etc/passwd", "/usr/bin is what?", "Is this https://a.b/c.png ok?",
     "Compare /no/a.png and /no/b.png please", "What's and/or?", "x" * 5000],
)  # fmt: skip
def test_questions_about_paths_are_questions(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logo.png").touch()
    monkeypatch.chdir(tmp_path)
    assert find_dropped(line) == Dropped((), line)


@pytest.mark.parametrize(
    ("text", "path", "question"),
    [
        ("nowhere.png what?", "nowhere.png", "what?"),
        ("my photo.png what?", "my photo.png", "what?"),
        ("'my photo' what?", "my photo", "what?"),
        ("my\\ photo what?", "my photo", "what?"),
        ("https://a.b/c?d what?", "https://a.b/c?d", "what?"),
        ("strange what?", "strange", "what?"),
        ("'it'\\''s.png'", "it's.png", ""),
        ('"a \\"b\\".png" c', 'a "b".png', "c"),
    ],
)  # fmt: skip
def test_what_follows_a_command(text: str, path: str, question: str) -> None:
    assert split_path(text, lambda p: False) == (path, question)


def test_a_long_text_does_not_ask_the_disk_at_every_word() -> None:
    asked = []
    text = "and/or /tmp is too long " * 10_000
    assert find_dropped(text, lambda p: bool(asked.append(p))) == Dropped((), text.strip())
    assert len(asked) < 10_000


def test_kinds_by_suffix() -> None:
    assert [kind_of(name) for name in ("a.JPEG", "b.webm", "c.Opus", "d.txt", ".png", "https://x.y/a.gif#1")] == [
        "image", "video", "audio", None, None, "image",
    ]  # fmt: skip


class TestCompletion:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "my pics").mkdir()
        for name in ("logo.png", "notes.txt", "song.flac", ".hidden.png", "my pics/the 'cat'.png"):
            (tmp_path / name).touch()
        monkeypatch.chdir(tmp_path)

    def complete(self, text: str) -> dict[str, str]:
        """What the menu shows, and the line after choosing it."""
        found = ChatCompleter().get_completions(Document(text), CompleteEvent(completion_requested=True))
        return {c.display_text: text[: len(text) + c.start_position] + c.text for c in found}

    def test_commands(self) -> None:
        assert self.complete("/i") == self.complete("/I") == {"/image": "/image "}
        assert set(self.complete("/s")) == {"/save", "/system"}
        assert self.complete("/quit") == {"/quit": "/quit"}
        assert self.complete("What is /i") == {} == self.complete("")

    def test_paths_of_the_kind_that_the_command_takes(self) -> None:
        assert self.complete("/image ") == {"logo.png": "/image logo.png", "my pics/": "/image my\\ pics/"}
        assert self.complete("/audio s") == {"song.flac": "/audio song.flac"}
        assert set(self.complete("/video ")) == {"logo.png", "my pics/", "notes.txt", "song.flac"}, "there is no video"
        assert self.complete("/image .h") == {".hidden.png": "/image .hidden.png"}

    def test_special_characters_are_escaped_as_they_are_read(self) -> None:
        name = "the 'cat'.png"
        assert self.complete("/image my\\ pics/th") == {name: "/image my\\ pics/the\\ \\'cat\\'.png"}
        assert self.complete("/image my\\ pics/the\\ ") == {name: "/image my\\ pics/the\\ \\'cat\\'.png"}
        assert split_path("my\\ pics/the\\ \\'cat\\'.png What?") == ("my pics/the 'cat'.png", "What?")
        assert self.complete('/image "my pics/th') == {name: "/image \"my pics/the 'cat'.png"}

    def test_a_path_in_a_question(self) -> None:
        assert self.complete("What is this? ./lo") == {"logo.png": "What is this? ./logo.png"}
        assert self.complete("What is this? lo") == {} == self.complete("/image logo.png What is lo")
        assert self.complete("/reset ") == {} == self.complete("./nowhere/")

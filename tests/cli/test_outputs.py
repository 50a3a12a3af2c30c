"""Where commands write: through symbolic links, pipes and devices; a folder or a taken name is one sentence."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import pytest
from tests.cli.commands import MINI, Ended, assert_sentence, run

from vita.cli.chat.history import MAX_ENTRIES, open_history
from vita.cli.chat.transcript import Exchange, save_transcript
from vita.errors import RequestError


def save(name: str) -> Ended:
    """`/save NAME` after one question."""
    return run("chat", "--model", MINI, "--max-tokens", "2", stdin=f"Hello\n/save {name}\n".encode())


def told(done: Ended) -> list[str]:
    return [line for line in done.stderr.decode().splitlines() if not line.startswith("vita: note: ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "taken.md").write_text("kept", encoding="utf-8")
    (tmp_path / "to_taken.md").symlink_to("taken.md")
    (tmp_path / "to_new.md").symlink_to(tmp_path / "folder" / "new.md")
    (tmp_path / "to_folder").symlink_to("folder")
    (tmp_path / "to_itself.md").symlink_to("to_itself.md")
    (tmp_path / "to_new").symlink_to(tmp_path / "folder" / "new")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


class TestSave:
    def test_through_a_link(self, folder: Path) -> None:
        done = save(str(folder / "to_new.md"))
        assert (done.returncode, told(done)) == (0, [f"The conversation is saved in {folder}/to_new.md."])
        assert (folder / "to_new.md").is_symlink()
        assert (folder / "folder" / "new.md").read_text(encoding="utf-8").startswith("# Conversation with ")

    def test_into_a_pipe(self, folder: Path) -> None:
        read: list[str] = []
        reader = threading.Thread(target=lambda: read.append((folder / "pipe").read_text(encoding="utf-8")))
        reader.start()
        done = save(str(folder / "pipe"))
        reader.join(30)
        assert (done.returncode, told(done)) == (0, [f"The conversation is saved in {folder}/pipe."])
        assert read[0].startswith("# Conversation with ") and (folder / "pipe").is_fifo()

    def test_into_a_device(self) -> None:
        assert save("/dev/null").returncode == 0
        full = save("/dev/full")
        assert told(full) == ["vita: /dev/full: cannot be written (No space left on device); choose another file."]

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("folder", "is a folder; add the name of a file"),
            ("folder/", "is a folder; add the name of a file"),
            ("to_folder", "is a folder; add the name of a file"),
            ("new/", "ends in a slash, which names a folder; add the name of a file"),
            ("taken.md", "exists already; choose another name"),
            ("to_taken.md", "exists already; choose another name"),
            ("to_itself.md", "cannot be written"),
            ("nowhere/a.md", "cannot be written (No such file or directory); choose another file"),
            ("taken.md/a.md", "cannot be written (Not a directory); choose another file"),
        ],
    )
    def test_what_is_refused(self, name: str, said: str, folder: Path) -> None:
        done = save(f"{folder}/{name}")
        (line,) = told(done)
        assert done.returncode == 2 and line.startswith(f"vita: {folder}/{name}: {said}")
        assert (folder / "taken.md").read_text(encoding="utf-8") == "kept" and not (folder / "new").exists()

    @pytest.mark.parametrize("name", ["new.md", "new.json"])
    def test_what_cannot_be_written_in_full_is_removed(self, name: str, folder: Path) -> None:
        exchanges = [Exchange("Hello", answer="a" * 100_000)]
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            with pytest.raises(RequestError, match="cannot be written"):
                save_transcript(str(folder / name), exchanges, "default", None)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not (folder / name).exists()
        save_transcript(str(folder / name), exchanges, "default", None)

    @pytest.mark.parametrize("name", ["new.md", "new.json"])
    def test_names_that_are_not_utf8(self, name: str, folder: Path) -> None:
        media = (("image", os.fsdecode(b"caf\xe9.png")),)
        save_transcript(str(folder / name), [Exchange("Hello", media)], os.fsdecode(b"mod\xe8le"), None)
        text = (folder / name).read_text(encoding="utf-8")
        assert "caf?.png" in text and "mod?le" in text


class TestConvert:
    @pytest.mark.parametrize("name", ["to_new", "new_folder/"])
    def test_through_a_link_and_with_a_slash(self, name: str, folder: Path) -> None:
        done = run("convert", MINI, f"{folder}/{name}")
        assert done.returncode == 0, done.stderr
        assert (folder / name / "config.json").is_file() and (folder / "to_new").is_symlink()

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("pipe", "exists already; name a folder that does not exist"),
            ("folder", "exists already; name a folder that does not exist"),
            ("to_folder", "exists already; name a folder that does not exist"),
            ("to_itself.md", "cannot be made"),
            ("taken.md/out", "cannot be made"),
        ],
    )
    def test_what_is_refused(self, name: str, said: str, folder: Path) -> None:
        assert_sentence(run("convert", MINI, f"{folder}/{name}"), str(folder), said)


class TestEval:
    @pytest.mark.parametrize("name", ["taken.md", "pipe", "taken.md/out", "to_itself.md"])
    def test_what_is_no_folder_is_refused_first(self, name: str, folder: Path) -> None:
        assert_sentence(run("eval", "--out", f"{folder}/{name}"), f"vita: {folder}/{name}: ", "name another folder")


def test_a_history_that_is_a_link_stays_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "to_taken.md").unlink()
    (folder / "history").symlink_to("taken.md")
    entries = "".join(f"\n# now\n+{number}\n" for number in range(2 * MAX_ENTRIES + 1))
    (folder / "taken.md").write_text(entries, encoding="utf-8")
    monkeypatch.setenv("VITA_HISTORY", str(folder / "history"))
    kept = list(open_history().load_history_strings())
    assert len(kept) == MAX_ENTRIES and kept[0] == str(2 * MAX_ENTRIES)
    assert (folder / "history").is_symlink()
    assert (folder / "taken.md").read_text(encoding="utf-8").count("\n+") == MAX_ENTRIES

"""The results file without a model: torn tails, shards, keys, locks, errors of the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vita.batch.items import Asked, Item, Shard, digest_of, digest_of_values, key_of, with_keys
from vita.batch.output import Results, encode_line, parse_line
from vita.errors import RequestError, ResourceError


def line(name: str, *, failed: bool = False) -> bytes:
    error: dict[str, Any] | None = {"code": "x", "message": "no"} if failed else None
    return encode_line({"id": key_of(digest_of(name.encode()), 1), "custom_id": name, "response": {}, "error": error})


def item(name: str) -> Item:
    digest = digest_of(name.encode())
    return Item(digest, digest, lambda model: Asked(name))


NAMES = st.lists(st.text(max_size=8), max_size=12)


class TestTornTail:
    @settings(max_examples=60)
    @given(names=st.lists(st.text(max_size=5), min_size=1, max_size=5, unique=True), data=st.data())
    def test_a_file_cut_anywhere_loses_the_torn_line_alone(
        self, names: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        lines = [line(name) for name in names]
        complete = b"".join(lines)
        cut = data.draw(st.integers(0, len(complete)))
        zeros = data.draw(st.sampled_from([b"", b"\0" * 7]))  # of a block that a power failure left unwritten
        path = tmp_path_factory.mktemp("cut") / "out.jsonl"
        path.write_bytes(complete[:cut] + zeros)
        left = [one for n, one in enumerate(lines) if len(b"".join(lines[: n + 1])) <= cut]
        with Results(path) as results:
            assert results.done == {parse_line(one)[0] for one in left}  # type: ignore[index]
            results.append(line("next"))
        assert path.read_bytes() == b"".join(left) + line("next")

    @pytest.mark.parametrize(
        "text", [b"my notes", b"my notes\n", b"{}\n", b'{"id": 3}\nsecond\n', b"\x89PNG" + bytes(99), b"x" * 9999]
    )
    def test_a_file_of_somebody_else_is_left_as_it_is(self, text: bytes, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_bytes(text)
        with pytest.raises(RequestError, match="something else than results"):
            Results(path)
        assert path.read_bytes() == text

    def test_a_damaged_line_in_the_middle_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "out.jsonl"
        path.write_bytes(line("a") + line("b")[:-9] + b"\n" + line("c"))
        with pytest.raises(RequestError, match="line 2 is damaged; delete that line"):
            Results(path)

    def test_only_failures_are_dropped_for_another_try(self, tmp_path: Path) -> None:
        path = tmp_path / "out.jsonl"
        path.write_bytes(line("a") + line("b", failed=True) + line("c") + line("d", failed=True)[:20])
        path.chmod(0o600)
        with Results(path, retry_failed=True) as results:
            assert len(results.done) == 2
            results.append(line("b"))
        assert path.read_bytes() == line("a") + line("c") + line("b")
        assert path.stat().st_mode & 0o777 == 0o600 and [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


class TestShards:
    @given(names=NAMES, count=st.integers(1, 5))
    def test_shards_are_disjoint_and_complete(self, names: list[str], count: int) -> None:
        parts = [[key for key, _ in with_keys(map(item, names), Shard(n, count))] for n in range(1, count + 1)]
        every = [key for part in parts for key in part]
        assert len(every) == len(names) == len(set(every))
        assert set(every) == {key for key, _ in with_keys(map(item, names), Shard())}

    @given(names=NAMES, data=st.data())
    def test_keys_do_not_depend_on_the_order(self, names: list[str], data: st.DataObject) -> None:
        """Lines that were moved are not asked again."""
        shuffled = data.draw(st.permutations(names))
        assert {k for k, _ in with_keys(map(item, names), Shard())} == {
            k for k, _ in with_keys(map(item, shuffled), Shard())
        }

    @given(one=NAMES, other=NAMES)
    def test_different_values_have_different_digests(self, one: list[str], other: list[str]) -> None:
        assert (digest_of_values(*one) == digest_of_values(*other)) == (one == other)

    @pytest.mark.parametrize("text", ["0/2", "3/2", "1/0", "1", "a/b", "-1/2", "1/2/3", ""])
    def test_what_is_no_shard_is_refused(self, text: str) -> None:
        with pytest.raises(RequestError, match="no shard; write 1/4"):
            Shard.parse(text)


class Seconds:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class TestDisk:
    def test_a_line_counts_when_it_is_synced(self, tmp_path: Path) -> None:
        clock = Seconds()
        with Results(tmp_path / "out.jsonl", clock=clock) as results:
            results.append(line("a"))
            results.sync_if_due()
            assert results.synced == 0
            clock.now = 1.0
            results.sync_if_due()
            assert results.synced == 1
            for n in range(64):
                results.append(line(str(n)))
            results.sync_if_due()
            assert results.synced == 65

    def test_a_full_disk_leaves_complete_lines(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path, write = tmp_path / "out.jsonl", os.write

        def full(descriptor: int, data: bytes) -> int:
            if len(data) <= 10:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, data[:-10])

        with pytest.raises(ResourceError, match="no space is left; free some"), Results(path) as results:
            results.append(line("a"))
            monkeypatch.setattr(os, "write", full)
            results.append(line("b"))
        assert path.read_bytes() == line("a")

    def test_two_processes_do_not_share_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "out.jsonl"
        with Results(path) as results:
            with pytest.raises(RequestError, match="in use by another"):
                Results(path)
            results.append(line("a"))
        with Results(path) as results:
            assert len(results.done) == 1

    def test_a_new_file_without_results_is_removed(self, tmp_path: Path) -> None:
        with Results(tmp_path / "out.jsonl"):
            pass
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["none/out.jsonl", ".", "/dev/null", "a\0b"])
    def test_what_cannot_be_written_is_refused(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match="name another file"):
            Results(tmp_path / name)

"""Compiled kernels: only the file compiled here is loaded, one process compiles, a failure is remembered."""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.kernels.tiny import COMPILER, COMPILES, TINY, answer, times

import vita
from vita.cli import doctor
from vita.errors import RequestError
from vita.kernels.cpu import bindings, compile
from vita.kernels.cpu.compile import Loaded, Program, cache_folder, load_library, open_library
from vita.kernels.cpu.signatures import ADDRESSES, DATA, DOUBLE, INT, INT64, INTS, SIGNATURES
from vita.types import SamplingParams

CPU = torch.device("cpu")


@pytest.fixture
def fresh() -> object:
    """As in a process that has not loaded the kernels yet; forgets what the test loaded."""
    bindings._loaded.cache_clear()
    yield
    bindings._loaded.cache_clear()


def planted(tmp_path: Path) -> tuple[bytes, Path]:
    """A shared object that creates a file when it is loaded, and the path of that file."""
    mark, source, made = tmp_path / "it-ran", tmp_path / "planted.c", tmp_path / "planted.so"
    source.write_text(
        "#include <stdio.h>\nint answer(void) { return 666; }\n"
        f'__attribute__((constructor)) static void run(void) {{ fclose(fopen("{mark}", "w")); }}\n'
    )
    subprocess.run([str(COMPILER), "-shared", "-fPIC", str(source), "-o", str(made)], check=True)
    return made.read_bytes(), mark


def library_in(folder: Path) -> Path:
    (file,) = folder.glob("kernels-*.so")
    return file


@COMPILES
class TestLoading:
    def test_compiled_once_then_loaded_from_the_cache(
        self, program: Program, folder: Path, compiler: Callable[[str], Path]
    ) -> None:
        runs = compiler(f'exec {COMPILER} "$@"')
        assert answer(load_library(program)) == 7 and answer(load_library(program)) == 7
        assert times(runs) == 1
        assert folder.stat().st_mode & 0o777 == 0o700
        assert not [f for f in folder.iterdir() if f.stat().st_mode & 0o077], "other users have no access"

    def test_other_sources_are_another_file(self, program: Program, folder: Path) -> None:
        assert answer(load_library(program)) == 7
        program.sources[0].write_text(TINY.replace("7", "8"))
        assert answer(load_library(program)) == 8

    def test_a_planted_file_creates_the_mark_when_loaded(self, tmp_path: Path) -> None:
        """Otherwise the tests below could pass for another reason."""
        content, mark = planted(tmp_path)
        ctypes.CDLL(str(tmp_path / "planted.so"))
        assert mark.exists() and content

    @pytest.mark.parametrize("way", ["content", "symlink", "no record", "pipe", "writable", "folder"])
    def test_a_planted_file_is_neither_loaded_nor_run(
        self, way: str, program: Program, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        load_library(program)
        content, mark = planted(tmp_path)
        file = library_in(folder)
        file.unlink()
        if way == "symlink":
            file.symlink_to(tmp_path / "planted.so")
        elif way == "pipe":
            os.mkfifo(file)
        elif way == "folder":
            file.mkdir()
        else:
            file.write_bytes(content)
            file.chmod(0o666 if way == "writable" else 0o600)
        if way == "no record":
            file.with_suffix(".json").unlink()
        if way == "writable":  # even with a matching record
            record = json.loads(file.with_suffix(".json").read_text())
            record["sha256"] = hashlib.sha256(content).hexdigest()
            file.with_suffix(".json").write_text(json.dumps(record))
        assert answer(load_library(program)) == 7
        assert not mark.exists()
        assert "is not loaded but compiled again" in caplog.text and str(file) in caplog.text
        if way != "folder":
            caplog.clear()
            assert answer(load_library(program)) == 7 and not caplog.text, "repaired"

    @pytest.mark.parametrize("size", [0, 100, -1])
    def test_a_truncated_file_is_compiled_again(self, size: int, program: Program, folder: Path) -> None:
        load_library(program)
        file = library_in(folder)
        whole = file.read_bytes()
        file.unlink()  # not written in place: this process has it mapped, and would end with a bus error
        file.write_bytes(whole[:size])
        file.chmod(0o700)
        assert answer(load_library(program)) == 7 and len(file.read_bytes()) == len(whole)

    @pytest.mark.parametrize("text", ["", "[1]", "{}", '{"sha256": 3}', "\udcff"])
    def test_a_broken_record_is_compiled_again(self, text: str, program: Program, folder: Path) -> None:
        load_library(program)
        record = library_in(folder).with_suffix(".json")
        whole = record.read_bytes()
        record.write_bytes(text.encode(errors="surrogateescape"))
        assert answer(load_library(program)) == 7 and record.read_bytes() == whole

    def test_a_file_of_another_system_is_compiled_again(self, program: Program, folder: Path) -> None:
        load_library(program)
        file = library_in(folder)
        record = json.loads(file.with_suffix(".json").read_text())
        file.unlink()
        file.write_bytes(b"another system's")
        file.chmod(0o700)
        record["sha256"] = hashlib.sha256(b"another system's").hexdigest()
        file.with_suffix(".json").write_text(json.dumps(record))
        assert answer(load_library(program)) == 7

    @pytest.mark.parametrize("way", ["group", "world", "symlink", "no folder"])
    def test_a_folder_writable_by_others_is_not_used(
        self, way: str, program: Program, folder: Path, tmp_path: Path
    ) -> None:
        load_library(program)
        content, mark = planted(tmp_path)
        file = library_in(folder)
        file.unlink()
        file.write_bytes(content)
        file.chmod(0o700)
        record = json.loads(file.with_suffix(".json").read_text())
        record["sha256"] = hashlib.sha256(content).hexdigest()
        file.with_suffix(".json").write_text(json.dumps(record))
        if way in ("group", "world"):
            folder.chmod(0o770 if way == "group" else 0o703)
        else:
            folder.rename(tmp_path / "elsewhere")
            if way == "symlink":
                folder.symlink_to(tmp_path / "elsewhere")
            else:
                folder.write_text("a file")
        found = load_library(program)
        assert answer(found) == 7 and not mark.exists()
        assert "for this process only" in found.reason and str(folder) in found.reason
        assert "VITA_KERNELS" in found.fix and "each start" in found.fix

    @pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: no file can be given to another user")
    def test_another_users_folder_is_not_used(self, program: Program, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        os.chown(folder, 12345, 12345)
        found = load_library(program)
        assert answer(found) == 7 and "belongs to another user" in found.reason and not list(folder.iterdir())

    @pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: no file can be given to another user")
    def test_another_users_file_is_not_loaded(self, program: Program, folder: Path, tmp_path: Path) -> None:
        load_library(program)
        file = library_in(folder)
        os.chown(file, 12345, 12345)
        assert answer(load_library(program)) == 7 and file.stat().st_uid == 0


@COMPILES
class TestOneBuild:
    def test_processes_that_start_together_compile_once(
        self, program: Program, folder: Path, compiler: Callable[[str], Path]
    ) -> None:
        runs = compiler(f'sleep 0.5\nexec {COMPILER} "$@"')
        code = (
            "from pathlib import Path\nfrom vita.kernels.cpu.compile import Program, load_library\n"
            f"p = Program((Path({str(program.sources[0])!r}),), flags={program.flags!r})\n"
            "print(load_library(p).library.answer())"
        )
        started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)]
        assert [p.communicate(timeout=60)[0].strip() for p in started] == [b"7"] * 3
        assert times(runs) == 1

    def test_a_failed_build_is_remembered_for_a_day(
        self, program: Program, folder: Path, compiler: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs = compiler("echo tiny.c:1: error: no such thing >&2\necho compilation terminated. >&2\nexit 1")
        first, second = load_library(program), load_library(program)
        assert first.library is None and "no such thing" in first.reason and "no such thing" in second.reason
        assert times(runs) == 1 and "vita doctor" in second.fix
        assert load_library(program, retry=True).library is None and times(runs) == 2
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
        assert load_library(program).library is None and times(runs) == 3
        program.sources[0].write_text(TINY.replace("7", "9"))
        load_library(program)
        assert times(runs) == 4, "other sources are tried at once"
        compiler(f'exec {COMPILER} "$@"')
        assert answer(load_library(program)) == 9, "another compiler is tried at once"

    def test_a_compiler_that_hangs_is_abandoned(
        self, program: Program, folder: Path, compiler: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compiler("sleep 20 & wait")
        monkeypatch.setattr(compile, "COMPILE_TIMEOUT", 0.2)
        start = time.monotonic()
        found = load_library(program)
        assert found.library is None and "did not end within" in found.reason
        assert time.monotonic() - start < 15, "its children are not waited for either"


def stub(name: str, value: int = 0) -> str:
    return f"long long {name}(void) {{ return {value}; }}\n"


@COMPILES
class TestTheInterface:
    """What the compiled library exports and what Python calls are the same."""

    def open(self, tmp_path: Path, source: str) -> tuple[object, Loaded]:
        (tmp_path / "other.c").write_text(source)
        return open_library(
            load_library(Program((tmp_path / "other.c",), flags=("-shared", "-fPIC"))), bindings.Kernels
        )

    @pytest.mark.parametrize("name", ["vita_rms_norm", "vita_gemv_int4_workspace"])
    def test_a_missing_function_means_no_kernels_and_a_reason(self, name: str, folder: Path, tmp_path: Path) -> None:
        kernels, found = self.open(tmp_path, "".join(stub(other) for other in SIGNATURES if other != name))
        assert kernels is None and found.library is None and found.wanted
        assert f"has no function {name}" in found.reason and found.fix

    def test_another_group_size_means_no_kernels_and_a_reason(self, folder: Path, tmp_path: Path) -> None:
        source = "".join(stub(name, 32 if name == "vita_group_size" else 0) for name in SIGNATURES)
        kernels, found = self.open(tmp_path, source)
        assert kernels is None and found.library is None and "groups of 32 weights" in found.reason

    def test_a_model_answers_with_a_library_that_cannot_be_used(
        self, mini: Path, program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture, fresh: object,
    ) -> None:  # fmt: skip
        other = load_library(program)
        monkeypatch.setattr(bindings, "load_library", lambda p, retry: other)
        model = vita.load(mini / "mini_ckpt", device="cpu", quantize="int4")
        assert model.ask("Hello.", params=SamplingParams(max_tokens=3)).token_ids
        (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert "has no function vita_group_size" in warning and "install the package again" in warning
        assert not doctor._kernel().good and "has no function" in doctor._kernel().found

    def test_the_table_declares_what_the_sources_define(self) -> None:
        """Every exported function with its result and arguments; a stub of another branch may leave arguments out."""
        text = re.sub(r"/\*.*?\*/", "", "\n".join(f.read_text() for f in bindings.SOURCES), flags=re.DOTALL)
        defined: dict[str, list[tuple[object, tuple[object, ...]]]] = {}
        for result, name, arguments in re.findall(
            r"^(int64_t|int|void) (vita_\w+)\(([^)]*)\)\s*\{", text, re.MULTILINE
        ):
            kinds = tuple(map(kind, arguments.split(","))) if arguments != "void" else ()
            defined.setdefault(name, []).append(({"int64_t": INT64, "int": INT, "void": None}[result], kinds))
        assert defined.keys() == SIGNATURES.keys()
        for name, (result, arguments) in SIGNATURES.items():
            wanted = tuple(DATA if c in (DATA, INTS, ADDRESSES) else c for c in arguments)
            assert (result, wanted) in defined[name], name
            assert all(found in ((result, wanted), (result, ())) for found in defined[name]), name


def kind(argument: str) -> object:
    """The ctypes type of an argument in C; any pointer is `DATA`."""
    return DATA if "*" in argument else DOUBLE if "double" in argument else INT64


class TestTheVariable:
    def test_off(self, program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("VITA_KERNELS", "off")
        found = load_library(program)
        assert found.library is None and not found.wanted and "VITA_KERNELS=off" in found.reason
        assert not (tmp_path / "vita").exists()

    def test_unset_means_the_users_cache(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("VITA_KERNELS", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_folder() == tmp_path / "vita" / "kernels"

    @pytest.mark.parametrize("word", ["on", "0", "kernels"])
    def test_a_word_that_is_no_path_is_refused(self, word: str, mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VITA_KERNELS", word)
        with pytest.raises(RequestError, match=f"VITA_KERNELS={word}: is neither off nor a folder"):
            vita.load(mini / "mini_ckpt", device="cpu")
        assert "is neither off nor a folder" in doctor._kernel().found

    def test_off_is_reported_by_doctor_and_requests_work(
        self, mini: Path, monkeypatch: pytest.MonkeyPatch, fresh: object
    ) -> None:
        monkeypatch.setenv("VITA_KERNELS", "off")
        assert doctor._kernel().good and "VITA_KERNELS=off" in doctor._kernel().found
        model = vita.load(mini / "mini_ckpt", device="cpu", quantize="int4")
        assert bindings.kernels() is None
        assert model.ask("Hello.", params=SamplingParams(max_tokens=3)).token_ids


class TestTheEngine:
    def test_kernels_are_loaded_before_the_first_request_and_not_in_it(
        self, mini: Path, monkeypatch: pytest.MonkeyPatch, fresh: object
    ) -> None:
        asked: list[Program] = []
        monkeypatch.setattr(bindings, "load_library", lambda p, retry: asked.append(p) or Loaded(None, "none", "fix"))
        model = vita.load(mini / "mini_ckpt", device="cpu", dtype="bfloat16", quantize="int8+encoders")
        assert len(asked) == 1
        model.ask("Hello.", params=SamplingParams(max_tokens=3))
        assert len(asked) == 1

    def test_a_model_that_uses_no_kernels_compiles_none(
        self, mini: Path, monkeypatch: pytest.MonkeyPatch, fresh: object
    ) -> None:
        asked: list[Program] = []
        monkeypatch.setattr(bindings, "load_library", lambda p, retry: asked.append(p))
        model = vita.load(mini / "mini_ckpt", device="cpu", dtype="float32")
        model.ask("Hello.", params=SamplingParams(max_tokens=3))
        assert not asked

    @pytest.mark.parametrize("scheme, dtype", [("int4", "float32"), ("int8+encoders", "bfloat16"), (None, "bfloat16")])
    def test_one_warning_says_that_there_is_no_compiler_and_what_it_costs(
        self, scheme: str | None, dtype: str, mini: Path, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture, fresh: object, tmp_path: Path,
    ) -> None:  # fmt: skip
        monkeypatch.delenv("VITA_KERNELS", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        vita.load(mini / "mini_ckpt", device="cpu", dtype=dtype, quantize=scheme)
        (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        form = scheme.removesuffix("+encoders") if scheme else "bfloat16"
        token, _ = bindings.SLOWER[form]
        assert "no C compiler" in said and "install gcc or clang" in said
        assert f"{token:g} times as long in {form}" in said and token > 1
        finding = doctor._kernel()
        assert not finding.good and "install gcc or clang" in finding.fix and "times as long in int4" in finding.found

    def test_float16_with_int8_uses_no_kernels(self, monkeypatch: pytest.MonkeyPatch, fresh: object) -> None:
        asked: list[Program] = []
        monkeypatch.setattr(bindings, "load_library", lambda p, retry: asked.append(p) or Loaded(None, "none", "fix"))
        bindings.prepare_kernels(CPU, torch.float16, "int8")
        bindings.prepare_kernels(torch.device("cuda"), torch.bfloat16, None)
        assert not asked
        bindings.prepare_kernels(CPU, torch.float16, "int4")
        assert len(asked) == 1

    def test_help_does_not_touch_the_compiler(self) -> None:
        code = "import sys\nimport vita.cli.app\nprint([m for m in sys.modules if m.startswith('vita.kernels')])"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"[]"

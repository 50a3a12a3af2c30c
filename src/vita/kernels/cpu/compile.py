"""Compile the C kernels once for this machine and load only the file that was compiled.

The C interface is in `kernels.cpu.bindings`.

What protects against a planted file is that nobody else can write the folder (`kernels.cpu.cache`). The hash recorded
beside a file does not protect against somebody who can write both: it finds a file cut short by a crash or a full disk,
and one made from other sources, by another compiler or for another processor.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from vita.errors import RequestError
from vita.kernels.cpu.cache import Cache, UntrustedError

log = logging.getLogger("vita")
VARIABLE, OFF = "VITA_KERNELS", "off"
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
COMPILERS = ("cc", "gcc", "clang")
SECONDS = 300  # a compiler that takes longer hangs; on a busy or small machine a minute is not enough
MEND = "mend the compiler, then run `vita doctor`, which tries again at once"
RETRY_AFTER = 24 * 3600.0  # seconds that a failed build is remembered: what is not in the key may have been mended


class CompileError(Exception):
    """The compiler made nothing; the text says why."""


@dataclass(frozen=True)
class Program:
    """What is compiled into one shared object."""

    sources: tuple[Path, ...]
    headers: tuple[Path, ...] = ()
    flags: tuple[str, ...] = FLAGS


@dataclass(frozen=True)
class Loaded:
    """The outcome of `load_library`.

    Attributes:
        library: None where there is none.
        reason: where it comes from, or why there is none.
        fix: what the user can do to get the kernels, or to get them faster; empty if there is nothing to mend.
        wanted: False if the user switched the kernels off.
    """

    library: ctypes.CDLL | None
    reason: str
    fix: str = ""
    wanted: bool = True


def load_library(program: Program, *, retry: bool = False) -> Loaded:
    """The compiled program, from the cache folder if it is there and can be trusted.

    Args:
        program: what to compile.
        retry: compile even if that failed a short time ago.

    Raises:
        RequestError: `VITA_KERNELS` is neither `off` nor a folder.
    """
    if platform.system() == "Windows":
        return Loaded(None, "none are built on Windows")
    if not are_wanted():
        return Loaded(None, f"switched off by {VARIABLE}={OFF}", wanted=False)
    compiler = find_compiler()
    if compiler is None:
        return Loaded(None, f"no C compiler ({', '.join(COMPILERS)})", "install gcc or clang")
    try:
        cache = Cache(cache_folder())
    except UntrustedError as error:
        return _uncached(compiler, program, str(error))
    with contextlib.closing(cache):
        return _cached(cache, compiler, program, retry)


def are_wanted() -> bool:
    """Whether the user wants compiled kernels.

    Raises:
        RequestError: `VITA_KERNELS` is neither `off` nor a folder.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked.lower() == OFF:
        return False
    if asked and "/" not in asked:  # a word such as "0" or "on" must not become a folder
        raise RequestError(
            f"is neither {OFF} nor a folder", where=f"{VARIABLE}={asked}", fix=f"write {OFF} or the folder's whole path"
        )
    return True


def cache_folder() -> Path:
    """Where compiled files are kept.

    Raises:
        UntrustedError: there is no home folder.
    """
    try:
        if asked := os.environ.get(VARIABLE):
            return Path(asked).expanduser().absolute()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vita" / "kernels"
    except RuntimeError as error:
        raise UntrustedError(f"the home folder is unknown ({error})") from error


def find_compiler() -> str | None:
    """Path of the first C compiler there is."""
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)


def compile_program(compiler: str, program: Program) -> bytes:
    """The shared object, made in a private temporary folder.

    Raises:
        CompileError: the compiler failed, hung or could not be started.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="vita-kernels-") as folder:
            made, said = Path(folder) / "made.so", Path(folder) / "errors.txt"
            command = [compiler, *program.flags, *map(str, program.sources), "-o", str(made), "-lm"]
            with said.open("wb") as errors:  # no pipe: one that the compiler's children hold open outlives the timeout
                done = subprocess.run(command, stdout=errors, stderr=errors, timeout=SECONDS, check=False)
            if done.returncode:
                lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                line = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
                raise CompileError(f"{compiler} failed: {line.strip()}")
            return made.read_bytes()
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{compiler} did not end within {SECONDS} s") from error
    except OSError as error:
        raise CompileError(f"{compiler} made nothing: {error}") from error


def identity(compiler: str, program: Program) -> dict[str, str]:
    """All that the shared object depends on: another value of any is another file."""
    digest = hashlib.sha256()
    for file in (*program.headers, *program.sources):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)}\n".encode() + content)
    real = Path(compiler).resolve()
    status = real.stat()  # tells an update of the compiler, without the time of running it at every start
    return {
        "sources": digest.hexdigest(),
        "flags": " ".join(program.flags),
        "compiler": f"{compiler} -> {real}, {status.st_size} bytes of {status.st_mtime_ns}",
        "processor": _processor(),
        "system": " ".join([platform.system(), platform.machine(), *platform.libc_ver()]),
    }


def file_stem(made_from: dict[str, str]) -> str:
    """The name of the file, its record and its failure, without their endings."""
    return f"kernels-{hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]}"


def _cached(cache: Cache, compiler: str, program: Program, retry: bool) -> Loaded:
    """From the cache, or built into it; by one process, which the others wait for."""
    try:
        made_from = identity(compiler, program)
        stem = file_stem(made_from)
        with contextlib.suppress(FileNotFoundError, UntrustedError):
            return _take(cache, stem, made_from)
        with cache.lock(SECONDS):
            try:
                return _take(cache, stem, made_from)
            except FileNotFoundError:
                pass
            except UntrustedError as error:
                log.warning("%s is not loaded but compiled anew: it %s", cache.path / f"{stem}.so", error)
            failed = None if retry else _failure(cache, stem)
            return failed or _build(cache, compiler, program, stem, made_from)
    except OSError as error:
        return _uncached(compiler, program, f"{cache.path} cannot be used ({error.strerror or error})")


def _take(cache: Cache, stem: str, made_from: dict[str, str]) -> Loaded:
    """What was compiled before.

    Raises:
        FileNotFoundError: nothing was. UntrustedError: it is not what was recorded, or cannot be loaded.
    """
    file, content = cache.read(f"{stem}.so")
    try:
        record = cache.record(f"{stem}.json")
        if record != _record(content, made_from):
            raise UntrustedError("is not what was recorded when it was compiled")
        return Loaded(_load(file, content), f"compiled before, {cache.path / stem}.so")
    except FileNotFoundError as error:
        raise UntrustedError("has no record of what was compiled") from error
    except OSError as error:  # of another system that shares this folder, or no library is loaded from there
        raise UntrustedError(f"cannot be loaded ({error})") from error
    finally:
        os.close(file)


def _build(cache: Cache, compiler: str, program: Program, stem: str, made_from: dict[str, str]) -> Loaded:
    """Compile, keep and load; a failure is kept too, so that not every start waits for it.

    Raises:
        OSError: the folder cannot be written.
    """
    log.info("our own kernels are compiled with %s, once for this machine", compiler)
    try:
        content = compile_program(compiler, program)
    except CompileError as error:
        return _failed(cache, stem, str(error))
    cache.write(f"{stem}.so", content)
    cache.write(f"{stem}.json", json.dumps(_record(content, made_from), indent=1).encode())
    try:
        library = _take(cache, stem, made_from).library
    except UntrustedError as error:
        return _failed(cache, stem, f"what {compiler} made {error}")
    cache.remove(f"{stem}.failed")
    return Loaded(library, f"compiled with {compiler} into {cache.path}")


def _failed(cache: Cache, stem: str, why: str) -> Loaded:
    reason = f"they could not be built: {why}"
    with contextlib.suppress(OSError):  # then the next start tries again
        cache.write(f"{stem}.failed", json.dumps({"reason": reason, "time": time.time()}).encode())
    return Loaded(None, reason, MEND)


def _uncached(compiler: str, program: Program, why: str) -> Loaded:
    """Compiled for this process alone: a few seconds at every start are less than slow answers all the time."""
    fix = f"set {VARIABLE} to a folder that only you can write (chmod 700): until then each start compiles them again"
    try:
        library = _load_copy(compile_program(compiler, program))
    except (CompileError, OSError) as error:
        return Loaded(None, f"they could not be built: {error}", MEND)
    return Loaded(library, f"compiled with {compiler} for this process alone, as {why}", fix)


def _failure(cache: Cache, stem: str) -> Loaded | None:
    """A failure of the same build within the last day."""
    try:
        note = cache.record(f"{stem}.failed")
    except (FileNotFoundError, UntrustedError):
        return None
    reason, moment = note.get("reason"), note.get("time")
    if not isinstance(reason, str) or not isinstance(moment, float) or not 0 <= time.time() - moment < RETRY_AFTER:
        return None
    return Loaded(None, f"{reason} (remembered for a day)", MEND)


def _record(content: bytes, made_from: dict[str, str]) -> dict[str, object]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "made_from": made_from}


def _load(file: int, content: bytes) -> ctypes.CDLL:
    """The file that was read and verified, whatever lies at its path by now.

    Linux loads it by its descriptor. A copy is loaded where that does not go: elsewhere, or where the folder's file
    system forbids to run files.
    """
    kept = os.dup(file)  # stays open: the loader takes a second file of the same name, descriptor, for the first
    if Path(f"/proc/self/fd/{kept}").exists():
        with contextlib.suppress(OSError):
            return ctypes.CDLL(f"/proc/self/fd/{kept}")
    os.close(kept)
    return _load_copy(content)


def _load_copy(content: bytes) -> ctypes.CDLL:
    """Load bytes through a file in a private temporary folder, which then goes: what is loaded stays in memory."""
    with tempfile.TemporaryDirectory(prefix="vita-kernels-") as folder:
        file = Path(folder) / "copy.so"
        file.write_bytes(content)
        return ctypes.CDLL(str(file))


def _processor() -> str:
    """The instructions that `-march=native` may use, or the processor's name where they are not told."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")

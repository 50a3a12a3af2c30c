"""Compile the C kernels once for this machine; cache and load the shared object.

Protection against a planted file is that no other user can write to the folder (`kernels.cpu.cache`). The recorded hash
does not protect against somebody who can write both file and record. It finds files truncated by a crash or a full
disk, and files built from other sources, by another compiler or for another processor.

Where a compiler fails, the others are tried, and then each without OpenMP: Apple's clang does not know it, and other
clangs come without its library.
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
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from vita.errors import RequestError
from vita.kernels.cpu.cache import Cache, UntrustedError
from vita.kernels.cpu.signatures import InterfaceError

log = logging.getLogger("vita")
T = TypeVar("T")
VARIABLE, OFF = "VITA_KERNELS", "off"
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
COMPILERS = ("cc", "gcc", "clang")
COMPILE_TIMEOUT = 300  # seconds; on a busy or small machine a minute is not enough
OPENMP, ONE_THREAD = "-fopenmp", "-fopenmp-simd"  # the second only vectorises, and needs no library
FIX_COMPILER = "fix the compiler, then run `vita doctor`, which tries again at once"
FIX_CLANG = "fix the compiler, or install gcc or clang with libomp, then run `vita doctor`, which tries again at once"
FIX_OPENMP = "install gcc, or libomp for clang, then run `vita doctor`, which tries again at once"
RETRY_AFTER = 24 * 3600.0  # seconds that a failed build is remembered; the cause may not be part of the cache key


class CompileError(Exception):
    """Compilation failed; the text says why."""


@dataclass(frozen=True)
class Program:
    """Sources, headers and compiler flags of one shared object."""

    sources: tuple[Path, ...]
    headers: tuple[Path, ...] = ()
    flags: tuple[str, ...] = FLAGS


@dataclass(frozen=True)
class Loaded:
    """The outcome of `load_library`.

    Attributes:
        library: the shared object, or None.
        reason: where it comes from, or why there is none.
        fix: what the user can do to get the kernels, or to get them faster; empty if nothing.
        wanted: False if the user switched the kernels off.
    """

    library: ctypes.CDLL | None
    reason: str
    fix: str = ""
    wanted: bool = True


def load_library(program: Program, *, retry: bool = False) -> Loaded:
    """Load the compiled program from the cache folder, or compile it.

    Args:
        program: what to compile.
        retry: compile even if the last attempt failed within a day.

    Raises:
        RequestError: `VITA_KERNELS` is neither `off` nor a folder.
    """
    if platform.system() == "Windows":
        return Loaded(None, "not built on Windows")
    if not are_wanted():
        return Loaded(None, f"switched off by {VARIABLE}={OFF}", wanted=False)
    compilers = find_compilers()
    if not compilers:
        return Loaded(None, f"no C compiler ({', '.join(COMPILERS)})", "install gcc or clang")
    try:
        cache = Cache(cache_folder())
    except UntrustedError as error:
        cause = str(error)
        return _first_built(compilers, program, lambda compiler, variant: _uncached(compiler, variant, cause))
    with contextlib.closing(cache):
        return _first_built(compilers, program, lambda compiler, variant: _cached(cache, compiler, variant, retry))


def open_library(found: Loaded, functions: Callable[[ctypes.CDLL], T]) -> tuple[T | None, Loaded]:
    """The functions of a loaded library; None, and the reason, if it does not have their interface."""
    if found.library is None:
        return None, found
    try:
        return functions(found.library), found
    except InterfaceError as error:
        reason = f"they cannot be used: {error}"
        return None, replace(found, library=None, reason=reason, fix="install the package again")


def _first_built(compilers: list[str], program: Program, build: Callable[[str, Program], Loaded]) -> Loaded:
    """What the first compiler builds that can; else, without OpenMP. If none can, why the first one cannot.

    Args:
        build: loads or compiles a program by a compiler.
    """
    simple = replace(program, flags=tuple(ONE_THREAD if flag == OPENMP else flag for flag in program.flags))
    variants = [program] if simple == program else [program, simple]
    first: Loaded | None = None
    start = time.monotonic()
    for variant in variants:
        for compiler in compilers:
            found = build(compiler, variant)
            if found.library is not None:
                return found if variant is program else _on_one_thread(found)
            first = first or found
            if time.monotonic() - start > COMPILE_TIMEOUT:  # a model that loads must not wait for each of them
                return first
    assert first is not None
    return replace(first, fix=FIX_CLANG) if is_clang(compilers[0]) else first


def _on_one_thread(found: Loaded) -> Loaded:
    fix = "; ".join(filter(None, (FIX_OPENMP, found.fix)))
    return replace(found, reason=f"{found.reason}, without OpenMP, so that they use one thread", fix=fix)


def are_wanted() -> bool:
    """Whether the user wants compiled kernels.

    Raises:
        RequestError: `VITA_KERNELS` is neither `off` nor a folder.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked.lower() == OFF:
        return False
    if asked and "/" not in asked:  # do not create a folder named "0" or "on"
        raise RequestError(
            f"is neither {OFF} nor a folder",
            where=f"{VARIABLE}={asked}",
            fix=f"set it to {OFF} or to the full path of a folder",
        )
    return True


def cache_folder() -> Path:
    """The folder for compiled files.

    Raises:
        UntrustedError: the home folder is unknown.
    """
    try:
        if asked := os.environ.get(VARIABLE):
            return Path(asked).expanduser().absolute()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vita" / "kernels"
    except RuntimeError as error:
        raise UntrustedError(f"the home folder is unknown ({error})") from error


def find_compilers() -> list[str]:
    """Paths of the C compilers found; of several names of one file the first."""
    found: dict[Path, str] = {}
    for name in COMPILERS:
        if path := shutil.which(name):
            found.setdefault(Path(path).resolve(), path)
    return list(found.values())


def is_clang(compiler: str) -> bool:
    """Whether a compiler calls itself clang; `cc` may be either."""
    try:
        said = subprocess.run([compiler, "--version"], capture_output=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"clang" in said


def compile_program(compiler: str, program: Program) -> bytes:
    """The bytes of the shared object, compiled in a private temporary folder.

    Raises:
        CompileError: the compiler failed, exceeded the timeout or could not be started.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="vita-kernels-") as folder:
            output, messages = Path(folder) / "kernels.so", Path(folder) / "messages.txt"
            command = [compiler, *program.flags, *map(str, program.sources), "-o", str(output), "-lm"]
            # A file, not a pipe: the compiler's children would keep a pipe open after the timeout.
            with messages.open("wb") as log_file:
                done = subprocess.run(command, stdout=log_file, stderr=log_file, timeout=COMPILE_TIMEOUT, check=False)
            if done.returncode:
                lines = messages.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                line = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
                raise CompileError(f"{compiler} failed: {line.strip()}")
            return output.read_bytes()
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{compiler} did not end within {COMPILE_TIMEOUT} s") from error
    except OSError as error:
        raise CompileError(f"{compiler} could not be run: {error}") from error


def identity(compiler: str, program: Program) -> dict[str, str]:
    """Everything that the shared object depends on; the cache key is its hash."""
    digest = hashlib.sha256()
    for file in (*program.headers, *program.sources):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)}\n".encode() + content)
    real = Path(compiler).resolve()
    status = real.stat()  # changes when the compiler is updated; asking the compiler at every start takes longer
    return {
        "sources": digest.hexdigest(),
        "flags": " ".join(program.flags),
        "compiler": f"{compiler} -> {real}, {status.st_size} bytes of {status.st_mtime_ns}",
        "processor": _processor(),
        "system": " ".join([platform.system(), platform.machine(), *platform.libc_ver()]),
    }


def file_stem(made_from: dict[str, str]) -> str:
    """Name of the shared object, its record and its failure note, without the suffix."""
    return f"kernels-{hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]}"


def _cached(cache: Cache, compiler: str, program: Program, retry: bool) -> Loaded:
    """Load from the cache, or compile into it; one process compiles, others wait for it."""
    try:
        made_from = identity(compiler, program)
        stem = file_stem(made_from)
        with contextlib.suppress(FileNotFoundError, UntrustedError):
            return _take(cache, stem, made_from)
        with cache.lock(COMPILE_TIMEOUT):
            try:
                return _take(cache, stem, made_from)
            except FileNotFoundError:
                pass
            except UntrustedError as error:
                log.warning("%s is not loaded but compiled again: it %s", cache.path / f"{stem}.so", error)
            failed = None if retry else _failure(cache, stem)
            return failed or _build(cache, compiler, program, stem, made_from)
    except OSError as error:
        return _uncached(compiler, program, f"{cache.path} cannot be used ({error.strerror or error})")


def _take(cache: Cache, stem: str, made_from: dict[str, str]) -> Loaded:
    """Load a file from the cache.

    Raises:
        FileNotFoundError: there is none. UntrustedError: it does not match its record, or cannot be loaded.
    """
    file, content = cache.read(f"{stem}.so")
    try:
        record = cache.record(f"{stem}.json")
        if record != _record(content, made_from):
            raise UntrustedError("does not match the record of its compilation")
        return Loaded(_load(file, content), f"compiled before, {cache.path / stem}.so")
    except FileNotFoundError as error:
        raise UntrustedError("has no record of its compilation") from error
    except OSError as error:  # built by another system that shares this folder, or mounted noexec
        raise UntrustedError(f"cannot be loaded ({error})") from error
    finally:
        os.close(file)


def _build(cache: Cache, compiler: str, program: Program, stem: str, made_from: dict[str, str]) -> Loaded:
    """Compile, store and load. A failure is stored too, so that not every start waits for it.

    Raises:
        OSError: the folder is not writable.
    """
    log.info("compiling the native kernels with %s, once for this machine", compiler)
    try:
        content = compile_program(compiler, program)
    except CompileError as error:
        return _failed(cache, stem, str(error))
    cache.write(f"{stem}.so", content)
    cache.write(f"{stem}.json", json.dumps(_record(content, made_from), indent=1).encode())
    try:
        library = _take(cache, stem, made_from).library
    except UntrustedError as error:
        return _failed(cache, stem, f"the output of {compiler} {error}")
    cache.remove(f"{stem}.failed")
    return Loaded(library, f"compiled with {compiler} into {cache.path}")


def _failed(cache: Cache, stem: str, cause: str) -> Loaded:
    reason = f"they could not be compiled: {cause}"
    with contextlib.suppress(OSError):  # without the note, the next start tries again
        cache.write(f"{stem}.failed", json.dumps({"reason": reason, "time": time.time()}).encode())
    return Loaded(None, reason, FIX_COMPILER)


def _uncached(compiler: str, program: Program, cause: str) -> Loaded:
    """Compile for this process only: a few seconds at every start cost less than slow tokens."""
    fix = f"set {VARIABLE} to a folder that only you can write (chmod 700); until then each start compiles them again"
    try:
        library = _load_copy(compile_program(compiler, program))
    except (CompileError, OSError) as error:
        return Loaded(None, f"they could not be compiled: {error}", FIX_COMPILER)
    return Loaded(library, f"compiled with {compiler} for this process only, because {cause}", fix)


def _failure(cache: Cache, stem: str) -> Loaded | None:
    """A failure of the same build within the last day."""
    try:
        note = cache.record(f"{stem}.failed")
    except (FileNotFoundError, UntrustedError):
        return None
    reason, moment = note.get("reason"), note.get("time")
    if not isinstance(reason, str) or not isinstance(moment, float) or not 0 <= time.time() - moment < RETRY_AFTER:
        return None
    return Loaded(None, f"{reason} (remembered for a day)", FIX_COMPILER)


def _record(content: bytes, made_from: dict[str, str]) -> dict[str, object]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "made_from": made_from}


def _load(file: int, content: bytes) -> ctypes.CDLL:
    """Load exactly the file that was read and verified, even if its path has been replaced since.

    Linux loads it by its descriptor. On other systems, and on file systems mounted noexec, a copy is loaded.
    """
    kept = os.dup(file)  # stays open: the loader would take another file with this descriptor number for this one
    if Path(f"/proc/self/fd/{kept}").exists():
        with contextlib.suppress(OSError):
            return ctypes.CDLL(f"/proc/self/fd/{kept}")
    os.close(kept)
    return _load_copy(content)


def _load_copy(content: bytes) -> ctypes.CDLL:
    """Load bytes through a file in a private temporary folder, which is deleted: the loaded library stays mapped."""
    with tempfile.TemporaryDirectory(prefix="vita-kernels-") as folder:
        file = Path(folder) / "copy.so"
        file.write_bytes(content)
        return ctypes.CDLL(str(file))


def _processor() -> str:
    """The instruction sets that `-march=native` can use, or the processor's name where they are not listed."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")

"""`vita doctor`: report what this machine can do, and what to fix."""

from __future__ import annotations

import importlib.util
import platform
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch is imported by the command only, so that --help stays fast
    from collections.abc import Callable

    from vita.runtime.cpu_features import CpuFeatures


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was checked, at most 16 characters.
        found: the result.
        fix: what to do, empty if nothing.
    """

    name: str
    found: str
    fix: str = ""

    @property
    def good(self) -> bool:
        return not self.fix


def run_doctor() -> int:
    """Print the findings; the exit code is 0."""
    findings = [*machine(), *packages(), *voices(), *audio_devices(), model()]
    for f in findings:
        print(f"{'ok  ' if f.good else 'note'}  {f.name:16} {f.found}" + (f"; {f.fix}" if f.fix else ""))
    return 0


def machine(features: CpuFeatures | None = None) -> list[Finding]:
    """Python, PyTorch, dtypes, threads, memory and accelerators.

    Args:
        features: of the CPU; None for those of this machine.
    """
    import psutil
    import torch

    from vita.runtime.bandwidth import read_bandwidth

    memory = psutil.virtual_memory()
    return [
        Finding("Python", platform.python_version(), "" if sys.version_info >= (3, 10) else "3.10 or newer is needed"),
        Finding("PyTorch", str(torch.__version__)),
        Finding("CPU", f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"),
        _bfloat16(features),
        _kernel(),
        Finding("memory", f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB available"),
        Finding("memory read", f"{read_bandwidth():.1f} GB/s, the limit of decoding"),
        _cuda(),
        Finding("MPS", "available" if torch.backends.mps.is_available() else "none"),
    ]


def _bfloat16(features: CpuFeatures | None) -> Finding:
    """Whether bfloat16 matrix products are fast, and why not."""
    import torch

    from vita.layers.linear import choose_route

    route, reason = choose_route(torch.device("cpu"), torch.bfloat16, features)
    name = "bfloat16 on CPU"
    return Finding(name, reason) if route == "native" else Finding(name, reason, "bfloat16 prefill runs in float32")


def _cuda() -> Finding:
    """The GPU, and whether the native kernels run on it."""
    import torch

    from vita.kernels import triton as triton_kernels

    if not torch.cuda.is_available():
        return Finding("CUDA", "none; the CPU is used")
    native = triton_kernels.available(torch.device("cuda"))
    hint = "" if native else "without Triton and a C compiler, or before Ampere, decoding is slower"
    return Finding("CUDA", torch.cuda.get_device_name(0), hint)


def _kernel() -> Finding:
    """Whether the native CPU kernels are compiled, or can be."""
    from vita.errors import RequestError
    from vita.kernels.cpu.bindings import compiled, slowdown

    name = "native kernels"
    try:
        found = compiled(retry=True)
    except RequestError as error:
        return Finding(name, f"{error.where} {error.what}", error.fix or "")
    if found.library is None and found.wanted:
        return Finding(name, f"{found.reason}; {slowdown('int4')}; {slowdown()}", found.fix)
    return Finding(name, found.reason, found.fix)


def packages() -> list[Finding]:
    """Optional packages."""
    optional = {
        "pillow_heif": ("HEIC images", '"vita-engine[heic]"'),
        "pynvml": ("GPU utilisation", '"vita-engine[gpu]"'),
        "silero_vad": ("voice activity", '"vita-engine[listen]"'),
        "pywebrtc_audio": ("echo cancelling", '"vita-engine[listen]"'),
        "wetext": ("Chinese numbers", '"vita-engine[chinese]"'),
    }  # fmt: skip
    out = []
    for module, (feature, package) in optional.items():
        installed = importlib.util.find_spec(module) is not None
        out.append(Finding(feature, "on") if installed else Finding(feature, "off", f"pip install {package} adds it"))
    return out


def voices() -> list[Finding]:
    """The voices that packages declare, and what they speak."""
    from vita.cli.chat.speech import describe_languages
    from vita.errors import ResourceError
    from vita.speech.voice import INSTALL, find_voices, make_voice

    out = []
    for name, entry in find_voices().items():
        label = f"voice {name:.10}"
        try:
            out.append(Finding(label, describe_languages(make_voice(entry).languages)))
        except ResourceError as error:
            out.append(Finding(label, f"off, {error.what}", error.fix or "install it"))
        except (ImportError, AttributeError) as error:
            out.append(Finding(label, f"cannot be loaded ({error})", "install its package again"))
    return out or [Finding("voices", "none", INSTALL)]


def audio_devices(load: Callable[[str], Any] | None = None) -> list[Finding]:
    """The system's default loudspeaker and microphone.

    Args:
        load: gives the package sounddevice for an extra; None: `load_sounddevice`.
    """
    from vita.errors import ResourceError
    from vita.speech.device import NAMES, Direction, default_device, load_sounddevice

    extras: dict[Direction, str] = {"output": "play", "input": "listen"}
    out = []
    for direction, extra in extras.items():
        try:
            device = default_device((load or load_sounddevice)(extra), direction)
        except ResourceError as error:
            out.append(Finding(NAMES[direction], f"off, {error.what}", error.fix or ""))
        else:
            out.append(Finding(NAMES[direction], f"{device['name']}, {device['default_samplerate']:,.0f} Hz"))
    return out


def model() -> Finding:
    """The embedded checkpoint."""
    from vita.checkpoint.open import open_checkpoint
    from vita.errors import VitaError

    try:
        folder = open_checkpoint(None).folder
    except VitaError as error:
        return Finding("embedded model", str(error), "install the package again")
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    return Finding("embedded model", f"installed, {size / 1e6:.1f} MB")

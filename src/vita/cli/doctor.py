"""`vita doctor`: what this machine can do, and what to mend."""

from __future__ import annotations

import importlib.util
import platform
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and what to do if it is not good."""

    name: str
    found: str
    fix: str = ""

    @property
    def good(self) -> bool:
        return not self.fix


def run_doctor() -> int:
    """Print the findings; 0 if the engine can run at all."""
    findings = [*machine(), *packages(), model()]
    for f in findings:
        print(f"{'ok  ' if f.good else 'note'}  {f.name:16} {f.found}" + (f"; {f.fix}" if f.fix else ""))
    return 0


def machine() -> list[Finding]:
    """Python, PyTorch, number formats, threads, memory, accelerators."""
    import psutil
    import torch

    from vita.layers.linear import choose_route
    from vita.runtime.bandwidth import read_bandwidth

    memory = psutil.virtual_memory()
    route, _ = choose_route(torch.device("cpu"), torch.bfloat16)
    bf16 = (
        Finding("bfloat16 on CPU", "multiplied by the CPU itself")
        if route == "native"
        else Finding(
            "bfloat16 on CPU", "widened to float32 block by block", "large models run, but prefill is float32-fast"
        )
    )
    return [
        Finding("Python", platform.python_version(), "" if sys.version_info >= (3, 10) else "3.10 or newer is needed"),
        Finding("PyTorch", str(torch.__version__)),
        Finding("CPU", f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"),
        bf16,
        _kernel(),
        Finding("memory", f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB available"),
        Finding("memory read", f"{read_bandwidth():.1f} GB/s, the ceiling of decoding"),
        _cuda(),
        Finding("MPS", "there" if torch.backends.mps.is_available() else "none"),
    ]


def _cuda() -> Finding:
    """Whether there is a GPU of NVIDIA's, and what our kernels for it need."""
    import torch

    from vita.kernels import triton as triton_kernels

    if not torch.cuda.is_available():
        return Finding("CUDA", "none; the CPU is used")
    own = triton_kernels.available(torch.device("cuda"))
    hint = "" if own else "without Triton and a C compiler, or before Ampere, decoding is slower"
    return Finding("CUDA", torch.cuda.get_device_name(0), hint)


def _kernel() -> Finding:
    """Whether decoding has its own products here."""
    from vita.errors import RequestError
    from vita.kernels.cpu.bindings import compiled, slowdown

    try:
        found = compiled(retry=True)
    except RequestError as error:
        return Finding("own kernels", f"{error.where} {error.what}", error.fix or "")
    if found.library is None and found.wanted:
        return Finding("own kernels", f"{found.reason}; {slowdown('int4')}; {slowdown()}", found.fix)
    return Finding("own kernels", found.reason, found.fix)


def packages() -> list[Finding]:
    """What is optional."""
    wanted = {"pillow_heif": ("HEIC pictures", "pillow-heif"), "pynvml": ("GPU utilisation", "nvidia-ml-py")}
    out = []
    for module, (what, package) in wanted.items():
        there = importlib.util.find_spec(module) is not None
        out.append(Finding(what, "there" if there else "off", "" if there else f"pip install {package} turns it on"))
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
    return Finding("embedded model", f"there, {size / 1e6:.1f} MB")

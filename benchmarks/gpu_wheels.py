"""Download what `gpu.py` needs on a machine that has PyTorch, Triton and transformers but no network.

    python benchmarks/gpu_wheels.py FOLDER [--python 3.12]

Then carry FOLDER there and run, in the checkout, the command that this script prints.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "av", "soundfile", "soxr", "cffi", "pycparser", "humming-kernels", "cuda-bindings", "cuda-pathfinder", "tabulate",
    "tqdm", "jinja2",
)  # fmt: skip
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def command(folder: Path, python: str, packages: tuple[str, ...] = PACKAGES) -> list[str]:
    """The call of pip: wheels of another Python version and platform, without what they depend on."""
    chosen = [f"--platform={platform}" for platform in PLATFORMS]
    options = ["--no-deps", "--only-binary=:all:", f"--python-version={python}", "--dest", str(folder)]
    return [sys.executable, "-m", "pip", "download", *options, *chosen, *packages]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version on the other machine")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    code = subprocess.run(command(args.folder, args.python), check=False).returncode
    if code:
        return code
    size = sum(file.stat().st_size for file in args.folder.glob("*.whl")) / 1e6
    print(f"{len(list(args.folder.glob('*.whl')))} wheels, {size:.0f} MB. On the other machine:")
    print(f"python -m pip install --no-index --no-deps --find-links {args.folder} {' '.join(PACKAGES)}")
    print("PYTHONPATH=src python benchmarks/gpu.py CHECKPOINT --image assets/vita_logo.png --json gpu.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Check, tune and measure everything on a GPU in one call of less than six minutes.

    PYTHONPATH=src python benchmarks/gpu.py CHECKPOINT --image assets/vita_logo.png [--only check,int4] [--json FILE]

`CHECKPOINT` is the folder of `make_checkpoint.py`; it is made if it does not exist. Stages run in the order of
`STAGES`, each within the time that is left; one that fails or has no time is reported, and the next one runs. They run
in a process of their own: if a stage ends it, or leaves CUDA unusable, another process runs the rest. Prints a line a
figure; `FILE` holds all results so far after every stage, and the last line is the same as JSON. The exit code is 1 if
a stage failed. `--device cpu` rehearses the call with any small checkpoint: what needs a GPU is skipped.

On a machine without a network, install what `gpu_wheels.py` has downloaded first.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import FrameType

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gpu_stages import STAGES, Context, Skipped

SECONDS = 340.0
GRACE = 5  # seconds behind the budget until a stage is interrupted; twice as many until its process is killed
Results = dict[str, dict[str, object]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--image", "--picture", type=Path, required=True, help="of the demo request")
    parser.add_argument("--only", default=",".join(STAGES), help=f"stages, of: {', '.join(STAGES)}")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all stages")
    parser.add_argument("--tokens", type=int, default=300, help="of the demo request's answer")
    parser.add_argument("--images", type=int, default=48, help="of the images stage")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = sorted(set(args.only.split(",")) - set(STAGES))
    if unknown:
        parser.error(f"unknown stage {unknown[0]!r}; there are: {', '.join(STAGES)}")
    return args


def run_stage(name: str, context: Context, entry: dict[str, object]) -> None:
    """Run a stage; its figures, its seconds and how it ended go into `entry`."""
    figures: dict[str, float] = {}
    entry |= {"status": "ok", "figures": figures}
    start = time.perf_counter()
    try:
        if context.left() < STAGES[name].least:
            raise Skipped(f"{context.left():.0f} s are left, it needs {STAGES[name].least:.0f}")
        for label, value in STAGES[name].run(context):
            figures[label] = value
            print(f"{name:8} {label:70} {value:.6g}", flush=True)
    except Skipped as reason:
        entry["status"] = f"skipped: {reason}"
    except Exception as error:  # whatever it is, the other stages run
        entry["status"] = f"failed: {type(error).__name__}: {error}"
        traceback.print_exc()
    entry["seconds"] = time.perf_counter() - start
    print(f"{name:8} {entry['status']}, {entry['seconds']:.1f} s", flush=True)


def works() -> bool:
    """Whether the GPU still computes: an error of CUDA ends all work of its process."""
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        print(f"the GPU is unusable in this process: {error}", flush=True)
        return False
    return True


def save(results: Results, file: Path | None) -> None:
    """Write the results so far; a reader never sees half a file."""
    if file is not None:
        new = file.with_name(f"{file.name}.new")
        new.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        new.replace(file)


def interrupt(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("the time is over")


def work(args: argparse.Namespace, wanted: list[str]) -> None:
    """Run stages in this process, until CUDA is unusable."""
    context, cuda = Context(args), args.device.startswith("cuda")
    results: Results = {
        "machine": {
            "device": torch.cuda.get_device_name() if cuda else "cpu", "torch": torch.__version__,
            "cuda": torch.version.cuda or "", "python": sys.version.split()[0],
        }
    }  # fmt: skip
    print(*results["machine"].values(), flush=True)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, interrupt)
    for name in wanted:
        results[name] = entry = {"status": "failed: its process ended"}  # what stays if the stage ends the process
        save(results, args.json)
        if hasattr(signal, "alarm"):
            signal.alarm(max(1, int(context.left()) + GRACE))
        run_stage(name, context, entry)
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        save(results, args.json)
        if cuda and not works():
            return


def supervise(args: argparse.Namespace, wanted: list[str]) -> Results:
    """The results of all stages, from as many processes as it takes."""
    end, results = time.perf_counter() + args.seconds, Results()
    options = [f"--{name}={getattr(args, name)}" for name in ("image", "device", "tokens", "images")]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        while missing := [name for name in wanted if name not in results]:
            left = max(0.0, end - time.perf_counter())
            call = [sys.executable, sys.argv[0], str(args.checkpoint), *options, "--worker"]
            call += [f"--only={','.join(missing)}", f"--seconds={left}", f"--json={file}"]
            file.unlink(missing_ok=True)
            try:
                code: object = subprocess.run(call, check=False, timeout=left + 2 * GRACE).returncode
            except subprocess.TimeoutExpired:
                code = "no end in time"
            found: Results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            results |= found
            if not any(name in found for name in missing):  # it did not get as far as a stage
                results[missing[0]] = {"status": f"failed: its process ended ({code})"}
            save(results, args.json)
    return results


def main() -> int:
    args = parse()
    wanted = [name for name in STAGES if name in args.only.split(",")]
    if args.worker:
        work(args, wanted)
        return 0
    results = supervise(args, wanted)
    print(json.dumps(results))
    return int(any(str(entry.get("status", "")).startswith("failed") for entry in results.values()))


if __name__ == "__main__":
    sys.exit(main())

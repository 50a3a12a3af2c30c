"""`vita bench`: a table with bars, and as its last line the same as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def run_bench(
    model: str | None, device: str, dtype: str, quantize: str | None, tokens: int, compare: Path | None, *,
    cold: bool, offline: bool,
) -> int:  # fmt: skip
    """Measure and print; what is being measured is said on stderr.

    Raises:
        VitaError: the checkpoint is unusable, or `compare` is no report.
    """
    from vita.bench.report import read_earlier, table
    from vita.bench.run import bench
    from vita.checkpoint.open import DEFAULT, open_checkpoint

    earlier = read_earlier(compare) if compare else {}
    checkpoint = open_checkpoint(model or DEFAULT, offline=offline)

    def tell(stage: str) -> None:
        print(f"measuring: {stage} …", file=sys.stderr, flush=True)

    report = bench(
        checkpoint, device=device, dtype=dtype, quantize=quantize, tokens=tokens, cold=cold, tell=tell
    )  # fmt: skip
    print("\n".join(table(report, earlier)))
    print(json.dumps(report.as_json()))
    return 0

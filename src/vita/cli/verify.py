"""`vita verify`: a row per stage and case, and whether all passed."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from vita.cli.output import print_json
from vita.options import EngineOptions


def run_verify(folder: Path, options: EngineOptions, *, as_json: bool) -> int:
    """Print each row when it is known; returns 0 only if none failed.

    Raises:
        VitaError: the folder is not a reference set, or its checkpoint is unusable.
    """
    from vita.verify import run

    counts = {"pass": 0, "fail": 0, "skipped": 0}
    for row in run(folder, options):
        if not as_json and not any(counts.values()):
            print(f"{'stage':22} {'case':18} {'difference':>12} {'tolerance':>10}  result")
        counts[row.status] += 1
        if as_json:
            finite = row.difference is None or math.isfinite(row.difference)
            shown = dataclasses.asdict(row) | {"difference": row.difference if finite else None, "status": row.status}
            print_json(shown)
            continue
        difference = "" if row.difference is None else f"{row.difference:.3g}"
        note = f" ({row.note})" if row.note else ""
        print(f"{row.stage:22} {row.case:18} {difference:>12} {row.tolerance:>10.3g}  {row.status}{note}", flush=True)
    if not as_json:
        print(f"{counts['pass']} passed, {counts['fail']} failed, {counts['skipped']} skipped")
    return 1 if counts["fail"] or not counts["pass"] else 0

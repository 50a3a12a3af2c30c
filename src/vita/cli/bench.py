"""`vita bench`: a table with bars, or the same figures as JSON."""

from __future__ import annotations

import sys
from pathlib import Path

from vita.cli.output import print_json
from vita.errors import RequestError
from vita.options import EngineOptions


def run_bench(
    model: str | None, options: EngineOptions, *, tokens: int, compare: Path | None, cold: bool, as_json: bool
) -> int:
    """Measure and print; the name of the current measurement goes to stderr.

    Raises:
        VitaError: the checkpoint is unusable, or `compare` is not a report.
    """
    from vita.bench.report import read_earlier, table
    from vita.bench.run import bench
    from vita.checkpoint.files import DEFAULT
    from vita.checkpoint.open import open_checkpoint

    if compare is not None and as_json:
        raise RequestError("adds ratios to the table", where="--compare", fix="leave out --json")
    earlier = read_earlier(compare) if compare else {}
    checkpoint = open_checkpoint(model or DEFAULT, offline=options.offline)

    def tell(stage: str) -> None:
        print(f"measuring: {stage} …", file=sys.stderr, flush=True)

    report = bench(checkpoint, options, tokens=tokens, cold=cold, tell=tell)
    if as_json:
        print_json(report.as_json())
    else:
        print("\n".join(table(report, earlier)))
    return 0

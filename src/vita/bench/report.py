"""Figures for people, and against an earlier run.

Owns the table and the ratios. Does not measure.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vita.bench.run import Figure, Report
from vita.errors import RequestError

BAR = 20  # characters of a full bar


def table(report: Report, earlier: dict[str, float]) -> list[str]:
    """Lines to print.

    Args:
        report: of this run.
        earlier: seconds by stage of the run to compare with; empty for none.
    """
    scheme = f", {report.quantize}" if report.quantize else ""
    top = report.ceilings
    lines = [
        f"{report.model}: {report.dtype}{scheme} on {report.device}, {report.machine}, {report.threads} threads, "
        f"PyTorch {report.torch}",
        f"ceilings: read {top['read']:.1f} GB/s, matrix-vector {top['matvec']:.1f} GB/s, "
        f"GEMM {top['gemm']:.2f} TFLOP/s",
        "",
        f"{'stage':18} {'time':>9}  {'reached':>14} {'of':>8}  {'':{BAR}} {'':>5} {'peak':>9}"
        + ("  ratio" if earlier else ""),
    ]
    lines += [_line(figure, earlier.get(figure.stage)) for figure in report.figures]
    return [*lines, "", f"peak memory {report.peak_gb:.2f} GB"]


def _line(figure: Figure, before: float | None) -> str:
    reached = "" if figure.rate is None else f"{figure.rate:.2f} {figure.unit}"
    top = "" if figure.ceiling is None else f"{figure.ceiling:.2f}"
    share = figure.share
    bar = "" if share is None else "█" * round(min(100.0, share) / 100 * BAR)
    percent = "" if share is None else f"{share:.0f} %"
    peak = "" if figure.peak_gb is None else f"{figure.peak_gb:.2f} GB"
    ratio = "" if before is None else f"  {before / figure.seconds:.2f}x"
    return (
        f"{figure.stage:18} {_seconds(figure.seconds):>9}  {reached:>14} {top:>8}  {bar:{BAR}} {percent:>5} {peak:>9}"
        f"{ratio}  {figure.what}"
    ).rstrip()


def read_earlier(file: Path) -> dict[str, float]:
    """Seconds by stage from a file whose last line is a report's JSON.

    Raises:
        RequestError: it is no such file.
    """
    try:
        lines = file.read_text(encoding="utf-8").strip().splitlines()
        data: dict[str, Any] = json.loads(lines[-1])
        return {str(f["stage"]): float(f["seconds"]) for f in data["figures"]}
    except OSError as error:
        raise RequestError(f"cannot be read ({error.strerror})", where=file, fix="name a file of vita bench") from error
    except (ValueError, KeyError, TypeError, IndexError, UnicodeDecodeError):
        raise RequestError(
            "is no report of vita bench", where=file, fix="save one with: vita bench MODEL > FILE"
        ) from None


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"

"""Format a benchmark report as a table, with ratios to an earlier run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vita.bench.run import Figure, Report
from vita.errors import RequestError

BAR = 20  # characters of a full bar


def table(report: Report, earlier: dict[str, float]) -> list[str]:
    """Lines of the table.

    Args:
        report: of this run.
        earlier: seconds by stage of the run to compare with; empty: no ratios.
    """
    scheme = f", {report.quantize}" if report.quantize else ""
    peaks = report.peaks
    lines = [
        f"{report.model}: {report.dtype}{scheme} on {report.device}, {report.machine}, {report.threads} threads, "
        f"PyTorch {report.torch}",
        f"peak rates: read {peaks['read']:.1f} GB/s, matrix-vector {peaks['matvec']:.1f} GB/s, "
        f"GEMM {peaks['gemm']:.2f} TFLOP/s",
        "",
        f"{'stage':18} {'time':>9}  {'reached':>14} {'of':>8}  {'':{BAR}} {'':>5} {'peak':>9}"
        + ("  ratio" if earlier else ""),
    ]
    lines += [_line(figure, earlier.get(figure.stage)) for figure in report.figures]
    above = [figure.stage for figure in report.figures if (figure.share or 0.0) > 100.5]
    if above and report.device != "cpu":  # on a CPU other processes disturb the measurement of the peaks
        lines.append(
            f"faster than the measured peak, which is a bug of vita bench, please report it: {', '.join(above)}"
        )
    return [*lines, "", f"peak memory {report.peak_gb:.2f} GB"]


def _line(figure: Figure, before: float | None) -> str:
    reached = "" if figure.rate is None else f"{figure.rate:.2f} {figure.unit}"
    peak_rate = "" if figure.peak_rate is None else f"{figure.peak_rate:.2f}"
    share = figure.share
    bar = "" if share is None else "█" * round(min(100.0, share) / 100 * BAR)
    percent = "" if share is None else f"{share:.0f} %"
    memory = "" if figure.peak_gb is None else f"{figure.peak_gb:.2f} GB"
    ratio = "" if before is None else f"  {before / figure.seconds:.2f}x"
    return (
        f"{figure.stage:18} {_seconds(figure.seconds):>9}  {reached:>14} {peak_rate:>8}  {bar:{BAR}} {percent:>5} "
        f"{memory:>9}{ratio}  {figure.what}"
    ).rstrip()


def read_earlier(file: Path) -> dict[str, float]:
    """Seconds by stage of an earlier report: the output of `vita bench --json`.

    Raises:
        RequestError: the file cannot be read, or is not a report.
    """
    try:
        lines = file.read_text(encoding="utf-8").strip().splitlines()
        data: dict[str, Any] = json.loads(lines[-1])
        return {str(f["stage"]): float(f["seconds"]) for f in data["figures"]}
    except OSError as error:
        raise RequestError(f"cannot be read ({error.strerror})", where=file, fix="name a file of vita bench") from error
    except (ValueError, KeyError, TypeError, IndexError, UnicodeDecodeError):
        raise RequestError(
            "is not a report of vita bench", where=file, fix="save what vita bench prints as JSON"
        ) from None


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"

"""Table of the time of each stage and the peak memory, on stderr."""

from __future__ import annotations

from vita.events import Done, images_per_second

CACHED_BYTES = 64 << 20  # weights read per token that stay in the CPU's cache: memory bandwidth is no limit then


def timing_rows(done: Done, bandwidth: float | None) -> list[tuple[str, str, str]]:
    """Stage, time, and what was done in it; stages that did not happen are left out.

    Args:
        done: the end of an answer.
        bandwidth: of the machine's memory in GB/s, if known.
    """
    t, u = done.timings, done.usage
    reused = f", {u.reused_tokens} of them from the prefix cache" if u.reused_tokens else ""
    rows = [
        ("decode media", t.media, ""),
        ("preprocess", t.preprocess, f"{u.prompt_tokens} tokens of prompt{reused}"),
        ("load encoders", t.load, ""),
        ("queued", t.queued if t.queued >= 1e-3 else 0.0, ""),
        ("vision", t.vision, f"{u.tiles} tile{'s' * (u.tiles > 1)}, {u.image_tokens} tokens" if u.tiles else ""),
        ("audio", t.audio, f"{u.audio_seconds:.1f} s, {u.audio_tokens} tokens" if u.audio_tokens else ""),
        ("prefill", t.prefill, f"first token after {_seconds(t.first_token)}"),
    ]
    out = [(name, _seconds(value), what) for name, value, what in rows if value >= 1e-4 or what]
    if t.decode_tokens:
        limit = f" of {bandwidth:.1f}" if bandwidth else ""
        speed = f"{t.tokens_per_second:.1f} tokens/s, {t.gigabytes_per_second:.2f}{limit} GB/s"
        out.append(("decode", _seconds(t.decode), f"{u.completion_tokens} tokens, {speed}"))
    if t.speech_seconds:
        factor = f"{t.speech_seconds:.1f} s, the first after {_seconds(t.first_audio)}"
        out.append(("speech", _seconds(t.speech), f"{factor}, real-time factor {t.speech / t.speech_seconds:.2f}"))
    rate = images_per_second(u, t)
    out.append(("total", _seconds(t.total), "" if rate is None else f"{rate:.2f} images/s"))
    busy = "" if t.gpu_utilisation is None else f"GPU {t.gpu_utilisation:.0f} % busy"
    out.append(("peak memory", f"{t.peak_memory / 1e6:,.0f} MB", busy or t.device))
    return out


def print_timings(done: Done) -> None:
    """Print the table to stderr."""
    from rich.console import Console
    from rich.table import Table

    from vita.runtime.bandwidth import read_bandwidth

    timings = done.timings
    memory_bound = timings.device == "cpu" and timings.bytes_per_token > CACHED_BYTES
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for row in timing_rows(done, read_bandwidth(timings.gigabytes_per_second) if memory_bound else None):
        table.add_row(*row)
    Console(stderr=True).print(table)


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"

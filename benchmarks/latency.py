"""How much running streams are delayed by new requests: gaps, cancel latency, throughput, first token.

    python benchmarks/latency.py                                  # the embedded model, a quiet machine
    python benchmarks/latency.py --busy 0 1                       # quiet, then beside one process that spins
    python benchmarks/latency.py --model OUT --max-tokens 512 --only gaps

Only the public API is used (`vita.load`, `Vita.stream`, one thread per request), so one script compares two versions of
the engine: run it with PYTHONPATH set to the `src` of each, in turns, on the same machine.

- Gaps. `--streams` requests decode. Once each has sent `--steps` pieces of text, one more request is sent: an image of
  five tiles, 30 s of audio, or an image of twelve tiles and a thumbnail. A gap is the time between two pieces of one
  stream. The window runs from the call of the new request to its end; gaps that overlap it count. `step_ms` is the
  median gap before the request, `gap_ms` the longest gap of any stream in the window, `gap_steps` is gap_ms / step_ms.
  A token that completes no text shows as a longer gap of its stream (`pieces_per_token` tells how many tokens are
  seen), so `stall_ms` and `stall_steps` are given too: the longest time in which no stream at all sent text. The
  columns that begin with `before_` hold the same of the time before the request: the noise of the machine.
- Cancel. From `Handle.cancel` to the end of the stream, while another request reads an image of twelve tiles: of a
  request that decodes, of one that waits, and of the one with the image. Each run cancels at another moment of that
  reading. An engine without `Vita.submit` is cancelled by `Vita.stream(cancelled=)`.
- Throughput. Completion tokens of 1, 8 and 16 streams of `--answer` tokens each, over the time from the first call to
  the last end. Prompts are short and differ.
- First token. From the call to the first piece of text of a request that is alone: typed, and with five tiles.

Every measurement runs `--repeats` times. The table shows medians, and for cancels the longest too; the JSON on the last
line holds every run. Answers do not end by themselves: `SamplingParams.ignore_eos` is set, or on an engine without it
`engine.stop_ids` is emptied. No prompt, image or audio is sent twice, so no cache shortens a figure.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, pairwise
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

import vita

LOGO = Path(__file__).parents[1] / "assets" / "vita_logo.png"
FIVE_TILES, TWELVE_TILES = vita.MediaOptions(max_tiles=4), vita.MediaOptions(max_tiles=12)  # thumbnail not counted
SAMPLE_RATE, AUDIO_SECONDS = 16_000, 30
EXTRA_TOKENS = 8  # answer of the request that is sent while others decode
WARM_UP_TOKENS = 4
STALLED = 1800.0  # seconds without a piece of text after which the benchmark gives up
THROUGHPUT_STREAMS = (1, 8, 16)
EXTRAS = ("five-tiles", "audio", "twelve-tiles")
MEASUREMENTS = ("first", "gaps", "cancel", "throughput")

Asked = tuple[vita.Message, vita.MediaOptions]
Row = dict[str, float]


class Stream:
    """One request, read by a thread of its own, with the time of every piece of text.

    Attributes:
        sent: when `Vita.stream` was called, in seconds of `time.perf_counter`.
        times: when each piece of text came.
        ended: when `Done` came; NaN until then.
        done: the last event; None until then.
    """

    def __init__(self, model: vita.Vita, asked: Asked, tokens: int) -> None:
        self.sent, self.ended = time.perf_counter(), float("nan")
        self.times: list[float] = []
        self.done: vita.Done | None = None
        self._error: BaseException | None = None
        self._cancelled, self._progress = threading.Event(), threading.Condition()
        self._cancel: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._read, args=(model, asked, tokens), daemon=True)
        self._thread.start()

    def _read(self, model: vita.Vita, asked: Asked, tokens: int) -> None:
        message, options = asked
        try:
            for event in self._events(model, message, endless(tokens), options):
                now = time.perf_counter()
                with self._progress:
                    if isinstance(event, vita.TextDelta):
                        self.times.append(now)
                    elif isinstance(event, vita.Done):
                        self.ended, self.done = now, event
                    self._progress.notify_all()
        except BaseException as error:
            with self._progress:
                self._error = error  # raised again by the thread that waits
                self._progress.notify_all()

    def _events(
        self, model: vita.Vita, message: vita.Message, params: vita.SamplingParams, options: vita.MediaOptions
    ) -> Iterable[vita.Event]:
        if not hasattr(model, "submit"):
            return model.stream(message, params, options=options, cancelled=self._cancelled.is_set)
        handle = model.submit(message, params, options=options)
        self._cancel = handle.cancel
        if self._cancelled.is_set():
            handle.cancel()
        return handle

    def wait_for_pieces(self, pieces: int) -> None:
        """Block until so many pieces came. Raises RuntimeError if the stream ends before."""
        with self._progress:
            while len(self.times) < pieces and self.done is None and self._error is None:
                if not self._progress.wait(STALLED):
                    raise RuntimeError(f"no text for {STALLED:.0f} s")
            self._check()
            if len(self.times) < pieces:
                raise RuntimeError(f"a stream ended after {len(self.times)} pieces; pass a larger --max-tokens")

    def cancel(self) -> float:
        """Ask for the end; returns the time of asking."""
        now = time.perf_counter()
        self._cancelled.set()
        if self._cancel is not None:
            self._cancel()
        return now

    def join(self) -> vita.Done:
        """Block until the stream has ended."""
        self._thread.join(STALLED)
        self._check()
        if self.done is None:
            raise RuntimeError(f"a stream did not end within {STALLED:.0f} s")
        return self.done

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


def endless(tokens: int) -> vita.SamplingParams:
    """Greedy parameters whose answer has exactly so many tokens, where the engine knows `ignore_eos`."""
    params = vita.SamplingParams(max_tokens=tokens)
    known = {field.name for field in dataclasses.fields(params)}
    return dataclasses.replace(params, **{"ignore_eos": True}) if "ignore_eos" in known else params


class Requests:
    """Requests none of which repeats a prompt, an image or an audio."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._logo = np.asarray(Image.open(LOGO).convert("RGB"))

    def text(self) -> Asked:
        return vita.user(f"{next(self._numbers)}: describe an image with many shapes."), vita.MediaOptions()

    def five_tiles(self) -> Asked:
        return self._image(self._logo.copy()), FIVE_TILES

    def twelve_tiles(self) -> Asked:
        return self._image(np.asarray(Image.fromarray(self._logo).resize((1600, 1200)))), TWELVE_TILES

    def audio(self) -> Asked:
        number = next(self._numbers)
        noise = np.random.default_rng(number).normal(0, 0.1, SAMPLE_RATE * AUDIO_SECONDS)
        loud = np.sin(np.arange(len(noise)) / SAMPLE_RATE * 4) ** 2  # rises and falls as syllables do
        return vita.user(audio=vita.Audio((noise * loud).astype(np.float32), SAMPLE_RATE)), vita.MediaOptions()

    def _image(self, pixels: np.ndarray) -> vita.Message:
        """A message with this image, uint8 `[height, width, 3]`, some pixels of every tile changed."""
        number = next(self._numbers)
        changed = pixels.copy()
        changed[::16, ::16] = np.random.default_rng(number).integers(0, 255, changed[::16, ::16].shape, np.uint8)
        return vita.user(f"{number}: describe this image.", image=changed)


def longest_gap(times: Sequence[float], start: float, end: float) -> float:
    """The longest time between two pieces that overlaps a window, in seconds."""
    return max(b - a for a, b in pairwise(times) if b > start and a < end)


def measure_gaps(model: vita.Vita, requests: Requests, extra: Callable[[], Asked], args: argparse.Namespace) -> Row:
    """Streams decode, then one more request is sent: see the module's text."""
    asked = extra()  # before the streams: making an image takes a core for a while
    streams = [Stream(model, requests.text(), args.max_tokens) for _ in range(args.streams)]
    for stream in streams:
        stream.wait_for_pieces(1)
    begun = [len(stream.times) for stream in streams]
    for stream, pieces in zip(streams, begun, strict=True):
        stream.wait_for_pieces(pieces + args.steps)
    calm_from = max(stream.times[pieces - 1] for stream, pieces in zip(streams, begun, strict=True))
    sent = Stream(model, asked, EXTRA_TOKENS)
    done = sent.join()
    for stream in streams:
        if stream.done is not None:
            raise RuntimeError("a stream ended before the request in the middle; pass a larger --max-tokens")
        stream.wait_for_pieces(len(stream.times) + 1)  # closes the gap that the window ends in
    for stream in streams:
        stream.cancel()
    tokens = sum(stream.join().usage.completion_tokens for stream in streams)
    every = sorted(moment for s in streams for moment in s.times)
    # Only gaps that lie whole before the call: the gap that the call falls into belongs to the window.
    before = [b - a for s in streams for a, b in pairwise(s.times) if a >= calm_from and b <= sent.sent]
    if not before:
        raise RuntimeError("no two pieces before the request in the middle; pass a larger --steps")
    step = median(before)
    gap = max(longest_gap(s.times, sent.sent, sent.ended) for s in streams)
    stall = longest_gap(every, sent.sent, sent.ended)
    return {
        "step_ms": 1e3 * step,
        "before_gap_ms": 1e3 * max(before),
        "before_stall_ms": 1e3 * max(b - a for a, b in pairwise(every) if a >= calm_from and b <= sent.sent),
        "gap_ms": 1e3 * gap,
        "gap_steps": gap / step,
        "stall_ms": 1e3 * stall,
        "stall_steps": stall / step,
        "request_ms": 1e3 * (sent.ended - sent.sent),
        "request_first_ms": 1e3 * (sent.times[0] - sent.sent) if sent.times else float("nan"),
        "pieces_per_token": sum(len(s.times) for s in streams) / tokens,
        "tiles": float(done.usage.tiles),
        "prompt_tokens": float(done.usage.prompt_tokens),
    }


def measure_cancel(model: vita.Vita, requests: Requests, args: argparse.Namespace, delay: float) -> Row:
    """Cancel a request of each kind, one after the other, while an image of twelve tiles is read; milliseconds.

    Args:
        delay: from the call of the request with the image to the cancel, in seconds.
    """
    out: Row = {}
    for which in ("decoding", "waiting", "image"):
        running = Stream(model, requests.text(), args.max_tokens)
        running.wait_for_pieces(4)
        image = Stream(model, requests.twelve_tiles(), EXTRA_TOKENS)
        time.sleep(delay)
        waiting = Stream(model, requests.text(), EXTRA_TOKENS)
        target = {"decoding": running, "waiting": waiting, "image": image}[which]
        late = target.done is not None or (target is not running and bool(target.times))
        asked = target.cancel()
        cancelled = target.join().finish_reason == "cancelled"
        out[which] = 1e3 * (target.ended - asked) if cancelled and not late else float("nan")
        running.cancel()
        for stream in (running, image, waiting):
            stream.join()
    return out


def measure_throughput(model: vita.Vita, requests: Requests, streams: int, tokens: int) -> float:
    """Completion tokens per second of so many streams that are sent at once."""
    asked = [requests.text() for _ in range(streams)]
    start = time.perf_counter()
    running = [Stream(model, one, tokens) for one in asked]
    made = sum(stream.join().usage.completion_tokens for stream in running)
    if made < streams * tokens:  # reasoning has a limit of its own beside it
        raise RuntimeError(f"{made} of {streams * tokens} tokens were made: the answers ended by themselves")
    return made / (max(stream.ended for stream in running) - start)


def measure_first_token(model: vita.Vita, asked: Asked) -> float:
    """Seconds to the first piece of text of a lone request."""
    stream = Stream(model, asked, EXTRA_TOKENS)
    stream.join()
    return (stream.times[0] if stream.times else stream.ended) - stream.sent


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that spin for as long as the block lasts."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def show(title: str, rows: dict[str, Row]) -> None:
    """One table: a row for each name, a column for each figure."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    width = max(map(len, [title, *rows]))
    print(f"{title:{width}}  " + "  ".join(f"{name:>{max(9, len(name))}}" for name in columns))
    for name, row in rows.items():
        cells = (f"{row.get(column, float('nan')):{max(9, len(column))}.4g}" for column in columns)
        print(f"{name:{width}}  " + "  ".join(cells))
    print(flush=True)


def middle(runs: Sequence[Row]) -> Row:
    """The median of every figure over some runs; a NaN is left out."""
    return {name: nan_median([run[name] for run in runs]) for name in runs[0]}


def nan_median(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return median(known) if known else float("nan")


def measure(model: vita.Vita, requests: Requests, args: argparse.Namespace, spinning: int) -> dict[str, object]:
    """The chosen measurements beside so many busy processes; prints their tables."""
    makers = {"five-tiles": requests.five_tiles, "audio": requests.audio, "twelve-tiles": requests.twelve_tiles}
    extras = {name: makers[name] for name in args.requests}
    beside = f"{spinning} busy" if spinning else "quiet"
    out: dict[str, object] = {"busy": spinning}
    if "first" in args.only:
        first_requests = {"text": requests.text, **extras}
        first = {
            n: [measure_first_token(model, make()) for _ in range(args.repeats)] for n, make in first_requests.items()
        }
        show(f"first token, {beside}", {n: {"ms": 1e3 * median(v), "best_ms": 1e3 * min(v)} for n, v in first.items()})
        out["first_token_s"] = first
    if "gaps" in args.only:
        gaps = {
            n: [measure_gaps(model, requests, make, args) for _ in range(args.repeats)] for n, make in extras.items()
        }
        show(f"{args.streams} streams and, {beside}", {name: middle(runs) for name, runs in gaps.items()})
        out["gaps"] = gaps
    if "cancel" in args.only:
        lone = measure_first_token(model, requests.twelve_tiles())
        delays = [lone * (k + 0.5) / args.repeats * 0.8 for k in range(args.repeats)]
        cancels = [measure_cancel(model, requests, args, delay) for delay in delays]
        targets = {name: [run[name] for run in cancels] for name in cancels[0]}
        longest = {n: max([x for x in v if x == x], default=float("nan")) for n, v in targets.items()}
        show(f"cancel, {beside}", {n: {"ms": nan_median(v), "longest_ms": longest[n]} for n, v in targets.items()})
        out["cancel_ms"] = cancels
    if "throughput" in args.only:
        speeds = {
            f"{n} streams": [measure_throughput(model, requests, n, args.answer) for _ in range(args.repeats)]
            for n in THROUGHPUT_STREAMS
        }
        show(f"throughput, {beside}", {n: {"tokens_s": median(v), "best": max(v)} for n, v in speeds.items()})
        out["tokens_per_second"] = speeds
    return out


def positive(text: str) -> int:
    """An argument that counts something there must be at least one of."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {value}")
    return value


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder; default: the embedded model")
    parser.add_argument("--quantize", help="int8, int4, ...; default: as stored")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--streams", type=positive, default=8, help="requests that decode")
    parser.add_argument("--steps", type=positive, default=40, help="pieces of each stream before a request is sent")
    parser.add_argument("--max-tokens", type=positive, default=3000, help="longest answer of a stream that decodes")
    parser.add_argument("--answer", type=positive, default=128, help="tokens of each stream for throughput")
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=MEASUREMENTS)
    parser.add_argument("--requests", nargs="+", choices=EXTRAS, default=EXTRAS, help="sent while others decode")
    parser.add_argument("--busy", type=int, nargs="+", default=[0], help="busy processes beside, one round for each")
    return parser


def main() -> None:
    parser = options()
    args = parser.parse_args()
    start = time.perf_counter()
    try:
        model = vita.load(args.model, device=args.device, dtype=args.dtype, quantize=args.quantize)
    except vita.VitaError as error:
        parser.error(str(error))
    load = time.perf_counter() - start
    if endless(1) == vita.SamplingParams(max_tokens=1):  # an engine without `ignore_eos`
        model.engine.stop_ids = frozenset()
    requests = Requests()
    for make in (requests.text, requests.five_tiles, requests.audio):  # loads encoders and compiles kernels
        Stream(model, make(), WARM_UP_TOKENS).join()
    facts = {
        "version": str(Path(vita.__file__).parent), "model": args.model or "embedded", "quantize": args.quantize,
        "threads": torch.get_num_threads(), "cpus": os.cpu_count(), "torch": torch.__version__, "load_s": load,
        "streams": args.streams, "repeats": args.repeats,
    }  # fmt: skip
    print("  ".join(f"{key} {value}" for key, value in facts.items() if key != "version"), "\n", flush=True)
    rounds = []
    for processes in args.busy:
        with busy(processes):
            rounds.append(measure(model, requests, args, processes))
    print(json.dumps({**facts, "rounds": rounds}))


if __name__ == "__main__":
    main()

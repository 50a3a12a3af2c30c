"""A fake model on a fake clock: the real engine core, scheduler, runner and KV pool around a few sums.

The "decoder" writes the value of each position into the KV cache and derives the next token from all filled positions,
so a position that is computed twice, left out or computed at another place changes the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vita.checkpoint.open import open_checkpoint
from vita.config import DecoderConfig, VitaConfig
from vita.engine.core import EngineCore
from vita.engine.decode import DecodeRunner
from vita.engine.encoder_cache import EncoderCache
from vita.engine.handle import EventQueue, Handle
from vita.engine.inbox import Inbox
from vita.engine.kv_pool import KVPool
from vita.engine.request import Phase, Request
from vita.engine.runner import Runner
from vita.engine.scheduler import Limits, Scheduler
from vita.events import Event
from vita.media.filterbank import filterbank, token_count
from vita.model.kv_cache import KVCache, KVCacheRagged
from vita.options import EngineOptions
from vita.prompt.detokenizer import Detokenizer
from vita.prompt.processor import ProcessedInputs
from vita.prompt.tokenizer import Tokenizer
from vita.runtime.core_usage import CoreUsage
from vita.types import MediaSpan, SamplingParams, Span, TextSpan

CPU = torch.device("cpu")
TILE_ROWS = 4
BAD_TILE = 255  # the vision encoder raises for it
BAD_PREFILL, BAD_DECODE = 13, 17  # a prompt with this token raises in prefill, or in its second decode step
MODULUS = 8191
DECODER = DecoderConfig(1, 1, 1, 1, 1, 8)
POSITION_BYTES = KVCache.bytes_per_position(DECODER, torch.float32)


@cache
def config_and_tokenizer(folder: Path) -> tuple[VitaConfig, Tokenizer]:
    checkpoint = open_checkpoint(folder)
    return checkpoint.config, Tokenizer.load(checkpoint.folder)


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class BrokenInput(Exception):
    """What the fake model raises for bad inputs."""


def text(*ids: int) -> TextSpan:
    return TextSpan(ids)


def tile(code: int) -> MediaSpan:
    """An image tile of one shade."""
    return MediaSpan("image", b"tile%d" % code, TILE_ROWS, (np.full((112, 112, 3), code, np.uint8),))


def clip(code: int, seconds: float = 0.1) -> MediaSpan:
    """An audio clip: a ramp."""
    samples = np.linspace(0, 0.001 * (code + 1), int(16000 * seconds), dtype=np.float32)
    return MediaSpan("audio", b"clip%d" % code, token_count(1 + (len(samples) - 400) // 160), (samples,))


def span_value(span: MediaSpan) -> float:
    """What every row of a media span is worth."""
    return float(int(span.digest[4:]) + (1000 if span.kind == "image" else 2000))


class FakeModel:
    """What `Runner`, `EngineCore` and `answers` need of a `LoadedModel`.

    Attributes:
        log: ("layer", unit number) for every layer of encoders and prefill, ("decode", sequences) for every step.
        raise_once: raised by the next call of the head, after the KV caches were advanced.
    """

    def __init__(self, folder: Path, clock: FakeClock, layers: int, context: int, layer_seconds: float = 1.0) -> None:
        config, self.tokenizer = config_and_tokenizer(folder)
        self.config = replace(config, decoder=DECODER, max_length=context)
        self.device, self.dtype, self.quantized_kv_cache, self.weight_bytes = CPU, torch.float32, False, 0
        self.stop_ids = frozenset({*self.config.generation.eos_ids, self.tokenizer.im_end})
        self.clock, self.layers, self.layer_seconds, self.step_seconds = clock, layers, layer_seconds, 1.0
        self.log: list[tuple[str, object]] = []
        self.units = 0
        self.raise_once: Exception | None = None
        self.decoder = self.vision = self.audio = self.residency = self

    def encoding(self, *_: str) -> Any:
        return nullcontext()

    def load_encoder(self, kind: str) -> float:
        return 0.0

    def embed_tokens(self, ids: Tensor) -> Tensor:
        return ids.double()[:, None]

    def hidden_states(self, x: Tensor, other: object = None) -> Iterator[Any]:
        """Layers of prefill `[1, n, 1]` with its cache, of vision `[tiles, 3, S, S]`, or of audio `[1, T, 80]`."""
        if isinstance(other, (KVCache, KVCacheRagged)):
            return self._layered(lambda: self._prefill(x, other))
        return self._layered(lambda: (x, other))

    def subsample_pieces(self, x: Tensor) -> Iterator[Tensor]:
        yield x

    def packed_states(self, clips: list[Tensor]) -> Iterator[Any]:
        return self._layered(lambda: torch.cat(clips, dim=1))

    def _layered(self, compute: Callable[[], Any]) -> Iterator[Any]:
        self.units += 1
        unit = self.units
        for _ in range(self.layers):
            self.clock.now += self.layer_seconds
            self.log.append(("layer", unit))
            yield None
        yield compute()

    def _prefill(self, x: Tensor, cache: KVCache | KVCacheRagged) -> Tensor:
        ragged = isinstance(cache, KVCacheRagged)
        parts = zip(cache.caches, cache.counts, strict=True) if ragged else [(cache, x.shape[1])]
        out, at, bad = [], 0, False
        for part, count in parts:
            values = x[0, at : at + count, 0]
            bad |= bool((values == BAD_PREFILL).any())
            out.append(self._extend(part, values))
            at += count
        if bad:
            raise BrokenInput("prefill")
        return torch.cat(out)[None, :, None]  # [1, n, 1]

    def _extend(self, cache: KVCache, values: Tensor) -> Tensor:
        """Write values and advance; the state after each of them, `[n]`."""
        end = cache.length + len(values)
        assert end <= cache.capacity
        cache.keys[0, 0, 0, cache.length : end, 0] = values.float()
        filled = cache.keys[0, 0, 0, :end, 0].double()
        sums = (filled * torch.arange(1, end + 1)).cumsum(0) % MODULUS
        new = sums[cache.length :]
        cache.advance(len(values))
        return new

    def logits(self, hidden: Tensor) -> Tensor:
        error, self.raise_once = self.raise_once, None
        if error is not None:
            raise error
        states = hidden[..., 0].long()  # [1, n]
        return torch.nn.functional.one_hot(next_token(states, self.tokenizer), self.tokenizer.size).float()

    def decode(self, tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        self.clock.now += self.step_seconds
        self.log.append(("decode", len(caches)))
        states = torch.stack([self._extend(c, t[None].double())[0] for c, t in zip(caches, tokens, strict=True)])
        if any(slab.keys[0, 0, 0, 0, 0] == BAD_DECODE for slab in caches):
            raise BrokenInput("decode")
        return self.logits(states[None, :, None])[0]

    def extract_features(self, hidden: tuple[Tensor, object]) -> Tensor:
        return hidden[0]

    def projector(self, pixels: Tensor) -> Tensor:
        image = self.config.image
        shade = (pixels[:, 0, 0, 0] * image.std[0] + image.mean[0]) * 255  # [tiles]
        if (shade.round() == BAD_TILE).any():
            raise BrokenInput("vision")
        return (shade.round() + 1000).double()[:, None, None].expand(-1, TILE_ROWS, 1)

    def adapter(self, bank: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
        code = self.audio_codes[bank.shape[1], round(float(bank.sum()), 1)]
        return torch.full((1, token_count(bank.shape[1]), 1), code + 2000.0, dtype=torch.float64), None

    audio_codes: dict[tuple[int, float], float]


def next_token(state: Any, tokenizer: Tokenizer) -> Any:
    """From the weighted sum of all positions to the next token."""
    return (state * 37 + 11) % tokenizer.size


@dataclass(frozen=True)
class Expected:
    """A whole answer."""

    ids: tuple[int, ...]
    text: str
    reason: str


def oracle(model: FakeModel, spans: Sequence[Span], params: SamplingParams, context: int) -> Expected:
    """What a request answers when it is alone and nothing is cut, cached, merged or paused."""
    values: list[float] = []
    for span in spans:
        values += [float(i) for i in span.ids] if isinstance(span, TextSpan) else [span_value(span)] * span.rows
    room = context - len(values)
    limit = room if params.max_tokens is None else min(params.max_tokens, room)
    detokenizer, ids, pieces, reason = Detokenizer(model.tokenizer, params.stop), [], [], "length"
    total = sum(v * (k + 1) for k, v in enumerate(values)) % MODULUS
    while len(ids) < limit:
        token = next_token(int(total), model.tokenizer)
        ids.append(token)
        pieces.append(detokenizer.push(token))
        if detokenizer.stopped or (token in model.stop_ids and not params.ignore_eos):
            reason = "stop"
            break
        values.append(float(token))
        total = (total + token * len(values)) % MODULUS
    return Expected(tuple(ids), "".join(pieces) + detokenizer.flush(), reason)


class IdleInbox(Inbox):
    """Does not wait; counts how often the engine had nothing to do."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None) -> None:
        self.waits.append(timeout)


class FakeEngine:
    """The engine's core around a `FakeModel`, stepped by the test."""

    def __init__(
        self, folder: Path, *, positions: int = 4096, is_async: bool = False, max_events: int = 256,
        layers: int = 3, threads: int = 1, usage: CoreUsage | None = None, **limits: Any,
    ) -> None:  # fmt: skip
        self.clock = FakeClock()
        if is_async:  # a step is only queued: a fixed time bounds the work beside it
            limits = {"work_seconds": 3.0} | limits
        self.limits = Limits(**({"work_steps": 2.0} | limits))  # layers of a second beside steps of a second
        self.model = FakeModel(folder, self.clock, layers=layers, context=self.limits.context)
        self.max_events = max_events
        self.prompts: dict[int, tuple[Span, ...]] = {}
        self.core = core = EngineCore(EngineOptions(), lambda job: job())
        core.inbox = self.inbox = IdleInbox()
        core.model = self.model  # type: ignore[assignment]
        core.encoder_cache = EncoderCache()
        decode: DecodeRunner = self.model.decode  # type: ignore[assignment]
        core.runner = Runner(core.model, decode, core.encoder_cache, threads, self.clock, usage)
        core.runner.is_async = is_async
        core.pool = KVPool(positions * POSITION_BYTES, new_cache, POSITION_BYTES)
        core.scheduler = Scheduler(self.limits, core.pool, core._admit, core.runner.known, self.clock)

    def submit(self, *spans: Span, params: SamplingParams | None = None, **options: Any) -> Request:
        """A request whose media are read."""
        request = self.begin(params, **options)
        self.read(request, *spans)
        return request

    def begin(self, params: SamplingParams | None = None, **options: Any) -> Request:
        """A request whose media are being read."""
        params = params or SamplingParams(max_tokens=4, ignore_eos=True)
        events = EventQueue(self.core.inbox.wake, self.clock, self.max_events)
        request = Request(params, events, arrived=self.clock.now, served=self.clock.now, **options)
        self.core.open += 1
        self.core.submit(request)
        return request

    def read(self, request: Request, *spans: Span) -> None:
        """Its media are read."""
        request.inputs = ProcessedInputs(spans, 0, 0.0, 0, ())
        self.prompts[id(request)] = spans  # the request drops its inputs at its end
        for span in spans:
            if isinstance(span, MediaSpan) and span.kind == "audio":
                self._know(span)
        self.core.ready(request)

    def _know(self, span: MediaSpan) -> None:
        bank = filterbank(torch.from_numpy(span.data[0]), self.model.config.filterbank)
        codes = self.model.__dict__.setdefault("audio_codes", {})
        codes[len(bank), round(float(bank.sum()), 1)] = float(int(span.digest[4:]))

    def step(self, count: int = 1) -> None:
        with torch.inference_mode():
            for _ in range(count):
                self.core._guarded_step()

    def start(self, request: Request) -> None:
        """Step until a request decodes."""
        for _ in range(500):
            if request.phase is Phase.RUNNING and request.sequences:
                return
            self.step()
        raise AssertionError(f"still {request.phase}")

    def run(self, most: int = 5000) -> None:
        """Until there is nothing to do."""
        for _ in range(most):
            idle = len(self.inbox.waits)
            self.step()
            if len(self.inbox.waits) > idle:
                return
        raise AssertionError("the engine does not come to an end")

    def handle(self, request: Request) -> Handle:
        return Handle(request.events, lambda: None, request.params.n, request=request)

    def expected(self, request: Request) -> Expected:
        """What the request answers when it is alone."""
        return oracle(self.model, self.prompts[id(request)], request.params, self.limits.context)


def new_cache(capacity: int) -> KVCache:
    return KVCache(DECODER, capacity, dtype=torch.float32, device=CPU)


def read(request: Request) -> list[Event | BaseException]:
    """All events that wait for the reader."""
    events = []
    while (event := request.events.get(0)) is not None:
        events.append(event)
    return events

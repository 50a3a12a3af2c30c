"""Runner: executes plans. The only code of the engine, beside loading, that computes with torch.

On a CPU a step is computed when `launch` returns. On CUDA it is queued, and read back one step later, so that the GPU
never waits for the host (async decoding).
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vita.engine.background import WorkSource
from vita.engine.core_share import CoreShare
from vita.engine.decode import DecodeRunner
from vita.engine.encoder_cache import EncoderCache
from vita.engine.fusion import fuse
from vita.engine.loaded import LoadedModel
from vita.engine.request import Phase, Request
from vita.engine.request import Sequence as Answer
from vita.engine.sampled import Launched, Sampled, reading
from vita.engine.sampler import sample
from vita.engine.scheduler import EncodeUnit, Plan, PrefillUnit, WorkUnit
from vita.engine.tile_copies import choose_tile_copies
from vita.engine.work import LayeredWork
from vita.kernels.cpu.bindings import gemv_helpers
from vita.media.audio_frames import token_count
from vita.media.filterbank import filterbank_pieces
from vita.media.normalise import normalise
from vita.model.kv_cache import KVCacheRagged
from vita.runtime.clock import Clock
from vita.runtime.core_usage import CoreUsage
from vita.runtime.threads import ThreadChoice, cores_are_busy
from vita.types import MediaSpan

log = logging.getLogger("vita")


Pack: TypeAlias = list[tuple[int, NDArray[np.float32]]]  # windows of audio, with the index of the span of each
UNDISTURBED_SECONDS = 0.005  # of layers in one step while nobody decodes; deadlines are looked at between steps


class DeviceError(Exception):
    """The device failed; nothing more can be computed on it."""


class Runner:
    """Executes plans on one model.

    Args:
        model: its parts load on first use.
        decode: the decode step of the device.
        encoded: rows of media that were encoded before.
        threads: that a CPU has.
        clock: seconds, monotonic.
        usage: of the cores, by other processes too.
        share: says how many cores to leave to media workers.
        disturbed: whether there is something to do before the next layer of a unit, while nobody decodes.
    """

    def __init__(
        self, model: LoadedModel, decode: DecodeRunner, encoded: EncoderCache, threads: int,
        clock: Clock = time.perf_counter, usage: CoreUsage | None = None, share: CoreShare | None = None,
        disturbed: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        self.model, self.decode, self.encoded, self.clock = model, decode, encoded, clock
        self._threads, self._usage, self._share = threads, usage or CoreUsage(), share or CoreShare()
        one, busy = self.start_with_one_thread, self.cores_are_busy
        self.step_threads = ThreadChoice(threads, torch.set_num_threads, clock, busy=busy, on_one=one)
        self._layer_threads = ThreadChoice(threads, torch.set_num_threads, clock, busy=busy, on_one=one)
        self.is_async = model.device.type == "cuda"
        self._work: tuple[WorkUnit, LayeredWork] | None = None
        self._tiles = choose_tile_copies(model.device, model.config.image)
        self._results: dict[bytes, Tensor] = {}  # of the encoder's unit that runs
        self._wait_for_layers = False
        self._disturbed = disturbed
        self.steps = self.rows = 0  # decode steps, and sequences in them

    def cores_are_busy(self) -> bool:
        """Whether other processes use the cores. If the system's counters do not say so, they are probed, which takes
        about 10 ms and sets all threads."""
        if self._threads == 1:
            return False
        if self._usage.busy:
            return True
        return cores_are_busy(self._threads, torch.set_num_threads, partial(torch.exp, torch.zeros(1 << 17)))

    def start_with_one_thread(self) -> None:
        """Other processes use the cores: begin with one thread, and try all of them later."""
        self.step_threads.start_with_one()
        self._layer_threads.start_with_one()

    def launch(self, plan: Plan) -> Launched:
        """Compute a step, or queue it on a GPU."""
        launched = Launched(started=self.clock())
        if self._threads > 1:
            self._usage.begin_step()
            if self._usage.busy:
                self.start_with_one_thread()
            self.step_threads.reserved = self._layer_threads.reserved = self._share.begin_step()
        if plan.decode:
            self._decode(plan.decode, launched)
        if plan.unit is not None:
            self._wait_for_layers = self.model.device.type == "cuda" and bool(plan.decode)
            self._run_unit(plan.unit, plan.budget, launched)
        elif plan.source is not None:
            self._run_source(plan.source, plan.budget)
        if self._tiles is not None and plan.next_tiles:  # behind the unit's first layer, beside which they are copied
            self._tiles.prefetch(plan.next_tiles)
        self._share.end_step()
        self._usage.end_step()
        return launched

    def _decode(self, answers: list[Answer], launched: Launched) -> None:
        self.step_threads.before(len(answers))
        start, lengths, helpers = self.clock(), [answer.cache.length for answer in answers], 0
        try:
            with gemv_helpers(self.step_threads.helpers(len(answers))) as helpers:
                self._step(answers, launched)
        except Exception as error:
            self.raise_fatal(error)
            for answer, length in zip(answers, lengths, strict=True):  # whoever spoils the batch ends alone
                answer.cache.reset(length)  # the step may have advanced it before it failed
                try:
                    self._step([answer], launched)
                except Exception as own:
                    launched.failed.append((answer, own))
        seconds = self.clock() - start
        self.step_threads.after(len(answers), seconds, helpers)
        self._usage.helped |= helpers > 0
        if not self.is_async:
            launched.seconds = seconds
        self.steps, self.rows = self.steps + 1, self.rows + len(answers)

    def _step(self, answers: list[Answer], launched: Launched) -> None:
        tokens = torch.stack([answer.newest for answer in answers])
        logits = self.decode(tokens, [answer.cache for answer in answers])  # [n, vocab]
        launched.sampled.append(self.sample(answers, logits))

    def sample(self, answers: list[Answer], logits: Tensor) -> Sampled:
        """Choose the next token of each sequence from logits `[n, vocab]`."""
        ids = sample(logits, [answer.sampling for answer in answers])  # [n]
        for answer, token in zip(answers, ids, strict=True):
            answer.newest = token
            answer.launched += 1
            answer.in_flight += 1
        wanted = any(answer.request.params.logprobs for answer in answers)
        return Sampled(answers, ids, logits if wanted else None, reading(ids))

    def raise_fatal(self, error: Exception) -> None:
        """An error of CUDA leaves the device in an unknown state; one that is out of memory does not."""
        if self.is_async and isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
            raise DeviceError(str(error)) from error

    def _run_unit(self, unit: WorkUnit, budget: float, launched: Launched) -> None:
        try:
            begun = self.clock()
            work = self._work_of(unit)
            start = self.clock()
            if budget and start - begun > budget:
                return  # an encoder was loaded: its first layer waits for the next step
            done = work.run_some(budget)
            if not budget:  # nobody decodes: short layers follow each other without a plan for each
                while not done and self.clock() - start < UNDISTURBED_SECONDS and not self._disturbed():
                    done = work.run_some(0.0)
            seconds = self.clock() - start
        except Exception as error:
            self._work = None
            self.raise_fatal(error)
            launched.unit_error = (unit, error)
            return
        for request, share in _shares(unit):
            request.watch.add(work.stage, seconds * share)
        if done:
            self._work = None
            self._finish(unit, launched)

    def _run_source(self, source: WorkSource, budget: float) -> None:
        try:
            source.run_some(budget)
        except Exception as error:
            self.raise_fatal(error)
            log.exception("background work has failed")
            source.end(error)

    def _work_of(self, unit: WorkUnit) -> LayeredWork:
        if self._work is not None and self._work[0] is unit:
            return self._work[1]
        if self._work is not None:
            self._work[1].close()  # its requests ended
        work = self._encode_work(unit) if isinstance(unit, EncodeUnit) else self._prefill_work(unit)
        self._work = (unit, work)
        return work

    def drop_unit(self) -> None:
        """Give up the unit that runs, if its requests ended."""
        if self._work is not None:
            self._work[1].close()
            self._work = None

    def _layered(self, stage: str, rows: int, layers: Iterator[object], size: int) -> LayeredWork:
        """Work over layers, which choose their number of threads. While others decode on a GPU it waits for each layer:
        their next step must not queue behind more layers than the budget allows.

        Args:
            stage, rows: see `Work`.
            layers: yields after each; a string names what it yields after, if that is no layer.
            size: what a layer's time is proportional to. Durations are compared per size, among similar sizes.
        """

        def timed() -> Iterator[object]:
            name: object = "first"  # normalisation or embedding
            while True:
                what = (stage, size.bit_length(), name)
                self._layer_threads.before(what)
                start = self.clock()
                try:
                    layer = next(layers)
                except StopIteration:
                    return
                if self._wait_for_layers:
                    torch.cuda.current_stream(self.model.device).synchronize()
                self._layer_threads.after(what, (self.clock() - start) / size)
                name = layer if isinstance(layer, str) else "layer"
                yield layer

        return LayeredWork(stage, rows, timed(), clock=self.clock)

    def _encode_work(self, unit: EncodeUnit) -> LayeredWork:
        seconds = self.model.load_encoder(unit.kind)
        for request in unit.requests:
            request.watch.add("load", seconds)
        self._results = {}
        self.encoded.misses += len(unit.spans)
        if unit.kind == "image":
            return self._layered("vision", len(unit.spans), self._encode_images(unit.spans), len(unit.spans))
        packs = _packs(unit.spans)
        size = max(sum(len(window) for _, window in pack) for pack in packs)
        return self._layered("audio", len(unit.spans), self._encode_audio(unit.spans, packs), size)

    def _encode_images(self, spans: Sequence[MediaSpan]) -> Iterator[object]:
        model = self.model
        with model.residency.encoding("vision", "projector"):
            if self._tiles is None:
                pixels = normalise([span.data[0] for span in spans], model.config.image, model.device)
            else:
                pixels = self._tiles.normalised(spans)  # [tiles, 3, S, S]
            hidden = None
            for hidden in model.vision.hidden_states(pixels):
                yield hidden
            assert hidden is not None
            rows = model.projector(model.vision.extract_features(hidden))  # [tiles, rows, H]
            for span, tile in zip(spans, rows, strict=True):
                self._results[span.digest] = tile.clone()  # of its own: another tile's memory is not held by it

    def _encode_audio(self, spans: Sequence[MediaSpan], packs: Sequence[Pack]) -> Iterator[object]:
        with self.model.residency.encoding("audio", "adapter"):
            rows: list[list[Tensor]] = [[] for _ in spans]
            for pack in packs:
                yield from self._encode_windows(pack, rows)
            self._results = {span.digest: torch.cat(pieces) for span, pieces in zip(spans, rows, strict=True)}

    def _encode_windows(self, pack: Pack, rows: list[list[Tensor]]) -> Iterator[object]:
        """Append the rows of each window to those of its span."""
        model = self.model
        counts, clips = list[int](), list[Tensor]()
        for _, window in pack:
            banks: list[Tensor] = []
            for bank in filterbank_pieces(torch.from_numpy(window), model.config.filterbank):
                banks.append(bank)
                yield "filterbank"
            bank = torch.cat(banks)[None].to(model.device)  # [1, T, 80]
            counts.append(token_count(bank.shape[1]) + model.config.audio.prompt_tokens)
            subsampled: list[Tensor] = []
            for frames in model.audio.subsample_pieces(bank):
                subsampled.append(frames)
                yield "subsample"
            clips.append(torch.cat(subsampled, dim=1))
        hidden = None
        for hidden in model.audio.packed_states(clips):  # [1, frames of all, E]
            yield hidden
        assert hidden is not None
        for (index, _), count, clip in zip(pack, counts, hidden.split([c.shape[1] for c in clips], dim=1), strict=True):
            adapted, _ = model.adapter(clip, clip.new_ones(clip.shape[:2], dtype=torch.bool))  # [1, rows, H]
            rows[index].append(adapted[0, :count])

    def _prefill_work(self, unit: PrefillUnit) -> LayeredWork:
        decoder = self.model.decoder
        for request, _ in unit.parts:
            if request.embeds is None:
                request.embeds = fuse(request.spans, decoder.embed_tokens, request.features)
                request.features = {}
        rows = sum(rows for _, rows in unit.parts)
        return self._layered("prefill", rows, self._prefill(unit), rows)

    def _prefill(self, unit: PrefillUnit) -> Iterator[object]:
        decoder = self.model.decoder
        rows, caches, counts = [], [], []
        for request, count in unit.parts:
            assert request.embeds is not None and request.cache is not None
            rows.append(request.embeds[request.done_rows : request.done_rows + count])
            caches.append(request.cache)
            counts.append(count)
        cache = caches[0] if len(caches) == 1 else KVCacheRagged(caches, counts)
        hidden = None
        for hidden in decoder.hidden_states(torch.cat(rows)[None], cache):  # [1, total, H]
            yield hidden
        assert hidden is not None
        last: list[int] = []  # only the last position of a prompt, and its draft, go through the head
        for end, (request, count) in zip(itertools.accumulate(counts), unit.parts, strict=True):
            if request.remaining_rows == count:
                last += range(end - _sampled_rows(request), end)
        if last:
            together = last[-1] - last[0] == len(last) - 1  # a slice is not copied
            wanted = hidden[:, last[0] : last[-1] + 1] if together else hidden[:, last]
            self._last_logits = decoder.logits(wanted)[0]  # [prompts and drafts, vocab]

    def _finish(self, unit: WorkUnit, launched: Launched) -> None:
        launched.finished = unit
        if isinstance(unit, PrefillUnit):
            complete = [request for request, count in unit.parts if request.remaining_rows == count]
            if complete:
                logits = self._last_logits.split([_sampled_rows(request) for request in complete])
                launched.logits = {id(request): rows for request, rows in zip(complete, logits, strict=True)}
                for request in complete:
                    request.embeds = None  # as large as the KV slab's keys of a few layers, and not read again
                del self._last_logits
            return
        for request in unit.requests:
            if request.phase is Phase.FINISHED:
                continue
            for digest, rows in self._results.items():
                if any(span.digest == digest for span in request.pending_media):
                    request.features[digest] = rows
                    self.encoded.put(digest, request.salt, rows)
        self._results = {}

    def known(self, request: Request, span: MediaSpan) -> bool:
        """Give a request the rows of a span that was encoded before."""
        rows = self.encoded.get(span.digest, request.salt)
        if rows is not None:
            request.features[span.digest] = rows
        return rows is not None


def _packs(spans: Sequence[MediaSpan]) -> list[Pack]:
    """Several clips are encoded together, the windows of a single one, which may be long, one by one."""
    windows = [(index, window) for index, span in enumerate(spans) for window in span.data]
    return [windows] if len(spans) > 1 else [[window] for window in windows]


def _sampled_rows(request: Request) -> int:
    """Positions of a prefilled prompt that tokens are sampled from: the last one, and the draft's."""
    return 1 if request.draft is None else 2


def _shares(unit: WorkUnit) -> list[tuple[Request, float]]:
    """How much of a unit's time belongs to each of its requests."""
    if isinstance(unit, PrefillUnit):
        total = sum(rows for _, rows in unit.parts)
        return [(request, rows / total) for request, rows in unit.parts]
    return [(request, 1.0 / len(unit.requests)) for request in unit.requests]

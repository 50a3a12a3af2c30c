"""The engine: one request in, a stream of events out.

Owns the loaded parts of one model and the order of the stages. Parts of an absent modality are neither loaded nor
run. Any number of threads may stream from one engine: prefill and encoders take turns, decode steps are shared.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from vita.checkpoint.load import Progress, check_tensors, load_part, parameter_counts
from vita.checkpoint.open import Checkpoint
from vita.engine.batch import Batcher
from vita.engine.encoder_cache import EncoderCache
from vita.engine.fusion import fuse
from vita.engine.generate import Token, decode, prefill
from vita.engine.prefix_cache import PrefixCache, Unit, filled, rows_of, units_of
from vita.engine.runner import choose_decode_runner
from vita.engine.sampler import Sampler, check_params
from vita.errors import Cancelled, RequestError, ResourceError
from vita.events import Done, Event, FinishReason, TextDelta, Timings, TokenLogprob, Usage
from vita.kernels.cpu.bindings import prepare_kernels
from vita.layers.linear import choose_route
from vita.media.filterbank import token_count
from vita.model.audio import AudioEncoder
from vita.model.decoder import Decoder
from vita.model.kv_cache import KVCache
from vita.model.projectors import AudioAdapter, Projector
from vita.model.vision import VisionEncoder
from vita.options import choose_kv_cache, choose_quantize
from vita.planning.flops import weight_bytes
from vita.planning.memory_plan import MemoryPlan, check_memory, parse_size, plan_memory, predict_memory, tile_batch
from vita.planning.residency import WeightResidency, is_mapped
from vita.prompt.detokenizer import Detokenizer
from vita.prompt.processor import ProcessedInputs, Processor, audio_rows, without_first
from vita.prompt.tokenizer import IM_START, Tokenizer
from vita.runtime.clock import Stopwatch
from vita.runtime.device import choose_device, choose_dtype, gpu_utilisation
from vita.runtime.memory import available_memory, peak_memory, reset_peak
from vita.runtime.process import tune_malloc
from vita.types import MediaOptions, Message, SamplingParams

log = logging.getLogger("vita")
CONTEXT_FULL = "The answer ends here because the model's context of {} tokens is full; start over or ask for less."
MEMORY_CONTEXT = 2048  # positions assumed when asking whether a model fits


class Engine:
    """One model, ready to answer.

    Args:
        checkpoint: an opened folder.
        device: `auto`, `cpu`, `cuda[:n]` or `mps`.
        dtype: `auto`, `float32`, `float16` or `bfloat16`.
        quantize: `int8` or `int4` rounds the decoder's linear layers while loading; `int4+encoders` the encoders'
            too, to eight bits.
        kv_cache: `int8` holds keys and values in eight bits; default: in the working dtype.
        fit: a size such as "4GB", or "auto": the least rounded variant that fits is taken.
        progress: told about every tensor loaded.

    Raises:
        CheckpointError: the tensors do not fit the configuration.
        ResourceError: the device is not there or the model does not fit its memory.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, device: str = "auto", dtype: str = "auto", quantize: str | None = None,
        kv_cache: str | None = None, fit: str | None = None, progress: Progress | None = None,
    ) -> None:  # fmt: skip
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.tokenizer = Tokenizer.load(checkpoint.folder)
        self.parameters = parameter_counts(self.config, self.tokenizer.size)
        total = sum(self.parameters.values())
        self.device = choose_device(device, total)
        self.dtype, self.dtype_reason = choose_dtype(dtype, self.config, total, self.device)
        self.quantize = checkpoint.quantized or choose_quantize(quantize)
        if quantize is not None and self.quantize != choose_quantize(quantize):
            raise RequestError(
                f"the checkpoint is stored in {self.quantize}", where=f"--quantize {quantize}",
                fix="leave it out, or convert the unrounded checkpoint",
            )  # fmt: skip
        self.quantized_kv_cache = choose_kv_cache(kv_cache)
        check_tensors(checkpoint, self.tokenizer.size)
        context = min(MEMORY_CONTEXT, self.config.context)
        self.memory_plan = self._fit(fit, quantize, context)
        self.quantize = self.memory_plan.scheme
        check_memory(self.memory_plan.need, self.device)
        if self.device.type == "cpu" and fit is None:  # with a limit memory is dearer than time
            tune_malloc()
        route, reason = choose_route(self.device, self.dtype)
        log.info("%s on %s (%s); %s linears: %s", self.dtype, self.device, self.dtype_reason, route, reason)
        if self.quantize:
            log.info("linear layers are in %s", self.quantize)
        prepare_kernels(self.device, self.dtype, self.quantize)
        self.prepare = Processor(self.config, self.tokenizer)
        self.stop_ids = frozenset(
            {*self.config.generation.eos_ids, self.tokenizer.im_end, self.tokenizer.token_id(IM_START)}
        )
        self.prefixes = PrefixCache()
        self.features = EncoderCache()
        self.residency = WeightResidency(
            checkpoint, limited=fit is not None, streamed_layers=self.memory_plan.streamed_layers
        )
        self._progress = progress
        self._parts: dict[str, nn.Module] = {}
        self._loading = threading.Lock()
        self._turn = threading.Lock()
        self.steps = choose_decode_runner(self.decoder, quantized_kv_cache=self.quantized_kv_cache)
        self.batcher = Batcher(self.steps, self._turn)
        self._weight_bytes = weight_bytes(self.decoder)

    def _fit(self, size: str | None, quantize: str | None, context: int) -> MemoryPlan:
        """What is taken of the model, and what that needs."""
        sizes = (self.config, self.tokenizer.size, self.dtype)
        mapped = is_mapped(self.checkpoint, self.dtype, self.device)
        if size is None:
            need = predict_memory(
                *sizes,
                context,
                self.quantize,
                device=self.device,
                mapped=mapped,
                quantized_kv_cache=self.quantized_kv_cache,
            )
            return MemoryPlan(self.quantize, sum(need.values()))
        if quantize is not None:
            raise RequestError("cannot go with --quantize", where="--fit", fix="leave one of them out")
        limit, stored = parse_size(size, self.device), self.checkpoint.quantized
        return plan_memory(
            *sizes,
            limit,
            context,
            stored,
            device=self.device,
            mapped=mapped,
            quantized_kv_cache=self.quantized_kv_cache,
        )

    def part(self, name: str) -> nn.Module:
        """A part of the model, loaded when first asked for."""
        with self._loading:
            if name not in self._parts:
                self._parts[name] = load_part(
                    name, self.checkpoint, self.tokenizer.size, self.dtype, self.device, self._progress, self.quantize
                )
                self.residency.settle(name, self._parts[name])
            return self._parts[name]

    @property
    def decoder(self) -> Decoder:
        return cast(Decoder, self.part("decoder"))

    @property
    def ahead(self) -> bool:
        """Whether tokens are fed before they are known here (`engine.generate.decode`)."""
        return self.device.type == "cuda"

    def stream(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        options: MediaOptions | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """Answer a conversation, piece by piece.

        Args:
            messages: turns, oldest first, the last one the user's.
            params: how tokens are chosen; default greedy.
            options: how media are read.
            cancelled: asked between tokens; once true the answer ends with `finish_reason` "cancelled".

        Yields:
            `TextDelta` pieces, then one `Done`.

        Raises:
            RequestError: parameters or messages that cannot be used. MediaError: a file that cannot.
            ResourceError: there is no memory for the request.
        """
        params = params or SamplingParams()
        check_params(params)
        if self.device.type == "cuda":
            reset_peak(self.device)
        watch = Stopwatch(self.device)
        prepared = self.prepare(messages, options or MediaOptions(), watch)
        self._check_trained(prepared)
        sampler = Sampler(params, self.config.generation.repetition_penalty, self.device)
        text = Detokenizer(self.tokenizer, params.stop)
        tokens: list[Token] = []
        reason: FinishReason = "length"
        limit = min(params.max_tokens, self.config.context - prepared.length)
        units = self._units(prepared)
        cache, shared = self._begin(units, prepared.length + limit)
        reused = cache.length
        try:
            embeds = self.embed(without_first(prepared, shared), watch, cancelled)
            with watch.stage("prefill"):
                logits = prefill(self.decoder, embeds, cache, self._turn, cancelled)
            steps = decode(
                self.batcher.step, logits, cache, sampler, self.stop_ids, limit, cancelled, watch, ahead=self.ahead
            )
            for token in steps:
                tokens.append(token)
                piece = text.push(token.id)
                if piece:
                    yield TextDelta(piece)
                if token.id in self.stop_ids or text.stopped:
                    reason = "stop"
                    break
        except Cancelled:
            reason = "cancelled"
        finally:
            self.batcher.leave(cache)
            self._rest_cache(units, tokens, cache)
        rest = text.flush()
        if rest:
            yield TextDelta(rest)
        yield self._done(prepared, tokens, reason, text, watch, reused)

    @torch.inference_mode()
    def embed(
        self, prepared: ProcessedInputs, watch: Stopwatch, cancelled: Callable[[], bool] = lambda: False
    ) -> Tensor:
        """Run the encoders of the modalities that are there and fuse: `[length, H]`."""
        images: list[Tensor] = []
        audios: list[Tensor] = []
        if prepared.pixels is not None:
            pixels = prepared.pixels
            images = self.features.fill(
                prepared.tile_keys,
                lambda places: self._encode_pictures(_at(pixels, places), watch, cancelled),
            )
        if prepared.filterbanks:
            sounds = prepared.filterbanks
            audios = self.features.fill(
                prepared.sound_keys,
                lambda places: [self._encode_sound(sounds[k], watch, cancelled) for k in places],
            )
        return fuse(prepared.ids, self.decoder.embed.weight, images, audios, self.device)

    def _encode_pictures(self, pixels: Tensor, watch: Stopwatch, cancelled: Callable[[], bool]) -> list[Tensor]:
        with watch.stage("load"):
            vision, projector = cast(VisionEncoder, self.part("vision")), cast(Projector, self.part("projector"))
        rows: list[Tensor] = []
        with self.residency.encoding("vision", "projector"):
            for batch in pixels.split(tile_batch(self.device)):
                if cancelled():
                    raise Cancelled
                with watch.stage("vision"), self._turn:
                    made = projector(vision(batch.to(self.device)))
                    rows += [tile.clone() for tile in made]  # each [tokens, H], kept on its own
        return rows

    def _encode_sound(self, windows: Sequence[Tensor], watch: Stopwatch, cancelled: Callable[[], bool]) -> Tensor:
        with watch.stage("load"):
            encoder, adapter = cast(AudioEncoder, self.part("audio")), cast(AudioAdapter, self.part("adapter"))
        rows: list[Tensor] = []
        with self.residency.encoding("audio", "adapter"):
            for window in windows:
                if cancelled():
                    raise Cancelled
                frames = window.shape[0]
                with watch.stage("audio"), self._turn:
                    lengths = torch.tensor([frames], device=self.device)
                    out, _ = adapter(*encoder(window[None].to(self.device), lengths))
                    rows.append(out[0, : token_count(frames) + self.config.audio.prompt_tokens])
        return torch.cat(rows)

    def _units(self, prepared: ProcessedInputs) -> list[Unit]:
        rows = [audio_rows(windows, self.config) for windows in prepared.filterbanks]
        tile_rows = self.config.vision.tokens_per_tile
        return units_of(prepared.ids, prepared.tile_keys, tile_rows, prepared.sound_keys, rows)

    def _begin(self, units: list[Unit], capacity: int) -> tuple[KVCache, int]:
        """A cache with room for the request, holding as much of the prompt as was computed before; and how much."""
        found, shared = self.prefixes.take(units, capacity)
        if found is not None:
            return found, shared
        self._admit(capacity)
        config, rounded = self.config.decoder, self.quantized_kv_cache
        return KVCache(config, capacity, dtype=self.dtype, device=self.device, quantized=rounded), 0

    def _position_bytes(self) -> int:
        return KVCache.bytes_per_position(self.config.decoder, self.dtype, quantized=self.quantized_kv_cache)

    def _admit(self, capacity: int) -> None:
        """Whether there is memory for so many positions more, resting caches given up for them if need be."""
        need = capacity * self._position_bytes()
        if need > available_memory(self.device):
            self.prefixes.clear()  # what rests is worth less than an answer
        have = available_memory(self.device)
        if need > have:
            raise ResourceError(
                f"a request of {capacity} positions needs {need / 1e9:.2f} GB and {have / 1e9:.2f} GB are available",
                where=str(self.device), fix="ask for fewer tokens (--max-tokens), or wait until other requests end",
            )  # fmt: skip

    def _rest_cache(self, units: list[Unit], tokens: list[Token], cache: KVCache) -> None:
        """Keep what was computed: prompt and tokens that were fed back, however the answer ended."""
        kept = filled([*units, *(Unit(token.id) for token in tokens)], cache.length)
        cache.reset(rows_of(kept))
        self.prefixes.put(kept, cache)

    def _check_trained(self, prepared: ProcessedInputs) -> None:
        """An encoder whose weights were never trained would make the model invent; refuse instead."""
        if prepared.filterbanks and "audio" in self.checkpoint.untrained:
            raise RequestError(
                "this checkpoint was not trained to listen", where=self.checkpoint.folder.name,
                fix="type the question, or pass --model with a checkpoint that hears",
            )  # fmt: skip

    def _done(
        self, prepared: ProcessedInputs, tokens: list[Token], reason: FinishReason, text: Detokenizer, watch: Stopwatch,
        reused: int,
    ) -> Done:  # fmt: skip
        seconds = watch.seconds
        steps = max(0, len(tokens) - 1)
        cache_bytes = self._position_bytes()
        timings = Timings(
            media=seconds.get("media", 0.0), preprocess=seconds.get("preprocess", 0.0), load=seconds.get("load", 0.0),
            vision=seconds.get("vision", 0.0), audio=seconds.get("audio", 0.0), prefill=seconds.get("prefill", 0.0),
            decode=seconds.get("decode", 0.0), first_token=watch.first_token, total=watch.total, decode_tokens=steps,
            bytes_per_token=self._weight_bytes + cache_bytes * (prepared.length + steps // 2),
            peak_memory=peak_memory(self.device), device=str(self.device),
            gpu_utilisation=gpu_utilisation(self.device),
        )  # fmt: skip
        usage = Usage(
            prompt_tokens=prepared.length, text_tokens=prepared.length - prepared.image_tokens - prepared.audio_tokens,
            image_tokens=prepared.image_tokens, audio_tokens=prepared.audio_tokens, completion_tokens=len(tokens),
            reused_tokens=reused,
            tiles=0 if prepared.pixels is None else prepared.pixels.shape[0], pictures=prepared.pictures,
            audio_seconds=prepared.audio_seconds, dropped_messages=prepared.dropped,
        )  # fmt: skip
        logprobs = tuple(self._logprob(t) for t in tokens if t.logprob is not None)
        ids = tuple(t.id for t in tokens)
        notes = prepared.notes
        if reason == "length" and prepared.length + len(tokens) >= self.config.context:
            notes += (CONTEXT_FULL.format(self.config.context),)
        return Done(reason, text.state, usage, timings, ids, logprobs, notes)

    def _logprob(self, token: Token) -> TokenLogprob:
        def name(i: int) -> str:
            return self.tokenizer.decode([i])

        top = tuple((i, name(i), p) for i, p in token.top)
        return TokenLogprob(token.id, name(token.id), token.logprob or 0.0, top)


def _at(pixels: Tensor, places: list[int]) -> Tensor:
    """Some tiles, or all of them without a copy."""
    return pixels if len(places) == len(pixels) else pixels[places]

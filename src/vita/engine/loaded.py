"""One loaded model: its modules, tokenizer, device, formats and memory plan."""

from __future__ import annotations

import logging
import threading
import time

import torch

from vita.checkpoint.load import Part, Progress, check_tensors, load_part
from vita.checkpoint.open import Checkpoint
from vita.errors import RequestError
from vita.kernels.cpu.bindings import prepare_kernels
from vita.layers.linear import choose_route
from vita.model.audio import AudioEncoder
from vita.model.decoder import Decoder
from vita.model.projectors import AudioAdapter, Projector
from vita.model.vision import VisionEncoder
from vita.model.vita import PartName, VitaModel
from vita.options import EngineOptions
from vita.planning.memory_plan import Placement, plan_memory
from vita.planning.residency import WeightResidency, is_mapped
from vita.prompt.tokenizer import IM_START, Tokenizer
from vita.runtime.device import choose_device, choose_dtype
from vita.runtime.process import tune_malloc
from vita.types import MediaKind

log = logging.getLogger("vita")


class LoadedModel:
    """A checkpoint on a device. Each module is loaded when it is first used; `warm_up` loads all of them.

    Args:
        checkpoint: opened.
        options: device, formats and limits.
        progress: called after every tensor that is loaded.

    Attributes:
        config, tokenizer: of the checkpoint.
        parameters: learned values of each part.
        device, dtype, dtype_reason: chosen.
        quantize: scheme of the linear layers; None: not quantised.
        quantized_kv_cache: keys and values are held in eight bits.
        memory_plan: what was chosen to be loaded, and the KV budget.
        residency: releases pages of mapped weights.
        stop_ids: token ids that end an answer.
        weight_bytes: that one decode step reads; set by the engine, which chooses how steps are computed.

    Raises:
        CheckpointError: the tensors do not match the configuration.
        RequestError: options that do not suit the checkpoint.
        ResourceError: the device is missing, or the model is larger than the memory.
    """

    def __init__(self, checkpoint: Checkpoint, options: EngineOptions, progress: Progress | None = None) -> None:
        self.checkpoint, self.options, self.config = checkpoint, options, checkpoint.config
        self.tokenizer = Tokenizer.load(checkpoint.folder)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        if options.quantize is not None and checkpoint.quantized and options.scheme != checkpoint.quantized:
            raise RequestError(
                f"{options.quantize} was asked for, but the checkpoint is stored in {checkpoint.quantized}",
                where="quantize", fix="leave it out, or convert the original checkpoint",
            )  # fmt: skip
        self._model = VitaModel.on_meta(self.config, self.tokenizer.size, checkpoint.quantized)
        self.parameters = self._model.parameter_counts()
        total = sum(self.parameters.values())
        self.device = choose_device(options.device, total)
        self.dtype, self.dtype_reason = choose_dtype(options.dtype, self.config, total, self.device)
        check_tensors(checkpoint, self._model)
        self.quantized_kv_cache = options.quantized_kv_cache
        placement = Placement(
            device=self.device, dtype=self.dtype, mapped=is_mapped(checkpoint, self.dtype, self.device),
            quantized_kv_cache=self.quantized_kv_cache,
        )  # fmt: skip
        self.memory_plan = plan_memory(self._model, placement, options, checkpoint.quantized)
        self.quantize = self.memory_plan.scheme
        if self.quantize and not checkpoint.quantized:
            self._model.quantize(self.quantize)
        limited = options.memory is not None
        self.residency = WeightResidency(checkpoint, limited=limited, streamed_layers=self.memory_plan.streamed_layers)
        if self.device.type == "cpu" and not limited:  # freed blocks that are kept count against a limit
            tune_malloc()
        self._log_choices()
        prepare_kernels(self.device, self.dtype, self.quantize)
        self.stop_ids = frozenset(
            {*self.config.generation.eos_ids, self.tokenizer.im_end, self.tokenizer.token_id(IM_START)}
        )
        self._progress = progress
        self._loaded: set[PartName] = set()
        self._loading = threading.Lock()
        self.weight_bytes = 0

    @property
    def decoder(self) -> Decoder:
        return self._load("decoder", self._model.decoder)

    @property
    def vision(self) -> VisionEncoder:
        return self._load("vision", self._model.vision)

    @property
    def projector(self) -> Projector:
        return self._load("projector", self._model.projector)

    @property
    def audio(self) -> AudioEncoder:
        return self._load("audio", self._model.audio)

    @property
    def adapter(self) -> AudioAdapter:
        return self._load("adapter", self._model.adapter)

    @property
    def loaded(self) -> frozenset[PartName]:
        """Parts that have their weights."""
        return frozenset(self._loaded)

    def load_encoder(self, kind: MediaKind) -> float:
        """Load an encoder and its projector, if they are not; returns the seconds that took."""
        start, parts = time.perf_counter(), self._model
        before = len(self._loaded)
        if kind == "image":
            self._load("vision", parts.vision)
            self._load("projector", parts.projector)
        else:
            self._load("audio", parts.audio)
            self._load("adapter", parts.adapter)
        return time.perf_counter() - start if len(self._loaded) > before else 0.0

    def warm_up(self) -> None:
        """Load every part now, so that no request waits for it."""
        for part, module in self._model.parts():
            self._load(part, module)

    def _load(self, part: PartName, module: Part) -> Part:
        """The module with its weights, read on the first call."""
        if part not in self._loaded:
            with self._loading:
                if part not in self._loaded:
                    load_part(part, module, self.checkpoint, self.dtype, self.device, self._progress)
                    self.residency.register(part, module)
                    self._loaded.add(part)
        return module

    def _log_choices(self) -> None:
        route, reason = choose_route(self.device, self.dtype)
        log.info("%s on %s (%s); %s linears: %s", self.dtype, self.device, self.dtype_reason, route, reason)
        if self.quantize:
            log.info("linear layers are in %s", self.quantize)

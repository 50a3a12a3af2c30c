"""The decoder of speech tokens: text embeddings in, codec tokens out (spec section 9.2).

It is a Llama decoder of the shape of the model's own, so its layers, KV cache, kernels and CUDA graphs are those of the
text decoder. It attends both ways over the text, and causally over speech tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from vita.engine.decode import DecodeRunner, choose_decode_runner
from vita.engine.sampler import SamplingState, check_params, sample
from vita.errors import RequestError
from vita.layers.rope import rope_tables
from vita.model.decoder import Decoder, DecoderBlock
from vita.model.kv_cache import KVCache
from vita.model.native_decode import choose_native_decode
from vita.speech.config import SPECIAL_IDS, SpeechDecoderConfig
from vita.types import SamplingParams

MAX_TOKENS = 1000  # of one piece of text: 25 seconds


@dataclass(frozen=True)
class SpeechSampling:
    """How speech tokens are chosen. The defaults are those of the model's authors.

    Attributes:
        top_k: the token is drawn from so many most probable ones; 1: greedy.
        seed: makes the draws repeatable.
        penalty: divides the logit of each token among the last ones, once for every occurrence; 1 changes nothing.
        window: how many last tokens the penalty looks at.
        max_tokens: after which a piece of text ends in any case.

    Raises:
        RequestError: a value is of another type or out of range.
    """

    top_k: int = 2
    seed: int | None = None
    penalty: float = 1.0
    window: int = 0
    max_tokens: int = MAX_TOKENS

    def __post_init__(self) -> None:
        check_params(self._params())
        if not isinstance(self.window, int) or self.window < 0:
            raise RequestError(f"must be 0 or more, not {self.window!r}", where="window")
        if self.top_k < 1:
            raise RequestError(f"must be 1 or more, not {self.top_k!r}", where="top_k")

    def _params(self) -> SamplingParams:
        return SamplingParams(
            max_tokens=self.max_tokens, temperature=0.0 if self.top_k == 1 else 1.0, top_k=self.top_k, seed=self.seed,
            repetition_penalty=self.penalty,
        )  # fmt: skip

    def state(self) -> SamplingState:
        """The source of randomness of one stream of speech."""
        return SamplingState(replace(self._params(), repetition_penalty=1.0), 1.0)  # the penalty here is another one


@dataclass(eq=False)
class SpeechSequence:
    """The tokens of one piece of text, while they are decoded.

    Attributes:
        cache: its KV cache, filled with the prefix before the first step.
        options: how tokens are chosen.
        sampling: the state of the stream that the text belongs to.
        newest: the last token, to be fed by the next step.
        tokens: what was emitted; never the end token.
        ended: no further step.
    """

    cache: KVCache
    options: SpeechSampling
    sampling: SamplingState
    newest: int
    tokens: list[int] = field(default_factory=list)
    ended: bool = False


class PreNetwork(nn.Module):
    """Decoder layers that attend both ways, without a final norm."""

    def __init__(self, config: SpeechDecoderConfig) -> None:
        super().__init__()
        self.config = config.decoder
        self.layers = nn.ModuleList(DecoderBlock(config.decoder) for _ in range(config.pre_layers))

    def hidden_states(self, hidden: Tensor) -> Iterator[Tensor]:
        """Yield `hidden`, `[1, n, D]`, then each layer's output, of the same shape."""
        n, device = hidden.shape[1], hidden.device
        rope = rope_tables(
            torch.arange(n, device=device)[None], self.config.head_dim, self.config.rope_theta, hidden.dtype
        )
        yield hidden
        for layer in self.layers:
            hidden = layer(hidden, rope, None, 0, both_ways(n, device))
            yield hidden


class SpeechDecoder(nn.Module):
    """Pre-network and decoder of speech tokens.

    Args:
        config: sizes.
        usable: ids under this one can be heard: rows of the codec's embedding table. Default: every id.

    Attributes:
        cache_dtype: of new KV caches; None: that of the weights.
    """

    cache_dtype: torch.dtype | None = None

    def __init__(self, config: SpeechDecoderConfig, usable: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.usable = usable
        self.pre_network = PreNetwork(config)
        self.decoder = Decoder(config.decoder, config.codes + SPECIAL_IDS)

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    def choose_decode(self) -> DecodeRunner:
        """The fastest decode step for the device. New KV caches are those that it needs: on a CPU in float32."""
        native = choose_native_decode(self.decoder)
        if native is None:
            return choose_decode_runner(self.decoder, quantized_kv_cache=False)
        self.cache_dtype = torch.float32
        return native

    def new_cache(self, capacity: int) -> KVCache:
        """A KV cache for so many positions of one stream of speech."""
        dtype = self.cache_dtype or self.decoder.norm.weight.dtype
        return KVCache(self.config.decoder, capacity, dtype=dtype, device=self.device)

    def fill_prefix(self, hidden: Tensor, cache: KVCache) -> Iterator[Tensor]:
        """Fill an empty cache with the prefix of a piece of text: n + 1 positions. Pauses after every layer.

        Args:
            hidden: `[1, n, D]`, rows of the text's embeddings.
            cache: of at least n + 2 positions.
        """
        hidden = hidden.to(self.device, self.decoder.norm.weight.dtype)
        for state in self.pre_network.hidden_states(hidden):
            hidden = state
            yield state
        begin = self.decoder.embed_tokens(torch.tensor([[self.config.begin_id]]))  # [1, 1, D]
        prefix = torch.cat([begin, hidden], dim=1)  # [1, n + 1, D]
        yield from self.decoder.hidden_states(prefix, cache, mask=both_ways(prefix.shape[1], prefix.device))

    def start(self, cache: KVCache, options: SpeechSampling, sampling: SamplingState) -> SpeechSequence:
        """The sequence of a piece of text whose prefix is in the cache."""
        return SpeechSequence(cache, options, sampling, self.config.start_id)

    def step(self, decode: DecodeRunner, rows: Sequence[SpeechSequence]) -> None:
        """Decode one token of every sequence, up to 16 of them.

        Args:
            decode: computes the step; its decoder is `self.decoder`.
            rows: none of them has ended.
        """
        newest = torch.tensor([row.newest for row in rows], device=self.device)
        logits = decode(newest, [row.cache for row in rows])  # [rows, V + 4]
        tokens = sample(self._adjust(logits, rows), [row.sampling for row in rows]).tolist()
        for row, token in zip(rows, tokens, strict=True):
            row.newest = token
            if token == self.config.end_id:
                row.ended = True
                continue
            row.tokens.append(token)
            row.ended = len(row.tokens) >= row.options.max_tokens

    def _adjust(self, logits: Tensor, rows: Sequence[SpeechSequence]) -> Tensor:
        """Apply the repetition penalty, and exclude ids that the codec does not know."""
        penalised = [k for k, row in enumerate(rows) if row.options.penalty != 1 and row.options.window]
        if penalised or self.usable is not None:
            logits = logits.float().clone()
        for k in penalised:
            row = rows[k]
            recent = [self.config.start_id, *row.tokens][-row.options.window :]
            counts = torch.bincount(torch.tensor(recent), minlength=logits.shape[1]).to(logits.device)
            logits[k] /= row.options.penalty**counts
        if self.usable is not None:
            logits[:, self.usable : self.config.end_id] = float("-inf")
            logits[:, max(self.usable, self.config.end_id + 1) :] = float("-inf")
        return logits

    @torch.inference_mode()
    def generate(
        self, decode: DecodeRunner, hidden: Tensor, options: SpeechSampling, sampling: SamplingState | None = None
    ) -> list[int]:
        """All speech tokens of a piece of text; `hidden` as for `fill_prefix`."""
        cache = self.new_cache(hidden.shape[1] + 1 + options.max_tokens)
        for _ in self.fill_prefix(hidden, cache):
            pass
        row = self.start(cache, options, sampling or options.state())
        while not row.ended:
            self.step(decode, [row])
        return row.tokens


def both_ways(n: int, device: torch.device) -> Tensor:
    """A mask without which attention would be causal: every position attends to all. bool `[1, 1, n, n]`."""
    return torch.ones(1, 1, n, n, dtype=torch.bool, device=device)

"""The Qwen2 decoder, from embeddings to logits (spec section 8).

Images and audio enter as embedding rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from vita.config import DecoderConfig
from vita.layers.attention import Attend, attend
from vita.layers.linear import Linear
from vita.layers.norm import RMSNorm
from vita.layers.rope import CosSin, apply_rope, rope_tables
from vita.layers.swiglu import silu_mul
from vita.model.kv_cache import KVCache, KVCacheBatch, KVCacheRagged

Cache = KVCache | KVCacheBatch | KVCacheRagged


class FastPrefill(Protocol):
    """Prefill and head by other kernels than the decoder's modules (`model.fused_prefill`)."""

    def hidden_states(self, embeds: Tensor, cache: Cache) -> Iterator[Tensor]:
        """As `Decoder.hidden_states`. What is yielded is valid until the next layer runs, and the layers between the
        embeddings and the last may be left out."""

    def logits(self, hidden: Tensor) -> Tensor:
        """As `Decoder.logits`."""


class DecoderAttention(nn.Module):
    """Grouped-query causal attention, with biases on q, k and v if the configuration says so."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.attend: Attend = attend
        bias = config.attention_bias
        self.q = Linear(config.hidden_size, self.heads * self.head_dim, bias=bias)
        self.k = Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=bias)
        self.v = Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=bias)
        self.o = Linear(self.heads * self.head_dim, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rope: CosSin, cache: Cache | None, layer: int, mask: Tensor | None) -> Tensor:
        """`[batch, n, H]` to the same shape; appends to layer `layer` of the cache and attends to it."""
        batch, n, _ = x.shape
        q = apply_rope(self.q(x).view(batch, n, self.heads, self.head_dim), rope).transpose(1, 2)
        k = apply_rope(self.k(x).view(batch, n, self.kv_heads, self.head_dim), rope).transpose(1, 2)
        v = self.v(x).view(batch, n, self.kv_heads, self.head_dim).transpose(1, 2)
        if cache is None:
            out = self.attend(q, k, v, mask=mask, causal=mask is None and n > 1)  # [batch, heads, n, d]
        else:
            out = cache.attend(self.attend, layer, q, k, v, mask)
        return self.o(out.transpose(1, 2).reshape(batch, n, -1))


class DecoderMLP(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))`."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, n, H]` to the same shape."""
        return self.down(silu_mul(self.gate(x), self.up(x)))


class DecoderBlock(nn.Module):
    """Pre-norm attention and MLP with residual connections."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attn = DecoderAttention(config)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = DecoderMLP(config)

    def forward(self, x: Tensor, rope: CosSin, cache: Cache | None, layer: int, mask: Tensor | None) -> Tensor:
        """`[batch, n, H]` to the same shape."""
        x = x + self.attn(self.attn_norm(x), rope, cache, layer, mask)
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nn.Module):
    """The decoder: embeddings in, hidden states and logits out.

    Args:
        config: sizes.
        vocab_size: rows of the embedding table and the head, after the vocabulary is cut (spec section 1.6).

    Attributes:
        fast_prefill: runs prefill and the head, if it is set; the decoder's own operations run otherwise.
    """

    def __init__(self, config: DecoderConfig, vocab_size: int) -> None:
        super().__init__()
        self.fast_prefill: FastPrefill | None = None
        self.config = config
        # Not nn.Embedding's normal initialisation: on the meta device it imports PyTorch's compiler, which takes 0.9 s.
        table = torch.empty(vocab_size, config.hidden_size).uniform_(-1, 1)
        self.embed = nn.Embedding.from_pretrained(table, freeze=False)
        self.layers = nn.ModuleList(DecoderBlock(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = Linear(config.hidden_size, vocab_size, bias=config.head_bias)

    @property
    def device(self) -> torch.device:
        """The device of the layers; the embedding table may be on another one."""
        return self.norm.weight.device

    def set_embedding(self, values: Tensor) -> None:
        """Replace the embedding table by a copy of it, `[vocab, H]`, on another device or in pinned memory."""
        self.embed.weight = nn.Parameter(values, requires_grad=False)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Embeddings of token ids: int64 `[...]` to `[..., H]` on the decoder's device."""
        table = self.embed.weight
        return table[tokens.to(table.device)].to(self.device)

    def hidden_states(
        self, embeds: Tensor, cache: Cache | None = None, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yield the embeddings, then each layer's output, the last one after the final norm; each `[batch, n, H]`.

        A layer runs when its output is asked for, so a caller may do other work between layers.

        Args:
            embeds: `[batch, n, H]`, at the positions after those in the cache.
            cache: extended in place; None: without a cache.
            positions: int64 `[batch or 1, n]`; default: from the cache's length on.
            mask: bool `[batch or 1, 1, n, keys]`, True where a query attends; default: causal.
        """
        usual = len(embeds) == 1 and positions is None and mask is None
        if self.fast_prefill is not None and cache is not None and usual:
            yield from self.fast_prefill.hidden_states(embeds, cache)
            return
        n = embeds.shape[1]
        if positions is None:
            device = embeds.device
            positions = torch.arange(n, device=device)[None] if cache is None else cache.positions(n, device)
        rope = rope_tables(positions, self.config.head_dim, self.config.rope_theta, embeds.dtype)
        x = embeds
        for index, layer in enumerate(self.layers):
            yield x
            x = layer(x, rope, cache, index, mask)
        if cache is not None:
            cache.advance(n)
        yield self.norm(x)

    def forward(
        self, embeds: Tensor, cache: Cache | None = None, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Final hidden states `[batch, n, H]`; arguments as in `hidden_states`."""
        return deque(self.hidden_states(embeds, cache, positions, mask), maxlen=1).pop()  # frees the earlier ones

    def logits(self, hidden: Tensor) -> Tensor:
        """Final hidden states `[batch, n, H]` to logits `[batch, n, vocab]`, in the model's dtype."""
        return self.head(hidden) if self.fast_prefill is None else self.fast_prefill.logits(hidden)


def padded_mask(lengths: Tensor, n: int) -> Tensor:
    """Causal mask of a batch that is padded on the right: bool `[batch, 1, n, n]`.

    Padding attends to itself, so that no query is without keys.

    Args:
        lengths: int64 `[batch]`, without padding.
        n: padded length.
    """
    keys = torch.arange(n, device=lengths.device)
    causal = keys[None, :] <= keys[:, None]
    real = keys[None, :] < lengths[:, None]  # [batch, n]
    return (causal[None] & (real[:, None, :] | torch.eye(n, dtype=torch.bool, device=lengths.device)))[:, None]

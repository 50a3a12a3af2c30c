"""The Whale speech encoder (spec section 6, steps 1 to 6).

Owns the way from filterbank frames to encoder frames, as steps that can be called one by one. Does not know how
the filterbank was made, nor the decoder's width: the adapter is in `model.projectors`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from vita.config import AudioConfig
from vita.errors import MediaError
from vita.layers.attention import attend
from vita.layers.linear import Linear

MIN_FRAMES = 7  # fewer filterbank frames give no encoder frame


def encoder_frames(frames: int) -> int:
    """T' of T filterbank frames: `((T-1)//2 - 1)//2`."""
    return max(0, ((frames - 1) // 2 - 1) // 2)


class ConvSubsampling(nn.Module):
    """Two 3x3 stride-2 convolutions over time and frequency, then a linear: a quarter of the frame rate."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        dim = config.dim
        self.conv1 = nn.Conv2d(1, dim, 3, stride=2)
        self.conv2 = nn.Conv2d(dim, dim, 3, stride=2)
        self.out = Linear(dim * (((config.input_dim - 1) // 2 - 1) // 2), dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, T, 80]` to `[batch, T', E]`."""
        x = functional.relu(_conv2d(x.unsqueeze(1), self.conv1))
        x = functional.relu(_conv2d(x, self.conv2))  # [batch, E, T', 19]
        # Channel slow, frequency fast.
        return self.out(x.transpose(1, 2).flatten(2))


class WhaleAttention(nn.Module):
    """Attention with a position term indexed by the key's absolute place: there is no relative shift."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        dim = config.dim
        self.q, self.k, self.v, self.out = (Linear(dim, dim) for _ in range(4))
        self.pos = Linear(dim, dim, bias=False)
        self.bias_u = nn.Parameter(torch.zeros(self.heads, dim // self.heads))
        self.bias_v = nn.Parameter(torch.zeros(self.heads, dim // self.heads))

    def forward(self, x: Tensor, table: Tensor, mask: Tensor) -> Tensor:
        """`x [batch, T', E]`, `table [1, T', E]`, `mask` bool `[batch, 1, T' or 1, T']` to `[batch, T', E]`."""
        batch, length, dim = x.shape
        q = self.q(x).view(batch, length, self.heads, -1)
        k, v, p = (
            t.view(t.shape[0], length, self.heads, -1).transpose(1, 2) for t in (self.k(x), self.v(x), self.pos(table))
        )
        # (q+u)·k + (q+v)·p is one product of twice the width: attention sees [q+u ; q+v] against [k ; p].
        queries = torch.cat([q + self.bias_u, q + self.bias_v], dim=-1).transpose(1, 2)
        keys = torch.cat([k, p.expand(batch, -1, -1, -1)], dim=-1)
        out = attend(queries, keys, v, mask=mask.expand(-1, -1, length, -1), scale=(dim // self.heads) ** -0.5)
        # A query that may look at nothing gets zeros, not NaN.
        out = out.masked_fill(~mask.any(-1, keepdim=True), 0.0)
        return self.out(out.transpose(1, 2).reshape(batch, length, dim))


class WhaleBlock(nn.Module):
    """Attention and a ReLU feed-forward, norms before (the release) or after."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        self.attn = WhaleAttention(config)
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-5)
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-5)
        self.w1 = Linear(config.dim, config.linear_units)
        self.w2 = Linear(config.linear_units, config.dim)
        if config.concat_after:
            self.concat = Linear(2 * config.dim, config.dim)

    def forward(self, x: Tensor, table: Tensor, mask: Tensor) -> Tensor:
        """`[batch, T', E]` to the same shape."""
        before = self.config.normalize_before
        normed = self.norm1(x) if before else x
        attended = self.attn(normed, table, mask)
        if self.config.concat_after:
            attended = self.concat(torch.cat([normed, attended], dim=-1))
        x = x + attended
        if not before:
            x = self.norm1(x)
        normed = self.norm2(x) if before else x
        x = x + self.w2(self.w1.activated(normed, "relu"))
        return x if before else self.norm2(x)


class AudioEncoder(nn.Module):
    """Filterbank frames in, encoder frames at a quarter of the rate out."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        self.cmvn_mean = nn.Parameter(torch.zeros(config.input_dim), requires_grad=False)
        self.cmvn_istd = nn.Parameter(torch.ones(config.input_dim), requires_grad=False)
        self.subsample = ConvSubsampling(config)
        self.embed_linear = Linear(config.dim, config.dim)
        self.embed_norm = nn.LayerNorm(config.dim, eps=1e-5)
        self.layers = nn.ModuleList(WhaleBlock(config) for _ in range(config.num_layers))
        if config.normalize_before:
            self.after_norm = nn.LayerNorm(config.dim, eps=1e-5)

    def normalize(self, x: Tensor) -> Tensor:
        """Global mean and inverse deviation, in float32: `[batch, T, 80]` to the same shape."""
        normed = (x.float() - self.cmvn_mean.float()) * self.cmvn_istd.float()
        return normed.to(self.subsample.conv1.weight.dtype)

    def embed(self, x: Tensor) -> Tensor:
        """Linear, LayerNorm, ReLU: `[batch, T', E]`, before the factor sqrt(E)."""
        return functional.relu(self.embed_norm(self.embed_linear(x)))

    def placed(self, x: Tensor, table: Tensor) -> Tensor:
        """Times sqrt(E), positions added before where the checkpoint asks for it (`positions-in-input`; the release
        adds none: its frames do not know where they stand)."""
        return (x + table if self.config.positions_in_input else x) * math.sqrt(self.config.dim)

    def hidden_states(self, x: Tensor, lengths: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Frames `[batch, T', E]` before the layers, behind each layer, and last behind the final norm; each with the
        bool mask `[batch, T']`. Arguments and errors as for `forward`."""
        check_frames(x.shape[1], self.config.max_frames)
        mask = frame_mask(x.shape[1], lengths)
        x = self.embed(self.subsample(self.normalize(x)))
        table = position_table(x.shape[1], self.config.dim, x.device).to(x.dtype)
        x = self.placed(x, table)
        allowed = self.attention_mask(mask)
        for layer in self.layers:
            yield x, mask
            x = layer(x, table, allowed)
        yield self.finish(x), mask

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Filterbanks to encoder frames.

        Args:
            x: float32 `[batch, T, 80]`, zero-padded at the end.
            lengths: int64 `[batch]`, real frames of each row.

        Returns:
            frames `[batch, T', E]` and bool mask `[batch, T']`.

        Raises:
            MediaError: T is under 7, or T' is over the position table's 5,000 rows (200 s).
        """
        return deque(self.hidden_states(x, lengths), maxlen=1).pop()  # the others are not kept

    def finish(self, x: Tensor) -> Tensor:
        """The norm after the last block, where the release has one."""
        return self.after_norm(x) if self.config.normalize_before else x

    def attention_mask(self, mask: Tensor) -> Tensor:
        """Which keys each query may see: bool `[batch, 1, T' or 1, T']` from the frame mask `[batch, T']`.

        With dynamic chunks the reference draws random chunk sizes even in evaluation; we look at everything,
        so that answers repeat.
        """
        keys = mask[:, None, None, :]
        if self.config.dynamic_chunks or self.config.chunk_size <= 0:
            return keys
        return keys & chunk_mask(mask.shape[1], self.config.chunk_size, self.config.left_chunks, mask.device)


def check_frames(frames: int, max_frames: int) -> None:
    """Refuses what gives no encoder frame, or more of them than the position table has rows."""
    if frames < MIN_FRAMES:
        raise MediaError(f"{frames} filterbank frames are too few, the encoder needs {MIN_FRAMES}")
    if encoder_frames(frames) > max_frames:
        raise MediaError(
            f"{encoder_frames(frames)} encoder frames are more than the position table's {max_frames}",
            fix="split the sound into windows",
        )


def frame_mask(frames: int, lengths: Tensor) -> Tensor:
    """bool `[batch, T']`: which encoder frames of a padded batch are real."""
    mask = torch.arange(frames, device=lengths.device)[None, :] < lengths[:, None]
    return mask[:, 2::2][:, 2::2]


def position_table(length: int, dim: int, device: torch.device) -> Tensor:
    """Sines and cosines, interleaved: float32 `[1, length, dim]`."""
    rate = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32, device=device) * -(math.log(10000.0) / dim))
    angle = torch.arange(length, dtype=torch.float32, device=device)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).unsqueeze(0)


def chunk_mask(length: int, chunk: int, left: int, device: torch.device) -> Tensor:
    """bool `[1, 1, length, length]`: query i sees its own chunk and `left` chunks before it (all if negative)."""
    index = torch.arange(length, device=device)
    own = index // chunk
    start = torch.zeros_like(own) if left < 0 else ((own - left) * chunk).clamp(min=0)
    end = (own + 1) * chunk
    return ((index[None, :] >= start[:, None]) & (index[None, :] < end[:, None]))[None, None]


def _conv2d(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The convolution, in float32 on a CPU: half-precision convolutions are scalar loops on many CPUs."""
    if x.device.type != "cpu" or x.dtype == torch.float32:
        return conv(x)
    bias = None if conv.bias is None else conv.bias.float()
    return functional.conv2d(x.float(), conv.weight.float(), bias, stride=conv.stride).to(x.dtype)

"""The audio encoder (Whale), from filterbank frames to encoder frames (spec section 6, steps 1 to 6).

Each step is a method of its own, so that `vita verify` can compare them. The adapter to the decoder's hidden size is in
`model.projectors`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vita.config import AudioConfig
from vita.errors import MediaError
from vita.layers.attention import Attend, attend
from vita.layers.linear import Linear

MIN_FRAMES = 7  # filterbank frames that give one encoder frame
SUBSAMPLING_PIECE = 64  # encoder frames that are subsampled together; 30 s at once take as long as five layers


def encoder_frames(frames: int) -> int:
    """Number of encoder frames T' for T filterbank frames: `((T-1)//2 - 1)//2`."""
    return max(0, ((frames - 1) // 2 - 1) // 2)


class ConvSubsampling(nn.Module):
    """Two 3x3 convolutions of stride 2 over time and frequency, then a linear layer: a quarter of the frame rate."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        dim = config.dim
        self.conv1 = nn.Conv2d(1, dim, 3, stride=2)
        self.conv2 = nn.Conv2d(dim, dim, 3, stride=2)
        self.out = Linear(dim * (((config.input_dim - 1) // 2 - 1) // 2), dim)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, T, 80]` to `[batch, T', E]`, E the encoder's size."""
        x = functional.relu(_conv2d(x.unsqueeze(1), self.conv1))
        x = functional.relu(_conv2d(x, self.conv2))  # [batch, E, T', 19]
        # Flatten with the frequency as the fastest index: [batch, T', E * 19].
        return self.out(x.transpose(1, 2).flatten(2))


class WhaleAttention(nn.Module):
    """Self-attention with a position term by the key's absolute position, without a relative shift."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.attend: Attend = attend
        dim = config.dim
        self.q, self.k, self.v, self.out = (Linear(dim, dim) for _ in range(4))
        self.pos = Linear(dim, dim, bias=False)
        self.bias_u = nn.Parameter(torch.zeros(self.heads, dim // self.heads))
        self.bias_v = nn.Parameter(torch.zeros(self.heads, dim // self.heads))

    def forward(self, x: Tensor, table: Tensor, mask: Tensor | None, lengths: Sequence[int] | None = None) -> Tensor:
        """Frames attend to the frames of their clip.

        Args:
            x: `[batch, T', E]`, of clips one after another.
            table: `[1, longest, E]`.
            mask: bool `[batch, 1, longest or 1, longest]`; None: every query attends to all keys of its clip.
            lengths: of the clips, with the sum T'; None: there is one.

        Returns:
            `[batch, T', E]`.
        """
        batch, length, dim = x.shape
        q = self.q(x).view(batch, length, self.heads, -1)
        k, v, p = (
            t.view(*t.shape[:2], self.heads, -1).transpose(1, 2) for t in (self.k(x), self.v(x), self.pos(table))
        )
        # (q+u)·k + (q+v)·p is one dot product of twice the head size: [q+u ; q+v] · [k ; p].
        queries = torch.cat([q + self.bias_u, q + self.bias_v], dim=-1).transpose(1, 2)
        p = p.expand(batch, -1, -1, -1)
        if lengths is None or len(lengths) == 1:
            out = self._attend_clip(queries, k, v, p, mask)
        else:
            clips = zip(*(t.split(list(lengths), dim=2) for t in (queries, k, v)), strict=True)
            out = torch.cat([self._attend_clip(q, k, v, p, mask) for q, k, v in clips], dim=2)
        return self.out(out.transpose(1, 2).reshape(batch, length, dim))

    def _attend_clip(self, queries: Tensor, k: Tensor, v: Tensor, p: Tensor, mask: Tensor | None) -> Tensor:
        """`queries [batch, heads, n, 2 d]`, `k`, `v` and `p [batch, heads, n (p: or more), d]` to the shape of `v`."""
        length = k.shape[2]
        keys = torch.cat([k, p[:, :, :length]], dim=-1)
        if mask is None:
            return self.attend(queries, keys, v, mask=None, scale=k.shape[-1] ** -0.5)
        mask = mask[:, :, :length, :length]
        out = self.attend(queries, keys, v, mask=mask.expand(-1, -1, length, -1), scale=k.shape[-1] ** -0.5)
        return out.masked_fill(~mask.any(-1, keepdim=True), 0.0)  # zeros, not NaN, for a query without any allowed key


class WhaleBlock(nn.Module):
    """Self-attention and a ReLU feed-forward network, pre-norm (the released model) or post-norm."""

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

    def forward(self, x: Tensor, table: Tensor, mask: Tensor | None, lengths: Sequence[int] | None = None) -> Tensor:
        """`[batch, T', E]` to the same shape; arguments as of `WhaleAttention`."""
        before = self.config.normalize_before
        normed = self.norm1(x) if before else x
        attended = self.attn(normed, table, mask, lengths)
        if self.config.concat_after:
            attended = self.concat(torch.cat([normed, attended], dim=-1))
        x = x + attended
        if not before:
            x = self.norm1(x)
        normed = self.norm2(x) if before else x
        x = x + self.w2(self.w1.with_activation(normed, "relu"))
        return x if before else self.norm2(x)


class AudioEncoder(nn.Module):
    """Filterbank frames in, encoder frames at a quarter of their rate out."""

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
        """Apply global CMVN in float32, then cast to the dtype of the weights: `[batch, T, 80]` to the same shape."""
        normed = (x.float() - self.cmvn_mean.float()) * self.cmvn_istd.float()
        return normed.to(self.subsample.conv1.weight.dtype)

    def embed(self, x: Tensor) -> Tensor:
        """Linear, LayerNorm, ReLU: `[batch, T', E]` to the same shape."""
        return functional.relu(self.embed_norm(self.embed_linear(x)))

    def add_positions(self, x: Tensor, table: Tensor) -> Tensor:
        """Add the position table if the config sets `positions_in_input`, then multiply by sqrt(E).

        The released model adds none: its frames carry no positions.
        """
        return (x + table if self.config.positions_in_input else x) * math.sqrt(self.config.dim)

    def hidden_states(self, x: Tensor, lengths: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Frames `[batch, T', E]` before the layers, behind each layer, and last behind the final norm; each with the
        bool mask `[batch, T']`. Arguments and errors as for `forward`."""
        subsampled = torch.cat(list(self.subsample_pieces(x)), dim=1)
        yield from self.layer_states(subsampled, frame_mask(x.shape[1], lengths))

    def subsample_pieces(self, x: Tensor) -> Iterator[Tensor]:
        """Subsampled frames of `[batch, T, 80]` in pieces `[batch, up to 64, E]`, so that a caller may do other work
        between them. The pieces depend on T alone.

        Raises:
            MediaError: as for `forward`.
        """
        check_frames(x.shape[1], self.config.max_frames)
        count = encoder_frames(x.shape[1])
        for start in range(0, count, SUBSAMPLING_PIECE):
            end = min(start + SUBSAMPLING_PIECE, count)
            # Encoder frame j reads the filterbank frames 4 j to 4 j + 6.
            yield self.subsample(self.normalize(x[:, 4 * start : 4 * (end - 1) + MIN_FRAMES]))

    def layer_states(self, subsampled: Tensor, mask: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """As `hidden_states`, from subsampled frames `[batch, T', E]` and their mask `[batch, T']`."""
        length = subsampled.shape[1]
        for x in self._layer_states(subsampled, [length], self.attention_mask(mask)):
            yield x, mask

    def packed_states(self, clips: Sequence[Tensor]) -> Iterator[Tensor]:
        """As `layer_states`, of clips of any length without padding, one after another.

        Without a mask attention is several times as fast on a CPU, and several clips read the weights once.

        Args:
            clips: subsampled frames, `[1, T', E]` each.

        Yields:
            `[1, sum of T', E]`.
        """
        lengths, device = [clip.shape[1] for clip in clips], clips[0].device
        longest = torch.ones(1, max(lengths), dtype=torch.bool, device=device)
        mask = self.attention_mask(longest) if self.has_chunks else None
        yield from self._layer_states(torch.cat(list(clips), dim=1), lengths, mask)

    def _layer_states(self, subsampled: Tensor, lengths: Sequence[int], mask: Tensor | None) -> Iterator[Tensor]:
        x = self.embed(subsampled)
        table = position_table(max(lengths), self.config.dim, x.device).to(x.dtype)
        x = self.add_positions(x, torch.cat([table[:, :length] for length in lengths], dim=1))
        for layer in self.layers:
            yield x
            x = layer(x, table, mask, lengths)
        yield self.final_norm(x)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode filterbank frames.

        Args:
            x: float32 `[batch, T, 80]`, zero-padded at the end.
            lengths: int64 `[batch]`, frames of each row without padding.

        Returns:
            frames `[batch, T', E]` and bool mask `[batch, T']`, False for padding.

        Raises:
            MediaError: T is less than 7, or T' more than the position table's 5,000 rows (200 s).
        """
        return deque(self.hidden_states(x, lengths), maxlen=1).pop()  # the others are not kept

    def final_norm(self, x: Tensor) -> Tensor:
        """LayerNorm after the last block of a pre-norm encoder: `[batch, T', E]`."""
        return self.after_norm(x) if self.config.normalize_before else x

    @property
    def has_chunks(self) -> bool:
        """Whether attention is limited to chunks of a fixed size."""
        return self.config.chunk_size > 0 and not self.config.dynamic_chunks

    def attention_mask(self, mask: Tensor) -> Tensor:
        """Keys that each query attends to: bool `[batch, 1, T' or 1, T']` from the frame mask `[batch, T']`.

        With dynamic chunks the reference draws random chunk sizes even in evaluation. Here every query attends to all
        keys, so that answers are reproducible.
        """
        keys = mask[:, None, None, :]
        if not self.has_chunks:
            return keys
        return keys & chunk_mask(mask.shape[1], self.config.chunk_size, self.config.left_chunks, mask.device)


def check_frames(frames: int, max_frames: int) -> None:
    """Raise MediaError if so many filterbank frames give no encoder frame, or more than `max_frames`."""
    if frames < MIN_FRAMES:
        raise MediaError(f"{frames} filterbank frames are too few, the encoder needs {MIN_FRAMES}")
    if encoder_frames(frames) > max_frames:
        raise MediaError(
            f"{encoder_frames(frames)} encoder frames are more than the position table's {max_frames}",
            fix="split the audio into windows",
        )


def frame_mask(frames: int, lengths: Tensor) -> Tensor:
    """Mask of the encoder frames of a padded batch: bool `[batch, T']`, False for padding."""
    mask = torch.arange(frames, device=lengths.device)[None, :] < lengths[:, None]
    return mask[:, 2::2][:, 2::2]


def position_table(length: int, dim: int, device: torch.device) -> Tensor:
    """Sinusoidal positions, sines and cosines interleaved: float32 `[1, length, dim]`."""
    rate = torch.exp(torch.arange(0, dim, 2, dtype=torch.float32, device=device) * -(math.log(10000.0) / dim))
    angle = torch.arange(length, dtype=torch.float32, device=device)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).unsqueeze(0)


def chunk_mask(length: int, chunk: int, left: int, device: torch.device) -> Tensor:
    """bool `[1, 1, length, length]`: a query attends to its chunk and `left` chunks before it (all if negative)."""
    index = torch.arange(length, device=device)
    query_chunk = index // chunk
    start = torch.zeros_like(query_chunk) if left < 0 else ((query_chunk - left) * chunk).clamp(min=0)
    end = (query_chunk + 1) * chunk
    return ((index[None, :] >= start[:, None]) & (index[None, :] < end[:, None]))[None, None]


def _conv2d(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Apply a convolution, on a CPU in float32: in half precision many CPUs run a scalar loop."""
    if x.device.type != "cpu" or x.dtype == torch.float32:
        return conv(x)
    bias = None if conv.bias is None else conv.bias.float()
    return functional.conv2d(x.float(), conv.weight.float(), bias, stride=conv.stride).to(x.dtype)

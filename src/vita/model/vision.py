"""The vision encoder: InternViT and pixel shuffle (spec section 4).

The projector to the decoder's hidden size is in `model.projectors`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from vita.config import VisionConfig
from vita.layers.attention import Attend, attend
from vita.layers.linear import Activation, Linear
from vita.layers.norm import RMSNorm

FEATURE_SCALE = 0.5  # the reference also multiplies features by its shuffle factor (spec section 4)


def _norm(config: VisionConfig) -> nn.Module:
    if config.norm_type == "rms_norm":
        return RMSNorm(config.hidden_size, config.layer_norm_eps)
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class VisionAttention(nn.Module):
    """Self-attention over the patches of one tile, without a mask."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.attend: Attend = attend
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.proj = Linear(config.hidden_size, config.hidden_size)
        if config.qk_normalization:
            self.q_norm = RMSNorm(config.hidden_size, config.layer_norm_eps)
            self.k_norm = RMSNorm(config.hidden_size, config.layer_norm_eps)
        self.qk_normalization = config.qk_normalization

    def forward(self, x: Tensor) -> Tensor:
        """`[tiles, 1 + G*G, C]` to the same shape."""
        tiles, length, width = x.shape
        q, k, v = self.qkv(x).split(width, dim=-1)
        if self.qk_normalization:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (t.view(tiles, length, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        out = self.attend(q, k, v)  # [tiles, heads, length, C / heads]
        return self.proj(out.transpose(1, 2).reshape(tiles, length, width))


class VisionMLP(nn.Module):
    """Two linear layers with exact (erf) GELU or ReLU between them."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)
        self.activation: Activation = "relu" if config.hidden_act == "relu" else "gelu"

    def forward(self, x: Tensor) -> Tensor:
        """`[..., C]` to `[..., C]`."""
        return self.fc2(self.fc1.with_activation(x, self.activation))


class VisionBlock(nn.Module):
    """Pre-norm block with LayerScale: a learned scale per channel on both branches."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = _norm(config)
        self.attn = VisionAttention(config)
        self.scale1 = nn.Parameter(torch.ones(config.hidden_size))
        self.norm2 = _norm(config)
        self.mlp = VisionMLP(config)
        self.scale2 = nn.Parameter(torch.ones(config.hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """`[tiles, 1 + G*G, C]` to the same shape."""
        x = x + self.attn(self.norm1(x)) * self.scale1
        return x + self.mlp(self.norm2(x)) * self.scale2


class VisionEncoder(nn.Module):
    """Normalised tiles in, `(G/2)²` features of size 4C per tile out; G patches a side, C hidden size."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, size))
        self.positions = nn.Parameter(torch.zeros(1, 1 + config.grid**2, size))
        self.patch = nn.Parameter(torch.zeros(size, 3, config.patch_size, config.patch_size))
        self.patch_bias = nn.Parameter(torch.zeros(size))
        self.layers = nn.ModuleList(VisionBlock(config) for _ in range(config.num_layers))

    def embed(self, pixels: Tensor) -> Tensor:
        """Patch, class and position embeddings: `[tiles, 3, S, S]` to `[tiles, 1 + G*G, C]`."""
        p = self.config.patch_size
        tiles, channels, height, width = pixels.shape
        rows, cols = height // p, width // p
        # A stride-p convolution is one matmul over flattened patches, which is faster than a convolution on CPUs.
        patches = pixels[:, :, : rows * p, : cols * p].reshape(tiles, channels, rows, p, cols, p)
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(tiles, rows * cols, channels * p * p)
        kernel = self.patch.reshape(self.patch.shape[0], -1)  # [C, 3 * p * p]
        # In float32: it avoids the slow half-precision CPU kernel and costs little, since there are few parameters.
        x = functional.linear(patches.float(), kernel.float(), self.patch_bias.float()).to(self.patch.dtype)
        x = torch.cat([self.class_embedding.expand(tiles, -1, -1), x], dim=1)
        return x + self.position_table(rows, cols)

    def position_table(self, rows: int, cols: int) -> Tensor:
        """Position embeddings of a grid, `[1, 1 + rows*cols, C]`; another grid than the native one is interpolated."""
        grid = self.config.grid
        if (rows, cols) == (grid, grid):
            return self.positions
        square = self.positions[:, 1:].float().reshape(1, grid, grid, -1).permute(0, 3, 1, 2)  # [1, C, G, G]
        square = functional.interpolate(square, size=(rows, cols), mode="bicubic", align_corners=False)
        flat = square.flatten(2).transpose(1, 2).to(self.positions.dtype)  # [1, rows*cols, C]
        return torch.cat([self.positions[:, :1], flat], dim=1)

    def hidden_states(self, pixels: Tensor) -> Iterator[Tensor]:
        """Yield the embeddings, then each layer's output, each `[tiles, 1 + G*G, C]`."""
        x = self.embed(pixels)
        yield x
        for layer in self.layers:
            x = layer(x)
            yield x

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised tiles `[tiles, 3, S, S]` to features `[tiles, (G/2)², 4C]`; no norm after the last layer."""
        x = self.embed(pixels)
        for layer in self.layers:
            x = layer(x)
        return self.extract_features(x)

    def extract_features(self, hidden: Tensor) -> Tensor:
        """Drop the class token, scale and pixel-shuffle: `[tiles, 1 + G*G, C]` to `[tiles, (G/2)², 4C]`."""
        return pixel_shuffle(hidden[:, 1:] * FEATURE_SCALE)


def pixel_shuffle(x: Tensor) -> Tensor:
    """Merge each 2x2 block of patches into one token: `[tiles, G*G, C]` to `[tiles, (G/2)², 4C]`.

    Token (r, c) concatenates the channels of patches (2r, 2c), (2r, 2c+1), (2r+1, 2c), (2r+1, 2c+1).
    """
    tiles, patches, width = x.shape
    half = int(patches**0.5) // 2
    x = x.reshape(tiles, half, 2, half, 2, width).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(tiles, half * half, 4 * width)

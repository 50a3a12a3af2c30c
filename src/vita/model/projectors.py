"""Map encoder features to decoder embeddings: vision projector, audio adapter (spec sections 4, 6.7)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vita.config import AudioConfig
from vita.layers.linear import Linear


class Projector(nn.Module):
    """Vision projector `mlpNx_gelu`: N linear layers with exact (erf) GELU between them."""

    def __init__(self, in_size: int, out_size: int, layers: int) -> None:
        super().__init__()
        sizes = [in_size] + [out_size] * layers
        self.linears = nn.ModuleList(Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """`[tiles, tokens, 4C]` to `[tiles, tokens, H]`."""
        *first, last = cast(Iterable[Linear], self.linears)
        for linear in first:
            x = linear.with_activation(x, "gelu")
        return last(x)


class AudioAdapter(nn.Module):
    """Halves the frame rate and projects to the decoder's hidden size."""

    def __init__(self, config: AudioConfig, out_size: int) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.conv = nn.Conv1d(dim, 2 * dim, config.adapter_kernel, stride=2)
        self.norm: nn.Module = (
            nn.BatchNorm1d(2 * dim, eps=1e-3) if config.adapter_norm == "batch" else nn.LayerNorm(2 * dim, eps=1e-3)
        )
        self.project = Linear(2 * dim, out_size)
        if config.prompt_tokens:
            self.prompt = nn.Parameter(torch.zeros(config.prompt_tokens, out_size))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map encoder frames to decoder embeddings.

        Args:
            x: `[batch, T', E]`.
            mask: bool `[batch, T']`, False for padding.

        Returns:
            embeddings `[batch, prompt_tokens + ceil(T'/2), H]` and mask `[batch, ceil(T'/2)]`.
        """
        x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
        # Pad on the right only, which gives ceil(T'/2) frames.
        x = functional.pad(x.transpose(1, 2), (0, self.config.adapter_kernel - 1))  # [batch, E, T' + 4]
        x = _conv1d(x, self.conv)  # [batch, 2E, ceil(T'/2)]
        x = self.norm(x).transpose(1, 2) if self.config.adapter_norm == "batch" else self.norm(x.transpose(1, 2))
        x = functional.gelu(x) if self.config.adapter_activation == "gelu" else functional.relu(x)
        x = self.project(x)
        if self.config.prompt_tokens:
            x = torch.cat([self.prompt.expand(x.shape[0], -1, -1), x], dim=1)
        return x, mask[:, 0::2]


def _conv1d(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Apply a convolution, on a CPU in float32: in half precision many CPUs run a scalar loop."""
    if x.device.type != "cpu" or x.dtype == torch.float32:
        return conv(x)
    bias = None if conv.bias is None else conv.bias.float()
    return functional.conv1d(x.float(), conv.weight.float(), bias, stride=conv.stride).to(x.dtype)

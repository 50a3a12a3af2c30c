"""The codec's generator: speech tokens in, 24-kHz audio out (spec section 9.3).

Activations are rows, `[frames, channels]`. A stream feeds every layer the rows that are new and keeps those that its
next output needs, so nothing is computed twice and pieces joined equal the audio computed at once. T tokens give
exactly 600 * T samples.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vita.kernels.cpu.conv import conv_kernel
from vita.speech.config import CODE_SIZE, GLOBAL_SIZE, SAMPLES_PER_TOKEN, CodecConfig

SLOPE = 0.1  # of every leaky ReLU
OUTER_KERNEL = 7  # of the first and the last convolution

CodecSteps = Generator[None, None, Tensor]  # pauses after every convolution, and returns rows


class Conv(nn.Module):
    """A dilated convolution along the rows, without padding, as matrix multiplications.

    On a CPU one for each tap: as fast as PyTorch's convolution for many rows and faster for few, and no new shape costs
    time, as it does where kernels are generated for a shape. Streams have a kernel of their own there.

    Attributes:
        weight: `[kernel, in, out]`.
        bias: `[out]`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(kernel, in_channels, out_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.dilation = dilation

    @property
    def span(self) -> int:
        """Rows that an output needs beside one."""
        return (self.weight.shape[0] - 1) * self.dilation

    def forward(self, x: Tensor) -> Tensor:
        """`[n, in]` to `[n - span, out]`, all in the dtype of the weight."""
        return self.by_taps(x) if x.device.type == "cpu" else self.unfolded(x)

    def by_taps(self, x: Tensor) -> Tensor:
        """One matrix multiplication for each tap."""
        n = len(x) - self.span
        out = torch.addmm(self.bias, x[:n], self.weight[0])
        for tap in range(1, len(self.weight)):
            start = tap * self.dilation
            out.addmm_(x[start : start + n], self.weight[tap])
        return out

    def unfolded(self, x: Tensor) -> Tensor:
        """One matrix multiplication with a copy of the rows of every tap: few launches on a GPU."""
        (kernel, inputs, outputs), n, x = self.weight.shape, len(x) - self.span, x.contiguous()
        rows = x.as_strided((n, kernel, inputs), (inputs, self.dilation * inputs, 1)).reshape(n, -1)
        return torch.addmm(self.bias, rows, self.weight.view(kernel * inputs, outputs))

    @staticmethod
    def stored(weight: Tensor) -> Tensor:
        """`[out, in, kernel]` of a checkpoint as `weight`."""
        return weight.permute(2, 1, 0).contiguous()


class Upsample(nn.Module):
    """A transposed convolution along the rows, as a matrix multiplication; without its bias and cropping.

    Attributes:
        weight: `[taps * rate * out, in]`: row `(tap * rate + phase) * out + channel`, zeros behind the kernel.
        bias: `[out]`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, rate: int) -> None:
        super().__init__()
        self.rate, self.out_channels, self.kernel = rate, out_channels, kernel
        self.taps = -(-kernel // rate)
        self.weight = nn.Parameter(torch.empty(self.taps * rate * out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))

    @property
    def crop(self) -> int:
        """Rows that are cut off at both ends of the result."""
        return (self.kernel - self.rate) // 2

    def forward(self, x: Tensor) -> Tensor:
        """`[n, in]` to float32 sums `[n + taps - 1, rate, out]`, of which the last `taps - 1` are not complete."""
        n = len(x)
        terms = functional.linear(x, self.weight).view(n, self.taps, self.rate, self.out_channels)
        sums = terms.new_zeros(n + self.taps - 1, self.rate, self.out_channels, dtype=torch.float32)
        for tap in range(self.taps):
            sums[tap : tap + n] += terms[:, tap]
        return sums

    @staticmethod
    def stored(weight: Tensor, rate: int) -> Tensor:
        """`[in, out, kernel]` of a checkpoint as `weight`."""
        padded = functional.pad(weight, (0, -weight.shape[2] % rate))  # [in, out, taps * rate]
        return padded.permute(2, 1, 0).reshape(-1, weight.shape[0]).contiguous()


class ResidualBlock(nn.Module):
    """Dilated convolutions, each or each pair with a residual connection.

    Args:
        channels: of the rows.
        kernel: of every convolution.
        dilations: of the residual connections, in their order.
        paired: a second convolution, without dilation, follows each ("1" in the configuration).
    """

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int], paired: bool) -> None:
        super().__init__()
        first = nn.ModuleList(Conv(channels, channels, kernel, dilation) for dilation in dilations)
        if paired:
            self.convs1 = first
            self.convs2 = nn.ModuleList(Conv(channels, channels, kernel) for _ in dilations)
            self.chains = [list(pair) for pair in zip(self.convs1, self.convs2, strict=True)]
        else:
            self.convs = first
            self.chains = [[conv] for conv in first]

    @property
    def kept(self) -> int:
        """Rows at the end whose output depends on rows to come."""
        return sum(cast(Conv, conv).span // 2 for chain in self.chains for conv in chain)


class Codec(nn.Module):
    """Tables of codes, and the generator.

    Args:
        config: sizes.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        count = len(config.global_tokens)
        self.codes = _table(config.codes, CODE_SIZE)
        self.global_codes = nn.ModuleList(_table(config.codes, GLOBAL_SIZE // count) for _ in range(count))
        channels = config.channels
        self.conv_pre = Conv(CODE_SIZE, channels, OUTER_KERNEL)
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        self._kept: list[tuple[int, int, int]] = []  # rate, crop and half the longest span of each stage
        for rate, kernel in zip(config.rates, config.kernels, strict=True):
            up = Upsample(channels, channels // 2, kernel, rate)
            channels //= 2
            blocks = [
                ResidualBlock(channels, size, dilations, config.resblock == "1")
                for size, dilations in zip(config.block_kernels, config.block_dilations, strict=True)
            ]
            self.ups.append(up)
            self.blocks.extend(blocks)
            self._kept.append((rate, up.crop, max(block.kept for block in blocks)))
        self.conv_post = Conv(channels, 1, OUTER_KERNEL)

    @property
    def device(self) -> torch.device:
        return self.conv_post.weight.device

    def global_vector(self) -> Tensor:
        """The voice: `[128]`."""
        pairs = zip(self.global_codes, self.config.global_tokens, strict=True)
        return torch.cat([cast(nn.Embedding, table).weight[token] for table, token in pairs])

    def samples_after(self, tokens: int) -> int:
        """Samples that a stream has given after so many tokens, if there may be more: 600 a token, without those that
        depend on tokens to come."""
        rows = tokens - self.conv_pre.span // 2
        for rate, crop, kept in self._kept:
            rows = max(0, rows) * rate - crop - kept
        return max(0, rows - self.conv_post.span // 2)

    def tokens_for(self, samples: int) -> int:
        """The fewest tokens after which a stream has given so many samples."""
        tokens = samples // SAMPLES_PER_TOKEN
        while self.samples_after(tokens) < samples:
            tokens += 1
        return tokens

    @torch.inference_mode()
    def forward(self, tokens: Sequence[int]) -> Tensor:
        """Audio of all tokens: float32 `[600 * T]`, between -1 and 1."""
        return finish(CodecStream(self).push(tokens, last=True))


def finish(steps: CodecSteps) -> Tensor:
    """Run steps to their end, and return what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


class CodecStream:
    """Explicit state of one run of the codec.

    Args:
        codec: the weights.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self.reset()

    def reset(self) -> None:
        """Before the first token of another run."""
        codec, config = self._codec, self._codec.config
        self._pre, self._post = _ConvStream(codec.conv_pre, activate=False), _ConvStream(codec.conv_post)
        count = len(config.block_kernels)
        self._stages = [
            _StageStream(up, codec.blocks[stage * count : (stage + 1) * count], codec)
            for stage, up in enumerate(codec.ups)
        ]

    def push(self, tokens: Sequence[int], *, last: bool) -> CodecSteps:
        """Feed tokens. Iterate to compute; it pauses after every convolution.

        Args:
            tokens: all ids under `n_codes`.
            last: no more will come; without it the samples that depend on later tokens are kept back.

        Returns:
            float32 `[n]`: the samples that are complete now. All pushes of a run return 600 for each token.
        """
        codec = self._codec
        ids = torch.tensor(list(tokens), dtype=torch.int64, device=codec.device)
        x = self._pre.push(codec.codes.weight[ids], last)  # [n, C0]
        yield
        for stage in self._stages:
            x = yield from stage.push(x, last)
        x = self._post.push(x, last)  # [n, 1]
        return torch.tanh(x[:, 0].float())


class _ConvStream:
    """A convolution with zero padding of half its span at both ends, and the rows that its next output needs.

    Args:
        conv: a `Conv`.
        activate: a leaky ReLU comes before it.
    """

    def __init__(self, conv: nn.Module, *, activate: bool = True) -> None:
        assert isinstance(conv, Conv)
        self._conv, self._slope, self._padding = conv, SLOPE if activate else 1.0, conv.span // 2
        self._tail = conv.weight.new_zeros(conv.span, conv.weight.shape[1])  # [span, in], `_kept` rows in use
        self._kept = self._padding

    def push(self, x: Tensor, last: bool) -> Tensor:
        """`[n, in]` to as many rows `[m, out]` as are complete, in the dtype of the weight."""
        conv, kept, zeros = self._conv, self._kept, self._padding if last else 0
        total = kept + len(x) + zeros
        self._kept = min(total, len(self._tail))
        kernel = conv_kernel(x, conv.weight)
        if kernel is not None and kernel.supports(x, conv.weight):
            return kernel.push(
                x, conv.weight, conv.bias, self._tail, kept=kept, zeros=zeros, dilation=conv.dilation,
                slope=self._slope,
            )  # fmt: skip
        rows = conv.weight.new_empty(total, conv.weight.shape[1])
        rows[:kept] = self._tail[:kept]
        new = rows[kept : total - zeros]
        new.copy_(x)
        if self._slope != 1:
            functional.leaky_relu_(new, self._slope)
        rows[total - zeros :] = 0
        self._tail[: self._kept] = rows[total - self._kept :]
        return conv(rows) if total > conv.span else conv.weight.new_zeros(0, conv.weight.shape[2])


class _UpsampleStream:
    """A transposed convolution, and the sums that later rows will be added to."""

    def __init__(self, up: Upsample) -> None:
        self._up = up
        self._carry = up.weight.new_zeros(up.taps - 1, up.rate, up.out_channels, dtype=torch.float32)
        self._to_crop = up.crop

    def push(self, x: Tensor, last: bool) -> Tensor:
        """`[n, in]` to float32 `[m, out]`."""
        up = self._up
        sums = up(x.to(up.weight.dtype))
        sums[: up.taps - 1] += self._carry
        self._carry = sums[len(x) :].clone()
        out = (sums if last else sums[: len(x)]).reshape(-1, up.out_channels)
        if last:  # of the whole: (N - 1) * rate + kernel rows, then `crop` less
            out = out[: len(x) * up.rate + up.kernel - up.rate - up.crop]
        out, self._to_crop = out[self._to_crop :], max(0, self._to_crop - len(out))
        return out.add_(up.bias)


class _Queue:
    """Rows that wait for rows of another branch, to be added to them."""

    def __init__(self) -> None:
        self._chunks: deque[Tensor] = deque()

    def append(self, x: Tensor) -> None:
        """More rows; they are not changed."""
        if len(x):
            self._chunks.append(x)

    def __len__(self) -> int:
        return sum(map(len, self._chunks))

    def add_to(self, out: Tensor) -> Tensor:
        """Add the first rows to all rows of `out`, in place."""
        start = 0
        while start < len(out):
            chunk = self._chunks.popleft()
            n = min(len(chunk), len(out) - start)
            out[start : start + n] += chunk[:n]
            start += n
            if n < len(chunk):
                self._chunks.appendleft(chunk[n:].clone())  # does not hold the memory of the rest
        return out


class _BlockStream:
    """A residual block: each connection waits for the rows of its convolutions."""

    def __init__(self, block: ResidualBlock) -> None:
        self._chains = [([_ConvStream(conv) for conv in chain], _Queue()) for chain in block.chains]

    def push(self, x: Tensor, last: bool) -> CodecSteps:
        """float32 `[n, C]` to `[m, C]`. What is added up stays in float32, whatever the dtype of the weights."""
        for convs, waiting in self._chains:
            waiting.append(x)
            for conv in convs:
                x = conv.push(x, last)
                yield
            x = waiting.add_to(x.float())
        return x


class _StageStream:
    """One stage of the generator: upsampling, then the mean of its residual blocks."""

    def __init__(self, up: nn.Module, blocks: nn.ModuleList, codec: Codec) -> None:
        assert isinstance(up, Upsample)
        self._up = _UpsampleStream(up)
        self._blocks = [(_BlockStream(b), _Queue()) for b in blocks if isinstance(b, ResidualBlock)]
        self._global = codec.global_vector() if up.out_channels == GLOBAL_SIZE else None

    def push(self, x: Tensor, last: bool) -> CodecSteps:
        """`[n, 2 C]` to float32 `[m, C]`."""
        x = self._up.push(functional.leaky_relu(x, SLOPE), last)
        yield
        for block, done in self._blocks:
            done.append((yield from block.push(x, last)))
        total = x.new_zeros(min(len(done) for _, done in self._blocks), x.shape[1])
        for _, done in self._blocks:
            done.add_to(total)
        total /= len(self._blocks)
        return total if self._global is None else total.add_(self._global)


def _table(rows: int, size: int) -> nn.Embedding:
    # Not nn.Embedding's normal initialisation, which imports PyTorch's compiler on the meta device.
    return nn.Embedding.from_pretrained(torch.empty(rows, size), freeze=True)

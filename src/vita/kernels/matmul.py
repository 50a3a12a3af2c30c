"""Choose how a GPU multiplies by a stored weight, and try each choice before it is relied on.

A backend is a library or a kernel with one interface (`Matmul`). For each weight the fastest one that supports it is
tried on that weight against `kernels.reference`; one that raises or computes something else is logged and the next one
is taken. The last one is `kernels.reference` itself, which runs everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from vita.kernels import reference
from vita.kernels.cuda_graph import capture
from vita.kernels.weight import Weight

log = logging.getLogger("vita")
Rows: TypeAlias = Literal["one", "batch", "many"]  # a decode step of one sequence, of 2 to 16, and prefill
KINDS: tuple[Rows, ...] = ("one", "batch", "many")
TRIAL_ROWS: dict[Rows, int] = {"one": 1, "batch": 16, "many": 64}
TRIAL_CHANNELS = 256  # compared
TOLERANCE = 0.03  # relative: some backends quantise x to int8


class Matmul(Protocol):
    """`norm(x) · Wᵀ + b` by one weight, then SwiGLU and the residual sum; see `kernels.reference.linear`."""

    def __call__(
        self, x: Tensor, out: Tensor, *, norm_weight: Tensor | None = None, eps: float = 0.0,
        residual: Tensor | None = None, swiglu: bool = False,
    ) -> None:  # fmt: skip
        """Compute into `out` `[rows, out]` from `x` `[rows, in]`, both contiguous."""


class Linear(Protocol):
    """As `Matmul`, with the weight as an argument: the signature of `kernels.reference.linear`."""

    def __call__(
        self, x: Tensor, weight: Weight, out: Tensor, *, norm_weight: Tensor | None = None, eps: float = 0.0,
        residual: Tensor | None = None, swiglu: bool = False,
    ) -> None:  # fmt: skip
        """Compute into `out`."""


@dataclass(frozen=True)
class Bound:
    """A `Matmul` of a function and a weight as it is stored."""

    function: Linear
    weight: Weight

    def __call__(
        self, x: Tensor, out: Tensor, *, norm_weight: Tensor | None = None, eps: float = 0.0,
        residual: Tensor | None = None, swiglu: bool = False,
    ) -> None:  # fmt: skip
        """See `Matmul`."""
        self.function(x, self.weight, out, norm_weight=norm_weight, eps=eps, residual=residual, swiglu=swiglu)


@dataclass(frozen=True)
class Backend:
    """One way to multiply.

    Attributes:
        name: for the log.
        supports: whether it takes a weight, for x of a dtype.
        bind: the matmul of a weight; may convert the weight.
    """

    name: str
    supports: Callable[[Weight, torch.dtype], bool]
    bind: Callable[[Weight], Matmul]


@dataclass(frozen=True)
class Matmuls:
    """The matmuls of one weight.

    Attributes:
        one: for one row.
        batch: for 2 to 16 rows. All of a step's GEMMs have 16 rows, so a row's result does not depend on the batch.
        many: for more rows.
        converted: they hold the weight in a format of their own, and the stored one is not needed any more.
    """

    one: Matmul
    batch: Matmul
    many: Matmul
    converted: bool = False


REFERENCE = Backend("PyTorch", lambda weight, dtype: True, lambda weight: Bound(reference.linear, weight))


class MatmulChooser:
    """Chooses backends for the weights of one model on one device.

    Args:
        backends: by kind of rows, the fastest first.
        converting: backends that serve all kinds of rows in a format of their own, the fastest first.
        dtype: of x.

    Attributes:
        backends, converting: as above.
        chosen: names of the backends that serve some weight, for the log and for tests.
    """

    def __init__(
        self, backends: Mapping[Rows, Sequence[Backend]], converting: Sequence[Backend], dtype: torch.dtype
    ) -> None:
        self.backends, self.converting, self._dtype = backends, converting, dtype
        self._trials: dict[tuple[object, ...], bool] = {}
        self.chosen: set[str] = set()

    def choose(self, weight: Weight, *, swiglu: bool = False, convert: bool = True) -> Matmuls:
        """The matmuls of a weight.

        Args:
            weight: on the device.
            swiglu: its channels are gate and up.
            convert: a backend may convert the weight.
        """
        for backend in self.converting if convert else ():
            matmul = self._converted(backend, weight, swiglu)
            if matmul is not None:
                self.chosen.add(backend.name)
                return Matmuls(matmul, matmul, matmul, converted=True)
        one, batch, many = (self._choose(kind, weight, swiglu) for kind in KINDS)
        return Matmuls(one, batch, many)

    def _choose(self, kind: Rows, weight: Weight, swiglu: bool) -> Matmul:
        for backend in self.backends[kind]:
            if backend.supports(weight, self._dtype):
                matmul = backend.bind(weight)
                if self._passes(backend, matmul, kind, weight, swiglu):
                    self.chosen.add(backend.name)
                    return matmul
        self.chosen.add(REFERENCE.name)
        return REFERENCE.bind(weight)

    def _converted(self, backend: Backend, weight: Weight, swiglu: bool) -> Matmul | None:
        failed = any(self._trials.get(self._key(backend, kind, weight)) is False for kind in KINDS)
        if failed or not backend.supports(weight, self._dtype):
            return None
        if self._key(backend, "one", weight) not in self._trials:
            log.info("%s: compiling for a weight of %s", backend.name, list(weight.values.shape))  # takes seconds
        try:
            matmul = backend.bind(weight)
        except Exception as error:  # of the library, its compiler or the driver
            self._failed(backend, "one", weight, f"{type(error).__name__}: {error}")
            return None
        return matmul if all(self._passes(backend, matmul, kind, weight, swiglu) for kind in KINDS) else None

    def _key(self, backend: Backend, kind: Rows, weight: Weight) -> tuple[object, ...]:
        return backend.name, kind, weight.values.dtype, tuple(weight.values.shape), weight.bias is None

    def _failed(self, backend: Backend, kind: Rows, weight: Weight, reason: str) -> None:
        self._trials[self._key(backend, kind, weight)] = False
        shape, dtype = list(weight.values.shape), str(weight.values.dtype).removeprefix("torch.")
        log.warning("%s is not used for a weight of %s %s (%s): %s", backend.name, dtype, shape, kind, reason)

    def _passes(self, backend: Backend, matmul: Matmul, kind: Rows, weight: Weight, swiglu: bool) -> bool:
        """Whether a matmul gives what `kernels.reference` gives; tried once for each shape and format."""
        key = self._key(backend, kind, weight)
        if key not in self._trials:
            try:
                difference = trial(matmul, TRIAL_ROWS[kind], weight, self._dtype, swiglu=swiglu)
            except Exception as error:  # of the library, its compiler or the driver
                self._failed(backend, kind, weight, f"{type(error).__name__}: {error}")
                return False
            self._trials[key] = difference <= TOLERANCE
            if not self._trials[key]:
                self._failed(backend, kind, weight, f"its result differs by {100 * difference:.1f} %")
        return self._trials[key]


def trial(matmul: Matmul, rows: int, weight: Weight, dtype: torch.dtype, *, swiglu: bool) -> float:
    """Relative difference of a matmul and `kernels.reference` over the first channels, with norm and residual."""
    values = weight.values
    device, in_features = values.device, values.shape[1] * (2 if values.dtype == torch.uint8 else 1)
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(dtype)

    channels = values.shape[0] // (2 if swiglu else 1)
    x, norm_weight = random(rows, in_features), random(in_features).abs() + 0.5
    residual = random(rows, channels)
    got = torch.full_like(residual, torch.nan)

    def run() -> None:
        matmul(x, got, norm_weight=norm_weight, eps=1e-6, residual=residual, swiglu=swiglu)

    if device.type == "cuda":
        graph = capture(run)  # as it is used: not every library can be recorded
        got.fill_(torch.nan)
        graph.replay()
    else:
        run()
    first = min(TRIAL_CHANNELS, channels)
    picked = [slice(0, first), slice(channels, channels + first)] if swiglu else [slice(0, first)]
    part = replace(
        weight, values=torch.cat([values[p] for p in picked]),
        scale=None if weight.scale is None else torch.cat([weight.scale[p] for p in picked]),
        bias=None if weight.bias is None else torch.cat([weight.bias[p] for p in picked]),
    )  # fmt: skip
    wanted = torch.full_like(got[:, :first], torch.nan)
    reference.linear(
        x, part, wanted, norm_weight=norm_weight, eps=1e-6, residual=residual[:, :first].contiguous(), swiglu=swiglu
    )
    difference, size = (got[:, :first].double() - wanted.double()).norm(), wanted.double().norm()
    value = float(difference / size)
    return value if value == value else float("inf")

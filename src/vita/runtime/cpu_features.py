"""Which number formats this CPU multiplies with instructions of their own.

PyTorch tells this through private operators only. They are called once and may be absent: builds without oneDNN lack
them.
"""

from __future__ import annotations

from functools import lru_cache

import torch

_OPERATORS = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}


class CpuFeatures:
    """The answers of PyTorch's private operators.

    Args:
        ops: PyTorch's operators; those asked are `ops.mkldnn._is_mkldnn_*_supported`.
    """

    def __init__(self, ops: object = torch.ops) -> None:
        namespace = getattr(ops, "mkldnn", None)
        operators = {dtype: getattr(namespace, name, None) for dtype, name in _OPERATORS.items()}
        self._gemm = {dtype: operator is not None and bool(operator()) for dtype, operator in operators.items()}

    def has_gemm(self, dtype: torch.dtype) -> bool:
        """Whether matrix products in `dtype` use instructions for it; otherwise they run as scalar loops.

        False for a half-precision dtype if PyTorch does not tell: casting to float32 is never much slower.
        """
        return self._gemm.get(dtype, True)


@lru_cache(maxsize=1)
def cpu_features() -> CpuFeatures:
    """The features of this process's CPU and PyTorch build."""
    return CpuFeatures()

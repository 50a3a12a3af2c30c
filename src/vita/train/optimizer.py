"""AdamW with parameter groups by name, and one update: backward, clip, step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vita.layers.linear import choose_route
from vita.train.parallel import DataParallel

MAX_NORM = 1.0
BETAS = (0.9, 0.98)
ALONE = DataParallel()


@dataclass(frozen=True)
class Group:
    """Parameters that are trained alike. Matrices decay, vectors do not.

    Attributes:
        prefixes: of the parameters' names; an empty prefix is every name.
        factor: on the learning rate.
        weight_decay: of matrices.
    """

    prefixes: tuple[str, ...] = ("",)
    factor: float = 1.0
    weight_decay: float = 0.05


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Parameters whose names begin with one of `prefixes` are not trained, and their backward pass is saved."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(tuple(prefixes)))


def make_adamw(model: nn.Module, groups: Sequence[Group] = (Group(),)) -> torch.optim.AdamW:
    """AdamW over the parameters that require gradients; two groups of PyTorch's for each of ours."""
    made = []
    for group in groups:
        named = [p for n, p in model.named_parameters() if n.startswith(group.prefixes) and p.requires_grad]
        for matrices in (True, False):
            chosen = [p for p in named if (p.dim() > 1) == matrices]
            decay = group.weight_decay if matrices else 0.0
            made.append({"params": chosen, "weight_decay": decay, "factor": group.factor})
    return torch.optim.AdamW(made, lr=0.0, betas=BETAS, fused=True)


def update(
    parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, loss: Tensor, rate: float,
    parallel: DataParallel = ALONE,
) -> Tensor:  # fmt: skip
    """Backward, mean over the processes, clip and step; returns the gradients' norm before clipping, a scalar.

    Args:
        parameters: whose gradients are averaged and clipped.
        optimizer: its groups may have a `factor` on the rate.
        loss: scalar.
        rate: learning rate.
        parallel: the processes that make this update together.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parallel.average_gradients(parameters)
    norm = nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], MAX_NORM)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0)
    optimizer.step()
    return norm.detach()


def autocast(device: torch.device) -> torch.autocast:
    """Matmuls in bfloat16 where they are not slower than in float32; weights stay float32.

    It is measured: oneDNN also multiplies bfloat16 on CPUs with AVX-512 that have no instructions for it, at a quarter
    of the speed.
    """
    fast = choose_route(device, torch.bfloat16)[0] == "native"
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)

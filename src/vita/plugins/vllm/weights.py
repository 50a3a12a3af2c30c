"""Names of the checkpoint's tensors in the vLLM model, from the one name table (`vita.checkpoint.names`)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from torch import Tensor
from torch.nn import functional
from vllm.model_executor.models.utils import WeightsMapper

from vita.checkpoint.names import ADAPTER, AUDIO, IGNORED, PROJECTOR, VISION, checkpoint_name

TOWERS = {"vision": VISION, "projector": PROJECTOR, "audio": AUDIO, "adapter": ADAPTER}
LANGUAGE_MODEL = "language_model"
EMBED, HEAD = checkpoint_name("decoder", "embed.weight"), checkpoint_name("decoder", "head.weight")
MAX_PROJECTOR_LAYERS = 100


def weights_mapper() -> WeightsMapper:
    """From the checkpoint's names to those of the vLLM model: towers by the table, the rest to the language model."""
    patterns: dict[re.Pattern[str], str | None] = {IGNORED: None}
    for part, table in TOWERS.items():
        for ours, theirs in table.items():
            patterns.update(_patterns(f"{part}.{ours}", theirs))
    return WeightsMapper(
        orig_to_new_regex=patterns,
        orig_to_new_prefix={"model.": f"{LANGUAGE_MODEL}.model.", "lm_head.": f"{LANGUAGE_MODEL}.lm_head."},
    )


def _patterns(ours: str, theirs: str) -> Iterator[tuple[re.Pattern[str], str]]:
    if "{2n}" in theirs:  # no pattern can halve a number
        for n in range(MAX_PROJECTOR_LAYERS):
            name = theirs.replace("{2n}", str(2 * n))
            yield _full_name(re.escape(name)), ours.replace("{n}", str(n))
        return
    pattern = re.escape(theirs).replace(re.escape("{n}"), r"(\d+)")
    yield _full_name(pattern), ours.replace("{n}", r"\1")


def _full_name(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"^{pattern}(?=\.(?:weight|bias)$|$)")


def cut_vocabulary(weights: Iterable[tuple[str, Tensor]], rows: int) -> Iterator[tuple[str, Tensor]]:
    """The tensors with embedding and head cut to so many rows, or filled up with zeros (spec section 1.6)."""
    for name, tensor in weights:
        if name in (EMBED, HEAD):
            tensor = tensor[:rows] if len(tensor) >= rows else functional.pad(tensor, (0, 0, 0, rows - len(tensor)))
        yield name, tensor

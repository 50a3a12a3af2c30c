"""Load the speech checkpoint: decoder and codec, strictly (spec section 9).

Files are read as plain tensors, never as code. A missing, unexpected, mis-shaped or non-finite tensor and a wrong value
of a configuration fail the load, in one error that lists them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vita.checkpoint.files import is_file
from vita.checkpoint.names import SPEECH_IGNORED, checkpoint_name
from vita.errors import CheckpointError
from vita.kernels.cpu.conv import load_conv_kernel
from vita.layers.linear import choose_route, set_route
from vita.quant.scheme import STORED, quantize_modules, quantize_weight
from vita.speech.codec import Codec, Conv, Upsample
from vita.speech.config import Problems, read_codec_config, read_decoder_config
from vita.speech.tts import SpeechDecoder

DECODER, CODEC = "decoder", "codec"
SHOWN = 8  # names of one kind that an error lists


@dataclass(frozen=True)
class SpeechModel:
    """Both parts with their weights, in evaluation mode."""

    decoder: SpeechDecoder
    codec: Codec


def load_speech(
    folder: Path, *, device: torch.device, dtype: torch.dtype, quantize: Literal["int8"] | None = None,
    text_size: int | None = None,
) -> SpeechModel:  # fmt: skip
    """Load decoder and codec.

    Args:
        folder: holds `decoder/` and `codec/`, each with model.json and final.pt.
        device: to compute on.
        dtype: float32, bfloat16 or float16. Weights are upcast to float32 before weight norm is folded. On a CPU the
            codec stays in float32, in which it is faster there.
        quantize: quantise the decoder's linear layers.
        text_size: size of the embedding rows of the text, which must be a multiple of the decoder's.

    Raises:
        CheckpointError: one sentence that lists all that is missing, unexpected or wrong.
    """
    problems = Problems()
    decoder_config = read_decoder_config(folder / DECODER / "model.json", "decoder/model.json", problems)
    codec_config = read_codec_config(folder / CODEC / "model.json", "codec/model.json", problems)
    tensors = {part: _read_tensors(folder / part / "final.pt", part, problems) for part in (DECODER, CODEC)}
    decoder = codec = None
    if decoder_config is not None:
        size = decoder_config.decoder.hidden_size
        if text_size is not None and text_size % size:
            problems.add("decoder/model.json", f"idim {size} does not divide the text's embedding size {text_size}")
        usable = None if codec_config is None else codec_config.codes
        if usable is not None and decoder_config.codes > usable:
            problems.add("decoder/model.json", f"odim {decoder_config.codes} is over the codec's {usable} codes")
        with torch.device("meta"):
            decoder = SpeechDecoder(decoder_config, usable)
        if quantize is not None:
            quantize_modules(decoder, quantize)
        _assign(decoder, tensors[DECODER], "speech_decoder", device, dtype, problems)
    if codec_config is not None:
        with torch.device("meta"):
            codec = Codec(codec_config)
        codec_dtype = torch.float32 if device.type == "cpu" else dtype
        _assign(codec, tensors[CODEC], "codec", device, codec_dtype, problems)
    if problems.found or decoder is None or codec is None:
        raise CheckpointError(
            "the speech checkpoint cannot be used: " + "; ".join(problems.found), where=folder,
            fix="download the folder again",
        )  # fmt: skip
    set_route(decoder, choose_route(device, dtype)[0])
    if device.type == "cpu":
        load_conv_kernel()  # compiles it on a new machine, so that the first audio does not wait for it
    return SpeechModel(decoder.eval().requires_grad_(False), codec.eval().requires_grad_(False))


def _read_tensors(file: Path, part: str, problems: Problems) -> dict[str, Tensor] | None:
    """Tensors by name, nested names joined with dots; None, with the reason in `problems`, if there are none."""
    name = f"{part}/final.pt"
    if not is_file(file):
        problems.add(name, "is missing")
        return None
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file it refuses to unpickle
        problems.add(name, f"cannot be loaded as plain tensors ({type(error).__name__})")
        return None
    if part == DECODER and isinstance(loaded, dict) and isinstance(loaded.get("model"), dict):
        loaded = loaded["model"]
    found: dict[str, Tensor] = {}
    if not _flatten(loaded, "", found):
        problems.add(name, "is not a mapping of names to tensors")
        return None
    return found


def _flatten(value: object, prefix: str, found: dict[str, Tensor]) -> bool:
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        path = f"{prefix}{key}"
        if isinstance(item, Tensor):
            found[path] = item
        elif not _flatten(item, path + ".", found):
            return False
    return True


def _assign(
    module: nn.Module, tensors: dict[str, Tensor] | None, part: str, device: torch.device, dtype: torch.dtype,
    problems: Problems,
) -> None:  # fmt: skip
    """Give a module on the meta device its weights, if nothing is wrong with any of them."""
    if tensors is None:
        return
    left = {name for name in tensors if not SPEECH_IGNORED.match(name)}
    missing: list[str] = []
    wrong: list[str] = []
    state: dict[str, Tensor] = {}

    def take(name: str, shape: tuple[int, ...]) -> Tensor | None:
        """A tensor of the checkpoint in float32, if it is as expected."""
        tensor = tensors.get(name)
        left.discard(name)
        if tensor is None:
            missing.append(name)
        elif tuple(tensor.shape) != shape:
            wrong.append(f"{name} {list(tensor.shape)} instead of {list(shape)}")
        elif not tensor.is_floating_point():
            wrong.append(f"{name} is {tensor.dtype}")
        elif not torch.isfinite(tensor).all():
            wrong.append(f"{name} holds infinite values or NaN")
        else:
            return tensor.float()
        return None

    for ours, wanted in module.state_dict().items():
        if ours.endswith(".scale"):
            continue  # made with its weights
        layer, _, leaf = ours.rpartition(".")
        owner, name = module.get_submodule(layer), checkpoint_name(part, ours)
        if isinstance(owner, (Conv, Upsample)) and leaf == "weight":
            weight = _fold(owner, name, take)
        elif wanted.dtype in STORED:
            floats = take(name, (owner.out_features, owner.in_features))  # type: ignore[arg-type]
            weight = None
            if floats is not None:
                weight, state[f"{layer}.scale"] = quantize_weight(floats.to(device), wanted.dtype)
        else:
            weight = take(name, tuple(wanted.shape))
        if weight is not None:
            state[ours] = weight.to(device=device, dtype=dtype if weight.is_floating_point() else weight.dtype)
    _report(problems, part, missing, wrong, sorted(left))
    if not missing and not wrong and not left:
        module.load_state_dict(state, strict=True, assign=True)


Take = Callable[[str, tuple[int, ...]], "Tensor | None"]


def _fold(layer: Conv | Upsample, name: str, take: Take) -> Tensor | None:
    """The weight of a convolution: `g * v / ||v||`, the norm over every axis but the first."""
    stem = name.removesuffix("weight")
    if isinstance(layer, Conv):
        kernel, inputs, channels = layer.weight.shape
        shape = (channels, inputs, kernel)
    else:
        shape = (layer.weight.shape[1], layer.out_channels, layer.kernel)
    g, v = take(stem + "weight_g", (shape[0], 1, 1)), take(stem + "weight_v", shape)
    if g is None or v is None:
        return None
    weight = v * (g / v.norm(2, dim=(1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny))
    return layer.stored(weight) if isinstance(layer, Conv) else layer.stored(weight, layer.rate)


def _report(problems: Problems, part: str, missing: list[str], wrong: list[str], unexpected: list[str]) -> None:
    file = f"{DECODER if part == 'speech_decoder' else CODEC}/final.pt"
    for kind, names in (("missing", missing), ("of a wrong shape or value", wrong), ("unexpected", unexpected)):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            problems.add(file, f"{len(names)} tensors {kind} ({', '.join(names[:SHOWN])}{more})")

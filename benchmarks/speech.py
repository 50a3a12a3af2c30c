"""How fast the checkpoint's voice speaks: time to first audio, real-time factor, codec tokens a second.

    python benchmarks/speech.py                          # bfloat16 decoder, float32 codec, two threads
    python benchmarks/speech.py --quantize int8 --sessions 1 4
    python benchmarks/speech.py --device cuda

Weights are random. The released sizes are known in part (width 896, 40 tokens a second, 600 samples a token); the rest
is assumed: 4 + 2 layers with 14 heads and 4,864 units, 1,024 codes; a codec of 512 channels with rates 6, 5, 5, 4 and
residual blocks of kernels 3, 7 and 11 with dilations 1, 3 and 5. The text is a clause of `--text-tokens` tokens, which
gives four rows of the decoder's width each. The decoder never ends by itself; `--seconds` of audio are made.

- `first_ms`: from the text to its first piece of audio (at most 75 ms of it), in a process that has spoken before.
- `rtf`: seconds of computing for a second of audio, of all sessions; under 1 is faster than it is heard.
- `steps_s`: decoder steps a second, alone. `codec_rtf`: the codec's part, in pieces of half a second.

Each is measured `--repeats` times; the table shows the best and the median, since other processes on the cores change
both by factors. `cpu` columns count the processor time of this process instead of the wall's, for busy machines.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch

from vita.config import DecoderConfig
from vita.engine.decode import DecodeRunner
from vita.kernels.cpu.bindings import prepare_kernels
from vita.layers.linear import choose_route, set_route
from vita.quant.scheme import STORED, quantize_modules, quantize_weight
from vita.speech.checkpoint import SpeechModel
from vita.speech.codec import Codec, CodecStream, finish
from vita.speech.config import SPECIAL_IDS, CodecConfig, SpeechDecoderConfig
from vita.speech.runner import SpeechRunner
from vita.speech.session import SpeechSession
from vita.speech.tts import SpeechDecoder, SpeechSampling

CODES = 1024
DECODER = SpeechDecoderConfig(
    CODES,
    DecoderConfig(
        896, 4864, 4, 14, 14, CODES + SPECIAL_IDS, rope_theta=1e4, attention_bias=False, head_bias=True
    ),
)  # fmt: skip
CODEC = CodecConfig(
    CODES, 512, (6, 5, 5, 4), (12, 11, 11, 8), "1", (3, 7, 11), ((1, 3, 5),) * 3, tuple(range(8))
)  # fmt: skip
TEXT_SIZE = 3584  # of the text's embedding rows


def random_model(device: torch.device, dtype: torch.dtype, quantize: bool) -> SpeechModel:
    """Decoder and codec of the assumed sizes."""
    draw = torch.Generator().manual_seed(1)
    with torch.device("meta"):
        decoder, codec = SpeechDecoder(DECODER, CODES), Codec(CODEC)
    if quantize:
        quantize_modules(decoder, "int8")
    state: dict[str, torch.Tensor] = {}
    for name, wanted in decoder.state_dict().items():
        values = torch.randn(wanted.shape, generator=draw) * 0.03
        if wanted.dtype in STORED:
            state[name], state[name.removesuffix("weight") + "scale"] = quantize_weight(values, wanted.dtype)
        elif name not in state:
            state[name] = (1 + values if "norm" in name else values).to(dtype)
    state["decoder.head.bias"][DECODER.end_id] = -1e4
    decoder.load_state_dict({name: value.to(device) for name, value in state.items()}, assign=True)
    codec_dtype = torch.float32 if device.type == "cpu" else dtype
    weights = {n: (torch.randn(w.shape, generator=draw) * 0.02).to(codec_dtype) for n, w in codec.state_dict().items()}
    codec.load_state_dict({name: value.to(device) for name, value in weights.items()}, assign=True)
    set_route(decoder, choose_route(device, dtype)[0])
    return SpeechModel(decoder.eval().requires_grad_(False), codec.eval().requires_grad_(False))


class Timer:
    """Best and median of repeated measurements, by the wall and by the processor."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def measure(self, compute: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        compute()
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)

    def row(self, scale: float) -> dict[str, float]:
        return {
            "best": min(self.wall) * scale, "median": median(self.wall) * scale, "cpu": min(self.cpu) * scale,
        }  # fmt: skip


def measure_speech(
    model: SpeechModel, decode: DecodeRunner, args: argparse.Namespace, sessions: int
) -> dict[str, object]:
    """First audio and real-time factor of so many sessions that begin together."""
    first, whole = Timer(model.codec.device), Timer(model.codec.device)
    tokens = int(args.seconds * 40)
    rows = torch.randn(args.text_tokens, TEXT_SIZE).to(model.codec.device)
    runner = SpeechRunner(model, threads=torch.get_num_threads(), decode=decode)
    for repeat in range(args.repeats + 1):
        texts = [
            runner.begin(SpeechSession(SpeechSampling(seed=repeat, max_tokens=tokens)), lambda: rows)
            for _ in range(sessions)
        ]
        spoken, heard = runner.stats().texts, len(runner.stats().first_audio)

        def until_first(heard: int = heard) -> None:
            while len(runner.stats().first_audio) == heard:
                runner.run_some(0)

        def until_end(spoken: int = spoken, texts: list = texts) -> None:  # type: ignore[type-arg]
            while runner.stats().texts < spoken + sessions:
                runner.run_some(0)
                for text in texts:
                    while text.audio.waiting:
                        text.audio.get()

        if repeat == 0:  # warms up
            until_end()
            continue
        start = time.perf_counter(), time.process_time()
        first.measure(until_first)
        until_end()
        whole.wall.append(time.perf_counter() - start[0])
        whole.cpu.append(time.process_time() - start[1])
    return {"first_ms": first.row(1e3), "rtf": whole.row(1 / (args.seconds * sessions))}


def measure_parts(model: SpeechModel, decode: DecodeRunner, args: argparse.Namespace) -> dict[str, object]:
    """A decoder step, and the codec in pieces of half a second."""
    step, codec = Timer(model.codec.device), Timer(model.codec.device)
    options = SpeechSampling(max_tokens=1000)
    row = model.decoder.start(model.decoder.new_cache(1200), options, options.state())
    row.cache.length = 100
    stream, piece = CodecStream(model.codec), [1] * 20
    for repeat in range(4 * args.repeats):
        for _ in range(10):
            step.measure(lambda: model.decoder.step(decode, [row]))
        if repeat > 1:
            codec.measure(lambda: finish(stream.push(piece, last=False)))
        else:
            finish(stream.push(piece, last=False))
    return {"step_ms": step.row(1e3), "codec_rtf": codec.row(1 / 0.5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--quantize", choices=("int8",))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--text-tokens", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    prepare_kernels(device, dtype, args.quantize)
    model = random_model(device, dtype, bool(args.quantize))
    result: dict[str, object] = {"options": vars(args)}
    with torch.inference_mode():
        decode = model.decoder.choose_decode()
        result |= measure_parts(model, decode, args)
        for sessions in args.sessions:
            result[f"sessions_{sessions}"] = measure_speech(model, decode, args, sessions)
    for name, value in result.items():
        print(f"{name:12} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

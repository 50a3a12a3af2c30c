"""The commands and their flags. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="vita",
    help="VITA-1.5: ask about images, videos and audio.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Files = Annotated[list[str] | None, typer.Option(help="File, URL, or - for stdin; repeatable.")]
Model = Annotated[str | None, typer.Option(help="Checkpoint folder or hub id; default: the embedded model.")]
Base = Annotated[str | None, typer.Option(help="Base checkpoint, when --model is a LoRA folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")]
Quantized = Annotated[str | None, typer.Option(help="int8 or int4: the decoder; int4+encoders: those too, in 8 bits.")]
KVCacheFormat = Annotated[str, typer.Option(help="auto, or int8: half the memory of a long conversation.")]
Memory = Annotated[
    str | None,
    typer.Option(help="Limit of the process, such as 4GB, or auto: load the least quantised variant within it."),
]
Fit = Annotated[str | None, typer.Option(hidden=True)]  # the old name of --memory
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show which device, dtype and kernels were chosen.")]


def flag_names() -> dict[str, str]:
    """The option's name in Python to its flag, of all commands: `max_tokens` to `--max-tokens`."""
    group = typer.main.get_group(app)
    options = [p for command in group.commands.values() for p in command.params if p.param_type_name == "option"]
    return {p.name: p.opts[0] for p in options if p.name is not None}


def _version(show: bool) -> None:
    if show:
        from vita import __version__

        typer.echo(f"vita {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = (
        False
    ),
) -> None:
    """VITA-1.5: ask about images, videos and audio."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def ask(
    question: Annotated[str | None, typer.Argument(help="The question; - reads it from stdin.")] = None,
    image: Files = None,
    video: Files = None,
    audio: Files = None,
    model: Model = None,
    base: Base = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantized = None,
    kv_cache: KVCacheFormat = "auto",
    memory: Memory = None,
    fit: Fit = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object with text, usage and timings.")] = False,
    stream: Annotated[bool, typer.Option(help="Print the answer while it is generated.")] = True,
    max_tokens: Annotated[int, typer.Option(help="Most new tokens.")] = 1024,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="0: no limit.")] = 0,
    min_p: Annotated[float, typer.Option(help="Lowest probability, as a share of the likeliest token's.")] = 0.0,
    repetition_penalty: Annotated[float | None, typer.Option(help="Default: the checkpoint's own.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling reproducible.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the answer; repeatable.")] = None,
    logprobs: Annotated[int, typer.Option(help="Alternatives to report per token, with --json.")] = 0,
    system: Annotated[str | None, typer.Option(help="Replaces the built-in system text.")] = None,
    fps: Annotated[float, typer.Option(help="Frames taken of a second of video.")] = 1.0,
    max_frames: Annotated[int, typer.Option(help="Most frames of a video.")] = 16,
    start: Annotated[float | None, typer.Option(help="Start of the part of a video that is used, in seconds.")] = None,
    end: Annotated[float | None, typer.Option(help="End of that part, in seconds.")] = None,
    audio_from_video: Annotated[
        bool, typer.Option("--audio-from-video", help="A video's audio is the question.")
    ] = False,
    max_tiles: Annotated[int | None, typer.Option(help="Most tiles of an image; default: the checkpoint's own.")] = (
        None
    ),
    reference: Annotated[bool, typer.Option("--reference", help="Read media as the reference does.")] = False,
    offline: Offline = False,
    timings: Annotated[bool | None, typer.Option(help="Show where the time went; default: in a terminal.")] = None,
    verbose: Verbose = False,
) -> None:
    """Ask one question about images, videos or audio, or without any."""
    from vita.cli.ask import Ask, run_ask
    from vita.cli.loading import memory_limit
    from vita.options import EngineOptions
    from vita.types import SamplingParams

    params = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p,
        repetition_penalty=repetition_penalty, seed=seed, stop=tuple(stop or ()), logprobs=logprobs,
    )  # fmt: skip
    options = EngineOptions(
        device=device, dtype=dtype, quantize=quantize, kv_cache=kv_cache, memory=memory_limit(memory, fit),
        offline=offline,
    )  # fmt: skip
    run_ask(
        Ask(
            question=question, images=tuple(image or ()), videos=tuple(video or ()), audios=tuple(audio or ()),
            model=model, base=base, options=options, params=params, json=json, stream=stream, system=system, fps=fps,
            max_frames=max_frames, start=start, end=end, audio_from_video=audio_from_video, max_tiles=max_tiles,
            reference=reference, timings=timings, verbose=verbose,
        )
    )  # fmt: skip


@app.command()
def chat(
    image: Files = None,
    video: Files = None,
    model: Model = None,
    base: Base = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantized = None,
    kv_cache: KVCacheFormat = "auto",
    memory: Memory = None,
    fit: Fit = None,
    system: Annotated[str | None, typer.Option(help="Replaces the built-in system text.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Most new tokens of one answer.")] = 1024,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    offline: Offline = False,
    verbose: Verbose = False,
) -> None:
    """Talk turn by turn; /help inside lists the commands."""
    from vita.cli.chat import run_chat
    from vita.cli.loading import load_model, memory_limit
    from vita.options import EngineOptions
    from vita.types import SamplingParams

    options = EngineOptions(
        device=device, dtype=dtype, quantize=quantize, kv_cache=kv_cache, memory=memory_limit(memory, fit),
        offline=offline,
    )  # fmt: skip
    loaded = load_model(model, options, base=base, verbose=verbose)
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature)
    run_chat(loaded, params, system, tuple(image or ()), tuple(video or ()))


@app.command()
def info(
    model: Annotated[str | None, typer.Argument(help="Checkpoint folder or hub id; default: the embedded model.")] = (
        None
    ),
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantized = None,
    kv_cache: KVCacheFormat = "auto",
    memory: Memory = None,
    fit: Fit = None,
    context: Annotated[int, typer.Option(min=1, help="Positions of the KV cache in the memory figure.")] = 2048,
    json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
    offline: Offline = False,
) -> None:
    """Parts, exact sizes, memory that the model needs, what is missing; loads no weights."""
    from vita.cli.info import run_info
    from vita.cli.loading import memory_limit
    from vita.options import EngineOptions

    options = EngineOptions(
        device=device, dtype=dtype, quantize=quantize, kv_cache=kv_cache, memory=memory_limit(memory, fit),
        offline=offline,
    )  # fmt: skip
    raise typer.Exit(run_info(model, options, positions=context, as_json=json))


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A checkpoint with its reference numbers.")],
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16: shows what the dtype costs.")] = "float32",
    quantize: Annotated[str | None, typer.Option(help="int8 or int4: shows what quantising costs.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
) -> None:
    """Compare a checkpoint with reference numbers, stage by stage."""
    from vita.cli.verify import run_verify
    from vita.options import EngineOptions

    options = EngineOptions(device=device, dtype=dtype, quantize=quantize)
    raise typer.Exit(run_verify(folder, options, as_json=json))


@app.command()
def bench(
    model: Annotated[str | None, typer.Argument(help="Checkpoint folder or hub id; default: the embedded model.")] = (
        None
    ),
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantized = None,
    tokens: Annotated[int, typer.Option(min=2, help="New tokens of the demo request.")] = 256,
    cold: Annotated[bool, typer.Option("--cold", help="Also load with the files dropped from the page cache.")] = False,
    compare: Annotated[Path | None, typer.Option(help="Output of an earlier run; prints ratios to it.")] = None,
    offline: Offline = False,
) -> None:
    """Time and rate of every stage, compared with this machine's peak; the last line is JSON."""
    from vita.cli.bench import run_bench
    from vita.options import EngineOptions

    options = EngineOptions(device=device, dtype=dtype, quantize=quantize, offline=offline)
    raise typer.Exit(run_bench(model, options, tokens=tokens, compare=compare, cold=cold))


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="default, or an exported folder of the recipe.")] = "default",
    pictures: Annotated[int, typer.Option(min=10, help="Held-out images; more make the intervals narrower.")] = 420,
    out: Annotated[Path, typer.Option(help="Folder for eval.md and eval.json.")] = Path("runs/eval"),
    quantize: Quantized = None,
) -> None:
    """Measure the embedded model's table again, on held-out images, audio and videos (needs the repository)."""
    from vita.cli.evaluate import run_eval

    raise typer.Exit(run_eval(model, pictures, out, quantize))


@app.command()
def convert(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub id.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    quantize: Annotated[
        str, typer.Option(help="int8 or int4: the decoder; int4+encoders: those too, in 8 bits.")
    ] = "int8",
    offline: Offline = False,
) -> None:
    """Write a quantised copy of a checkpoint, which loads memory-mapped."""
    from vita.cli.convert import run_convert

    raise typer.Exit(run_convert(model, out, quantize, offline=offline))


@app.command()
def doctor() -> None:
    """What this machine can do, and what to fix."""
    from vita.cli.doctor import run_doctor

    raise typer.Exit(run_doctor())

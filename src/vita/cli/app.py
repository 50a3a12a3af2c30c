"""The commands and their flags. Nothing heavy is imported before a command runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vita.cli import options as o
from vita.cli import speech as sp
from vita.cli.batch_command import batch
from vita.cli.help import Command, Group
from vita.cli.options import MODEL, OUTPUT, engine_options, examples
from vita.cli.serve_command import serve
from vita.cli.text_argument import TextCommand

app = typer.Typer(
    name="vita",
    cls=Group,
    help="VITA-1.5: ask about images, videos and audio.",
    epilog=examples('vita ask "What does the logo say?" --image assets/vita_logo.png', "vita COMMAND --help"),
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
command = partial(app.command, cls=Command)


def flag_names() -> dict[str, str]:
    """The option's name in Python to its flag, of all commands: `max_tokens` to `--max-tokens`."""
    group = typer.main.get_group(app)
    options = [p for one in group.commands.values() for p in one.params if p.param_type_name == "option"]
    return {p.name: p.opts[0] for p in options if p.name is not None}


def _version(show: bool) -> None:
    if show:
        from vita import __version__

        typer.echo(f"vita {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", metavar="", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """VITA-1.5: ask about images, videos and audio."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    cls=TextCommand,
    epilog=examples(
        'vita ask "What does the logo say?" --image assets/vita_logo.png',
        "vita ask --audio assets/what_can_you_do.flac --json",
    ),
)
def ask(
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="The question; - reads it from standard input.")
    ] = None,
    image: o.ImageFiles = None,
    video: o.VideoFiles = None,
    audio: o.AudioFiles = None,
    fps: o.Fps = 1.0,
    max_frames: o.MaxFrames = 16,
    start: o.Start = None,
    end: o.End = None,
    audio_from_video: o.AudioFromVideo = False,
    max_tiles: o.MaxTiles = None,
    reference: o.Reference = False,
    model: o.Model = None,
    base: o.Base = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    quantize: o.Quantize = None,
    kv_cache: o.KVCacheFormat = "auto",
    memory: o.Memory = None,
    old_memory: o.OldMemory = None,
    offline: o.Offline = False,
    system: o.System = None,
    max_tokens: o.MaxTokens = 1024,
    temperature: o.Temperature = 0.0,
    top_p: o.TopP = 1.0,
    top_k: o.TopK = 0,
    min_p: o.MinP = 0.0,
    repetition_penalty: o.RepetitionPenalty = None,
    seed: o.Seed = None,
    stop: o.Stop = None,
    logprobs: o.Logprobs = 0,
    json: o.JsonAnswer = False,
    stream: o.Stream = True,
    show_reasoning: o.ShowReasoning = False,
    timings: o.Timings = None,
    speak: sp.SpeakTo = None,
    play: sp.Play = False,
    voice: sp.VoiceName = None,
    speed: sp.Speed = 1.0,
    language: sp.Language = None,
    verbose: o.Verbose = False,
) -> None:
    """Ask one question about images, videos or audio, or without any."""
    from vita.cli.ask import Ask, run_ask
    from vita.types import SamplingParams

    params = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p,
        repetition_penalty=repetition_penalty, seed=seed, stop=tuple(stop or ()), logprobs=logprobs,
    )  # fmt: skip
    options = engine_options(device=device, dtype=dtype, quantize=quantize, kv_cache=kv_cache, memory=memory,
                             old_memory=old_memory, offline=offline)  # fmt: skip
    speech = sp.speech_flags(speak=speak, play=play, voice=voice, speed=speed, language=language, seed=seed)
    run_ask(Ask(
        question=question, images=tuple(image or ()), videos=tuple(video or ()), audios=tuple(audio or ()),
        model=model, base=base, options=options, params=params, json=json, stream=stream, system=system, fps=fps,
        max_frames=max_frames, start=start, end=end, audio_from_video=audio_from_video, max_tiles=max_tiles,
        reference=reference, show_reasoning=show_reasoning, timings=timings, verbose=verbose, speech=speech,
    ))  # fmt: skip


@app.command(
    cls=TextCommand, epilog=examples('vita say "Hello, I am VITA." -o hello.wav', "vita say - --play --voice espeak")
)
def say(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Text or Markdown; - speaks standard input while it arrives.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            rich_help_panel=OUTPUT,
            help="A wav, flac, ogg, opus, mp3, aac or raw file; - writes raw PCM to stdout; default: --play.",
        ),
    ] = None,
    play: sp.Play = False,
    voice: sp.VoiceName = None,
    speed: sp.Speed = 1.0,
    language: sp.Language = None,
    seed: o.Seed = None,
    model: o.Model = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    offline: o.Offline = False,
    timings: o.Timings = None,
    verbose: o.Verbose = False,
) -> None:
    """Speak a text, into a file or on the audio device."""
    from vita.cli.say import Say, run_say

    speech = sp.speech_flags(
        speak=out, play=play or out is None, voice=voice, speed=speed, language=language, seed=seed
    )
    assert speech is not None
    options = engine_options(device=device, dtype=dtype, offline=offline)
    run_say(Say(text=text, speech=speech, model=model, options=options, timings=timings, verbose=verbose))


@command(epilog=examples("vita chat --speak", 'vita chat --image assets/vita_logo.png --system "Be brief."'))
def chat(
    image: o.ChatImages = None,
    video: o.ChatVideos = None,
    audio: o.ChatAudios = None,
    fps: o.Fps = 1.0,
    max_frames: o.MaxFrames = 16,
    max_tiles: o.MaxTiles = None,
    reference: o.Reference = False,
    model: o.Model = None,
    base: o.Base = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    quantize: o.Quantize = None,
    kv_cache: o.KVCacheFormat = "auto",
    memory: o.Memory = None,
    old_memory: o.OldMemory = None,
    offline: o.Offline = False,
    system: o.System = None,
    max_tokens: o.MaxTokens = 1024,
    temperature: o.Temperature = 0.0,
    top_p: o.TopP = 1.0,
    top_k: o.TopK = 0,
    min_p: o.MinP = 0.0,
    repetition_penalty: o.RepetitionPenalty = None,
    seed: o.Seed = None,
    stop: o.Stop = None,
    listen: o.Listen = False,
    speak: sp.SpeakAnswers = False,
    voice: sp.VoiceName = None,
    speed: sp.Speed = 1.0,
    language: sp.Language = None,
    verbose: o.Verbose = False,
) -> None:
    """Talk turn by turn; media given here go with the first question, and /help lists the commands."""
    from vita.cli.chat.conversation import ChatFlags
    from vita.cli.chat.loop import run_chat
    from vita.types import MediaOptions, SamplingParams

    params = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p,
        repetition_penalty=repetition_penalty, seed=seed, stop=tuple(stop or ()),
    )  # fmt: skip
    options = engine_options(
        device=device, dtype=dtype, quantize=quantize, kv_cache=kv_cache, memory=memory, old_memory=old_memory,
        offline=offline,
    )  # fmt: skip
    flags = ChatFlags(
        model=model, base=base, options=options, params=params, system=system, images=tuple(image or ()),
        videos=tuple(video or ()), audios=tuple(audio or ()), fps=fps, max_frames=max_frames,
        media=MediaOptions(reference=reference, max_tiles=max_tiles), verbose=verbose, speak=speak,
        speech=sp.chat_speech(
            speak=speak, listen=listen, voice=voice, speed=speed, language=language, seed=seed
        ),
    )  # fmt: skip
    if listen:
        from vita.cli.listen import run_listen

        run_listen(flags)
    else:
        raise typer.Exit(run_chat(flags))


command(
    epilog=examples(
        'vita batch assets out.jsonl --question "What is this?"', "vita batch in.jsonl out.jsonl --shard 1/4"
    )
)(batch)
command(epilog=examples("vita serve", "vita serve --host 0.0.0.0 --self-signed --api-key-file keys.txt"))(serve)


@command(epilog=examples("vita info", "vita info VITA-MLLM/VITA-1.5 --memory 6GB"))
def info(
    model: o.ModelArgument = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    quantize: o.Quantize = None,
    kv_cache: o.KVCacheFormat = "auto",
    memory: o.Memory = None,
    old_memory: o.OldMemory = None,
    offline: o.Offline = False,
    context: Annotated[
        int,
        typer.Option(
            callback=o.at_least(1),
            metavar="COUNT",
            help="Positions of the KV cache in the memory figure.",
            rich_help_panel=OUTPUT,
        ),
    ] = 2048,
    json: o.Json = False,
) -> None:
    """Show parts, exact sizes, the memory a model needs, what is missing; loads no weights."""
    from vita.cli.info import run_info

    options = engine_options(
        device=device, dtype=dtype, quantize=quantize, kv_cache=kv_cache, memory=memory, old_memory=old_memory,
        offline=offline,
    )  # fmt: skip
    raise typer.Exit(run_info(model, options, positions=context, as_json=json))


@command(epilog=examples("vita verify FOLDER", "vita verify FOLDER --quantize int4+encoders"))
def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A checkpoint with its reference numbers.")],
    dtype: Annotated[
        str,
        typer.Option(
            metavar="DTYPE", help="float32, float16 or bfloat16: shows what the dtype costs.", rich_help_panel=MODEL
        ),
    ] = "float32",
    quantize: o.Quantize = None,
    device: o.Device = "cpu",
    json: o.JsonRows = False,
) -> None:
    """Compare a checkpoint with reference numbers, stage by stage; with --quantize, show what quantising costs."""
    from vita.cli.verify import run_verify

    options = engine_options(device=device, dtype=dtype, quantize=quantize)
    raise typer.Exit(run_verify(folder, options, as_json=json))


@command(epilog=examples("vita bench --json > before.json", "vita bench --compare before.json"))
def bench(
    model: o.ModelArgument = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    quantize: o.Quantize = None,
    offline: o.Offline = False,
    tokens: Annotated[
        int, typer.Option(callback=o.at_least(2), metavar="COUNT", help="New tokens of the demo request, 2 or more.")
    ] = 256,
    cold: Annotated[
        bool,
        typer.Option("--cold", metavar="", help="Also load with the files dropped from the page cache."),
    ] = False,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Output of an earlier run with --json; adds ratios to it.", rich_help_panel=OUTPUT
        ),
    ] = None,
    json: o.Json = False,
) -> None:
    """Measure time and rate of every stage against this machine's peak rates."""
    from vita.cli.bench import run_bench

    options = engine_options(device=device, dtype=dtype, quantize=quantize, offline=offline)
    raise typer.Exit(run_bench(model, options, tokens=tokens, compare=compare, cold=cold, as_json=json))


@command("eval", epilog=examples("vita eval default", "vita eval default --quantize int4 --images 100"))
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="default, or a folder that the recipe exported.")
    ] = "default",
    images: Annotated[
        int,
        typer.Option(
            callback=o.at_least(10),
            metavar="COUNT",
            help="Held-out images, 10 or more; audio and videos in proportion. More make the intervals narrower.",
        ),
    ] = 420,
    old_images: Annotated[int | None, typer.Option("--pictures", callback=o.at_least(10), hidden=True)] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where eval.md and eval.json are written.")] = Path(
        "runs/eval"
    ),
    quantize: o.Quantize = None,
) -> None:
    """Measure the embedded model's table again, on held-out images, audio and videos: five minutes on a quiet core."""
    from vita.cli.evaluate import run_eval

    raise typer.Exit(run_eval(model, images if old_images is None else old_images, out, quantize))


@command(
    epilog=examples(
        "vita convert VITA-MLLM/VITA-1.5 vita-int4 --quantize int4",
        "vita convert ADAPTER OUT --base VITA-MLLM/VITA-1.5 --quantize int4",
    )
)
def convert(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint folder or hub id.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must not exist.")],
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Base checkpoint, when MODEL is a LoRA folder: they are merged.")
    ] = None,
    quantize: o.QuantizeTo = "int8",
    offline: o.Offline = False,
) -> None:
    """Write a quantised copy of a checkpoint, which loads memory-mapped."""
    from vita.cli.convert import run_convert

    raise typer.Exit(run_convert(model, out, quantize, base=base, offline=offline))


@command(epilog=examples("vita pull VITA-MLLM/VITA-1.5", "vita pull OWNER/NAME"))
def pull(model: o.HubId) -> None:
    """Download a checkpoint from the hub: says its size and the free space first, and resumes."""
    from vita.cli.hub import run_pull

    raise typer.Exit(run_pull(model))


@command("list", epilog=examples("vita list", "vita list --json"))
def list_models(json: o.Json = False) -> None:
    """List the checkpoints that are on this machine: the embedded one and those of the hub's cache."""
    from vita.cli.hub import run_list

    raise typer.Exit(run_list(as_json=json))


@command(epilog=examples("vita rm VITA-MLLM/VITA-1.5", "vita rm OWNER/NAME"))
def rm(model: o.HubId) -> None:
    """Remove a checkpoint from the hub's cache."""
    from vita.cli.hub import run_rm

    raise typer.Exit(run_rm(model))


@command(epilog=examples("vita doctor", "VITA_KERNELS=off vita doctor"))
def doctor() -> None:
    """Show what this machine can do, and what to fix."""
    from vita.cli.doctor import run_doctor

    raise typer.Exit(run_doctor())

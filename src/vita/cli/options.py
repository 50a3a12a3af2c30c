"""Options that several commands share, each declared once; no heavy import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vita.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vita.options import EngineOptions

# Panels of the help text.
MEDIA, MODEL, ANSWER, OUTPUT = "Media", "Model", "Answer", "Output"

_FILE = "File, URL, or - for standard input; repeatable."
_CHAT_FILE = "File or URL of the first question; repeatable."
_MODEL = "Checkpoint folder or hub id; default: the embedded model."
_SCHEMES = (
    "int8 or int4: quantise the decoder to 8 or 4 bits. int8+encoders or int4+encoders: the encoders too, to 8 bits."
)


def at_least(low: int) -> Callable[[int | None], int | None]:
    """A check of an option's value; `min=` would show as `[x>=2]` in the help."""

    def check(value: int | None) -> int | None:
        if value is not None and value < low:
            raise typer.BadParameter(f"{value} is less than {low}")
        return value

    return check


def _files(flag: str, short: str, text: str) -> Any:  # as typer.Option itself
    """An option that names media and may be given more than once."""
    return typer.Option(flag, short, metavar="FILE", help=text, rich_help_panel=MEDIA)


# Media
ImageFiles = Annotated[list[str] | None, _files("--image", "-i", _FILE)]
VideoFiles = Annotated[list[str] | None, _files("--video", "-v", _FILE)]
AudioFiles = Annotated[list[str] | None, _files("--audio", "-a", _FILE)]
ChatImages = Annotated[list[str] | None, _files("--image", "-i", _CHAT_FILE)]
ChatVideos = Annotated[list[str] | None, _files("--video", "-v", _CHAT_FILE)]
ChatAudios = Annotated[list[str] | None, _files("--audio", "-a", _CHAT_FILE)]
Fps = Annotated[
    float, typer.Option(metavar="RATE", help="Frames to take from each second of video.", rich_help_panel=MEDIA)
]
MaxFrames = Annotated[
    int, typer.Option(metavar="COUNT", help="Most frames to take from a video.", rich_help_panel=MEDIA)
]
Start = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Where the used part of a video starts.", rich_help_panel=MEDIA),
]
End = Annotated[float | None, typer.Option(metavar="SECONDS", help="Where that part ends.", rich_help_panel=MEDIA)]
AudioFromVideo = Annotated[
    bool,
    typer.Option(
        "--audio-from-video", metavar="", help="The audio of the video is the question.", rich_help_panel=MEDIA
    ),
]
MaxTiles = Annotated[
    int | None,
    typer.Option(
        metavar="COUNT", rich_help_panel=MEDIA,
        help="Most tiles to cut an image into, 1 to 12; default: the checkpoint's own.",
    ),
]  # fmt: skip
Reference = Annotated[
    bool,
    typer.Option(
        "--reference", metavar="", rich_help_panel=MEDIA,
        help="Read media exactly as the reference implementation does.",
    ),
]  # fmt: skip

# Model
Model = Annotated[str | None, typer.Option(metavar="MODEL", help=_MODEL, rich_help_panel=MODEL)]
ModelArgument = Annotated[str | None, typer.Argument(metavar="MODEL", help=_MODEL)]
HubId = Annotated[str, typer.Argument(metavar="MODEL", help="Hub id, such as VITA-MLLM/VITA-1.5.")]
Base = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Base checkpoint, when --model is a LoRA folder.", rich_help_panel=MODEL),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=MODEL)]
Dtype = Annotated[str, typer.Option(metavar="DTYPE", help="auto, float32, float16 or bfloat16.", rich_help_panel=MODEL)]
Quantize = Annotated[str | None, typer.Option(metavar="SCHEME", help=_SCHEMES, rich_help_panel=MODEL)]
QuantizeTo = Annotated[str, typer.Option(metavar="SCHEME", help=_SCHEMES, rich_help_panel=MODEL)]
KVCacheFormat = Annotated[
    str,
    typer.Option(
        metavar="FORMAT", rich_help_panel=MODEL,
        help="auto, or int8: an 8-bit KV cache, half the memory of a long conversation.",
    ),
]  # fmt: skip
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", rich_help_panel=MODEL,
        help="Memory limit of the process, such as 4GB, or auto: load the least quantised variant within it.",
    ),
]  # fmt: skip
OldMemory = Annotated[str | None, typer.Option("--fit", hidden=True)]  # the old name of --memory
Offline = Annotated[bool, typer.Option("--offline", metavar="", help="Never use the network.", rich_help_panel=MODEL)]

# Answer
System = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Replaces the built-in system text.", rich_help_panel=ANSWER)
]
MaxTokens = Annotated[int, typer.Option(metavar="COUNT", help="Most new tokens of an answer.", rich_help_panel=ANSWER)]
Temperature = Annotated[
    float, typer.Option(metavar="NUMBER", help="Randomness of the answer; 0: greedy.", rich_help_panel=ANSWER)
]
TopP = Annotated[
    float,
    typer.Option(
        metavar="SHARE", rich_help_panel=ANSWER,
        help="Sample from the likeliest tokens that together have this probability.",
    ),
]  # fmt: skip
TopK = Annotated[
    int,
    typer.Option(metavar="COUNT", help="Sample from this many likeliest tokens; 0: all.", rich_help_panel=ANSWER),
]
MinP = Annotated[
    float,
    typer.Option(
        metavar="SHARE", rich_help_panel=ANSWER,
        help="Drop tokens less probable than this share of the likeliest token's probability.",
    ),
]  # fmt: skip
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER", rich_help_panel=ANSWER,
        help="Over 1 makes tokens of the answer so far less likely; default: the checkpoint's own.",
    ),
]  # fmt: skip
Seed = Annotated[
    int | None, typer.Option(metavar="NUMBER", help="Makes sampling reproducible.", rich_help_panel=ANSWER)
]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="Text that ends the answer; repeatable.", rich_help_panel=ANSWER),
]
Listen = Annotated[
    bool,
    typer.Option(
        "--listen", metavar="", rich_help_panel=MEDIA,
        help="Talk by microphone; speech stops the answer. Needs the extra listen.",
    ),
]  # fmt: skip
Logprobs = Annotated[
    int,
    typer.Option(metavar="COUNT", help="Alternatives to report for each token; needs --json.", rich_help_panel=ANSWER),
]

# Output
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON object.", rich_help_panel=OUTPUT)]
JsonAnswer = Annotated[
    bool,
    typer.Option(
        "--json", metavar="", help="Print one JSON object with text, usage and timings.", rich_help_panel=OUTPUT
    ),
]
JsonRows = Annotated[
    bool, typer.Option("--json", metavar="", help="Print one JSON object a row.", rich_help_panel=OUTPUT)
]
Stream = Annotated[
    bool, typer.Option(metavar="", help="Print the answer while it is generated.", rich_help_panel=OUTPUT)
]
ShowReasoning = Annotated[
    bool,
    typer.Option(
        "--show-reasoning", metavar="", rich_help_panel=OUTPUT,
        help="Show on stderr what the model writes before it answers.",
    ),
]  # fmt: skip
Timings = Annotated[
    bool | None,
    typer.Option(metavar="", help="Show where the time went; default: on a terminal.", rich_help_panel=OUTPUT),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", metavar="", help="Show which device, dtype and kernels were chosen.", rich_help_panel=OUTPUT
    ),
]


def engine_options(
    *, device: str = "auto", dtype: str = "auto", quantize: str | None = None, kv_cache: str = "auto",
    memory: str | None = None, old_memory: str | None = None, offline: bool = False,
) -> EngineOptions:  # fmt: skip
    """The options of a command as `EngineOptions`.

    Raises:
        RequestError: a value that does not exist, or `--memory` together with its old name `--fit`.
    """
    from vita.options import EngineOptions

    if memory is not None and old_memory is not None:
        raise RequestError("is the old name of --memory", where="--fit", fix="leave it out")
    return EngineOptions(
        device=device, dtype=dtype, quantize=quantize, kv_cache=kv_cache,
        memory=old_memory if memory is None else memory, offline=offline,
    )  # fmt: skip


def examples(*lines: str) -> str:
    """The examples at the end of a command's help."""
    return "\n".join(["Examples:", *(f"  {line}" for line in lines)])

"""Options of `vita serve`; no heavy import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SERVER, SAFETY = "Server", "Safety"  # panels of the help text

Host = Annotated[
    str,
    typer.Option(
        metavar="HOST", rich_help_panel=SERVER,
        help="Address to listen on; one that other machines can reach needs an API key.",
    ),
]  # fmt: skip
Port = Annotated[int, typer.Option(metavar="PORT", help="Port to listen on; 0: any.", rich_help_panel=SERVER)]
SslCertfile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="PEM certificate, for https.", rich_help_panel=SERVER)
]
SslKeyfile = Annotated[Path | None, typer.Option(metavar="FILE", help="PEM key of it.", rich_help_panel=SERVER)]
SelfSigned = Annotated[
    bool,
    typer.Option(
        "--self-signed", metavar="", rich_help_panel=SERVER,
        help="https with a certificate made for this run: browsers ask once, then allow the microphone.",
    ),
]  # fmt: skip
Voice = Annotated[str | None, typer.Option(metavar="NAME", help="Voice of spoken answers.", rich_help_panel=SERVER)]
Replicas = Annotated[
    int,
    typer.Option(
        metavar="COUNT", rich_help_panel=SERVER,
        help="Processes that answer, with a copy of the model each: one a GPU, or for restarts without a gap.",
    ),
]  # fmt: skip
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", rich_help_panel=SERVER,
        help="Ray cluster for the replicas, such as auto; local: Ray on this machine. Needs the extra ray.",
    ),
]  # fmt: skip
Engine = Annotated[
    str,
    typer.Option(
        metavar="NAME", rich_help_panel=SERVER,
        help="What computes the answers: vita, or vllm for a GPU that many users share. Needs the extra vllm.",
    ),
]  # fmt: skip
EngineArgs = Annotated[
    str,
    typer.Option(
        metavar="JSON", rich_help_panel=SERVER,
        help='Engine arguments of vLLM, such as \'{"tensor_parallel_size": 2}\'.',
    ),
]  # fmt: skip
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", rich_help_panel=SAFETY,
        help="File with one API key a line, 8 characters or more; the variable VITA_API_KEY holds one more.",
    ),
]  # fmt: skip
AllowHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-host", metavar="NAME", rich_help_panel=SAFETY,
        help="Further name that clients call this server by, such as a proxy's; repeatable.",
    ),
]  # fmt: skip
AllowOrigins = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-origin", metavar="ORIGIN", rich_help_panel=SAFETY,
        help="Web page of another site that may call it, such as https://chat.example.com; repeatable.",
    ),
]  # fmt: skip
AllowMediaDomains = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-media-domain", metavar="DOMAIN", rich_help_panel=SAFETY,
        help="Host that media URLs of requests may name, with its subdomains; repeatable. Default: none.",
    ),
]  # fmt: skip
LogContent = Annotated[
    bool,
    typer.Option(
        "--log-content", metavar="", rich_help_panel=SAFETY, help="Write questions and answers to the log."
    ),
]  # fmt: skip

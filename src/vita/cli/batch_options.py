"""Options of `vita batch`; no heavy import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BATCH = "Batch"  # panel of the help text

Input = Annotated[
    Path,
    typer.Argument(
        metavar="IN",
        help="File of JSON lines as of OpenAI's batch API, .tsv or .csv (path or url, question, id), or folder.",
    ),
]
Output = Annotated[Path, typer.Argument(metavar="OUT", help="File of JSON lines; results that it has are kept.")]
Question = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", rich_help_panel=BATCH, help="Asked about each file of a folder, or each row without its own."
    ),
]  # fmt: skip
Concurrency = Annotated[
    int, typer.Option(metavar="COUNT", help="Requests in progress, 1 to 128.", rich_help_panel=BATCH)
]
Ordered = Annotated[
    bool,
    typer.Option(
        "--ordered", metavar="", rich_help_panel=BATCH,
        help="Write results in the order of the input; default: as they are complete.",
    ),
]  # fmt: skip
Shard = Annotated[
    str,
    typer.Option(
        metavar="SHARD", rich_help_panel=BATCH,
        help="Answer one part only, such as 1/4 for the first of four: one part a machine.",
    ),
]  # fmt: skip
RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed", metavar="", rich_help_panel=BATCH, help="Ask what failed in earlier runs again."
    ),
]  # fmt: skip

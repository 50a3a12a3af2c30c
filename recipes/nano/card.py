"""The model card: `python -m recipes.nano.card runs/first` writes src/vita/default/README.md from the evaluation.

Its words are in `card.md`. The figures come from the runs' states and from `eval.json`, `sizes.json` (`python
benchmarks/picture_sizes.py --json`) and `voices.json` (`python -m recipes.nano.speech.measure --json`) in the folder of
the last run; nothing in the tables is typed by hand. `history.json` keeps what is known of runs whose states are gone.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from recipes.nano.checkpoint import LEARNT_BY, hears
from recipes.nano.evaluate import TITLES
from recipes.nano.score import Line, markdown, wilson

CARD = Path("src/vita/default/README.md")
TEXT = Path(__file__).parent / "card.md"
HISTORY = Path(__file__).parent / "history.json"
SPEECH = "python -m recipes.nano.speech.train"
SAMPLES = {
    "python -m recipes.nano.pictures": "pictures",
    SPEECH: "sounds or clips, and pictures beside them",
    "python -m recipes.nano.train": "batches of everything",
}  # by command
_BEFORE = "python -m recipes."  # commands of runs from before the recipe had its folder


def shares(right: int, of: int) -> str:
    """Two cells: per cent and interval."""
    low, high = wilson(right, of)
    return f"{100 * right / max(1, of):.1f} % | {100 * low:.0f} to {100 * high:.0f}"


def sizes_table(found: list[dict[str, Any]]) -> str:
    """Right answers by the size of the picture."""
    kinds = list(found[0]["counts"])
    head = ["size", "tiles", *kinds, "all", "95 % interval", "of", "won", "lost"]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for one in found:
        counts, (columns, lines) = one["counts"], one["grid"]
        right, of = (sum(pair[k] for pair in counts.values()) for k in (0, 1))
        cells = [f"{100 * counts[kind][0] / counts[kind][1]:.0f}" for kind in kinds]
        size = "x".join(map(str, one["size"]))
        ends = [shares(right, of), str(of), str(one["won"]), str(one["lost"])]
        rows.append("| " + " | ".join([size, f"{columns}x{lines}", *cells, *ends]) + " |")
    return "\n".join(rows) + "\n"


def voices_table(found: list[dict[str, Any]]) -> str:
    """Right answers by the voice that asks."""
    rows = ["| voice | what | right | 95 % interval | of | mark |", "|---" * 6 + "|"]
    rows += [
        f"| {one['voice']} | {one['name']} | {shares(one['right'], one['of'])} | {one['of']} | {one['least']} |"
        for one in found
    ]
    return "\n".join(rows) + "\n"


def missed(evaluation: dict[str, Any]) -> str:
    """The rows under their mark, said in words."""
    rows = [r for part in evaluation["parts"].values() for r in part["rows"] if r["mark"] and r["share"] < r["mark"]]
    if not rows:
        return "\nEvery row reaches its mark.\n"
    said = "; ".join(f"{r['name']} {r['share']:.0f} % of {r['mark']} %" for r in rows)
    return f"\nUnder their marks: {said}.\n"


def table(part: dict[str, Any], title: str) -> str:
    """One table of the card."""
    names = [field.name for field in fields(Line)]
    return markdown(title, [Line(**{name: row[name] for name in names}) for row in part["rows"]])


def runs_table(history: list[dict[str, Any]]) -> str:
    """What was run, for how long, on how much."""
    rows = [f"| `{run['command']}` | {run['minutes']:.0f} | {run['samples']:,} {run['what']} |" for run in history]
    return "\n".join(["| command | active minutes | samples |", "|---|---|---|", *rows])


def weak(evaluation: dict[str, Any]) -> str:
    """What it is worst at, in words."""
    rows = {row["name"]: row["share"] for row in evaluation["parts"]["mix"]["rows"]}
    said = {"chart: value": "the values of charts", "clock": "clocks", "sums": "sums", "three words": "three words"}
    poor = [words for name, words in said.items() if rows.get(name, 100.0) < 50]
    return f"Under half of its answers are right about {', '.join(poor)}.\n" if poor else ""


def hearing(evaluation: dict[str, Any]) -> str:
    """How far it can be spoken to, in words."""
    sounds = evaluation["parts"].get("sounds")
    if sounds is None:
        return ""
    spoken, _, written, _ = (row["share"] for row in sounds["rows"])
    return f"It answers {spoken:.0f} % of spoken questions rightly and writes {written:.0f} % of the words it hears.\n"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def card(run: Path, evaluation: dict[str, Any], facts: dict[str, Any], history: list[dict[str, Any]]) -> str:
    """The whole card.

    Args:
        run: folder with sizes.json and voices.json.
        evaluation: the content of eval.json.
        facts: millions of parameters and megabytes of the checkpoint.
        history: the runs.
    """
    sizes, voices = (read_json(run / f"{name}.json") for name in ("sizes", "voices"))
    return TEXT.read_text(encoding="utf-8").format(
        **facts, weak=weak(evaluation), hearing=hearing(evaluation), missed=missed(evaluation),
        tables="\n".join(table(evaluation["parts"][part], TITLES[part]) for part in evaluation["parts"]),
        sizes=sizes_table(sizes), voices=voices_table(voices), runs=runs_table(history),
    )  # fmt: skip


def entry(run: Path, state: dict[str, Any]) -> dict[str, Any]:
    """The line of a run in the history."""
    command: str = state["command"]
    if _BEFORE in command and f"{_BEFORE}nano." not in command:
        command = {f"{_BEFORE}train": "python -m recipes.nano.pictures", f"{_BEFORE}speech.train": SPEECH}[command]
    minutes = round(state["progress"]["spent"] / 60, 1)
    samples = state["progress"]["index"]
    hears_only = command == SPEECH and not (state["progress"]["phase"] or state["progress"]["since"])
    what = "sounds" if hears_only else SAMPLES[command]
    return {"run": run.name, "command": command, "minutes": minutes, "samples": samples, "what": what}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of the runs in order, the last with export/")
    parser.add_argument("--out", type=Path, default=CARD)
    options = parser.parse_args()
    from recipes.nano.checkpoint import read_run
    from recipes.nano.export import load_run

    history: list[dict[str, Any]] = read_json(HISTORY)
    for run in options.runs:
        made = entry(run, read_run(run))
        history = [*(one for one in history if one["run"] != made["run"]), made]
    HISTORY.write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    last = options.runs[-1]
    model, _ = load_run(last)
    shipped = [p for name, p in model.named_parameters() if not name.startswith(LEARNT_BY)]
    facts = {
        "millions": sum(p.numel() for p in shipped) / 1e6,
        "megabytes": (last / "export" / "model.safetensors").stat().st_size / 1e6,
    }
    evaluation = read_json(last / "eval.json")
    if hears(model.state_dict()) and "sounds" not in evaluation["parts"]:
        raise SystemExit(
            "the model hears, and its hearing was not evaluated: install espeakng-loader and evaluate again"
        )
    options.out.write_text(card(last, evaluation, facts, history), encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()

"""The model card: `python -m recipes.nano.card runs/first` writes src/vita/default/README.md from the evaluation.

Owns the card's words. The figures come from the runs' states and from `eval.json`, `sizes.json` (`python
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
HISTORY = Path(__file__).parent / "history.json"
SPEECH = "python -m recipes.nano.speech.train"
SAMPLES = {
    "python -m recipes.nano.pictures": "pictures",
    SPEECH: "sounds or clips, and as many pictures",
    "python -m recipes.nano.train": "batches of everything",
}  # by command
_BEFORE = "python -m recipes."  # commands of runs from before the recipe had its folder

HEAD = """\
# The embedded model

A checkpoint of VITA's architecture at less than a thousandth of the released size, in the released on-disk layout:
{millions:.2f} million parameters, {megabytes:.1f} MB in bfloat16. It ships with the package so that `./demo.sh` and
every test of behaviour run on a model that means something, with no download. It was trained from nothing by
`recipes/`, on pictures, clips and voices that the recipe makes itself; no weights and no data of anybody else are in
it.

**What it does.** English questions, typed or spoken, about simple pictures: one to three words in many fonts, colours
and sizes (read them, say colour, size, place, background), one to six coloured shapes (which, colour, count, place,
relations), bar charts, numbers, small sums, clocks; and a second question about the answer before. Pictures of any
size are shown to it whole, as one tile of 224 px. Short clips: what moves where, what changes its colour, which word or
shape comes first and last. It writes down short spoken sentences of everyday words, and gives no answer to noise,
music, babble and talk between others. Where an answer needs several looks it lists what it sees and counts what was
asked for, "a red ring (1)", between the tokens `<think>` and `</think>`, before it answers; a spoken question it states
again there. About everything else it was trained to say that it can only describe simple pictures.

**What it does not.** It knows no photographs, no faces, no facts about the world. It has heard only eSpeak NG's voices,
never a person's: how well it understands you is not measured. It writes down only words it was taught. It answers in
text; it does not speak.
{hearing}{weak}Its mistakes in reading are look-alike letters and lost ones. A question worded very unlike those it was
taught may be taken for another.
Of pictures in several tiles it was taught few, all of them of words: about shapes in several tiles it is mostly wrong,
where they are above all. So its `max_dynamic_patch` is 1. Two or more words in a wide picture are read better with
`--max-tiles 3` (`docs/log.md`). A picture nearly four times as wide as high is squeezed into one tile: a third
of its captions of shapes are right.
"""

TABLE = """
## How well

Held out are a tenth of the words, 13 font designs, combinations of colours, phrasings of every question, and 14 of 76
speakers; greedy answers. "Right" counts the fact asked for, "exact" the whole sentence, "blind" the commonest answer of
the kind given without looking. Second questions follow the model's own first answer, right or wrong. Captions score
every attribute they should name. Intervals are Wilson's at 95 %. Wide and tall pictures were cut into up to four tiles
(`--max-tiles 4`).

"""

FOOT = """
## How it was trained

On two CPU cores, one run after another, each going on from the one before:

{runs}

Pictures: first full pages of letters from easy to hard, with a label for the character, shape and colour under every
patch and for the letter's place in its text (added after 77,184 pictures of the first run); then pictures with
questions, with the decoder; then wide pictures cut into tiles. Between them, drills without pictures teach the decoder
to count what was asked for in a list that is given. Sounds: first the audio encoder alone writes down letters and
words (CTC), then sounds, clips and pictures are taught together. Sums and numbers have no held-out pairs. The vision
encoder's first weights already see patches as a whitened cosine transform and look at their neighbours
(`recipes/nano/model.py`): without that and the easy pages, reading does not start. The decoder grew from four blocks to
six after the first run, without changing an answer (`recipes/nano/checkpoint.py`). The audio encoder was made anew for
version 4: its frames know where they stand, which those of the release do not (`recipes/nano/LOG.md`).

To do it again, see `recipes/nano/README.md`; `vita eval default` measures the table anew.

## Licence

Weights, recipe, pictures and sounds are ours, under Apache-2.0 like the code.
"""


SIZES = """
### The same scenes at several sizes

Up to three shapes, a number, one and two words, from another renderer (`benchmarks/picture_sizes.py`); the same scenes
and questions at every size. Won and lost: answered rightly at this size and wrongly at 224x224, and the reverse.

"""

VOICES = """
### Who is understood

Fresh pictures, questions and sentences (`recipes.nano.speech.measure`). `slt`, `rms` and `awb` were built from recorded
speakers by Carnegie Mellon (Flite); they were never trained on, and nothing was chosen by them. "held-out words":
phrasings, fonts and words that training never had. eSpeak's speakers are held out; the others were heard in training.

"""


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
    return SIZES + "\n".join(rows) + "\n"


def voices_table(found: list[dict[str, Any]]) -> str:
    """Right answers by the voice that asks."""
    rows = ["| voice | what | right | 95 % interval | of | mark |", "|---" * 6 + "|"]
    rows += [
        f"| {one['voice']} | {one['name']} | {shares(one['right'], one['of'])} | {one['of']} | {one['least']} |"
        for one in found
    ]
    return VOICES + "\n".join(rows) + "\n"


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


def card(evaluation: dict[str, Any], more: str, facts: dict[str, Any], history: list[dict[str, Any]]) -> str:
    """The whole card.

    Args:
        evaluation: what `recipes.nano.evaluate` wrote.
        more: tables of sizes and voices.
        facts: millions of parameters and megabytes of the checkpoint.
        history: the runs.
    """
    tables = "\n".join(table(evaluation["parts"][part], TITLES[part]) for part in evaluation["parts"])
    head = HEAD.format(**facts, weak=weak(evaluation), hearing=hearing(evaluation))
    return head + TABLE + tables + missed(evaluation) + more + FOOT.format(runs=runs_table(history))


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

    history: list[dict[str, Any]] = json.loads(HISTORY.read_text(encoding="utf-8"))
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
    evaluation = json.loads((last / "eval.json").read_text(encoding="utf-8"))
    if hears(model.state_dict()) and "sounds" not in evaluation["parts"]:
        raise SystemExit(
            "the model hears, and its hearing was not evaluated: install espeakng-loader and evaluate again"
        )
    sizes_found, voices_found = (
        json.loads((last / f"{name}.json").read_text(encoding="utf-8")) for name in ("sizes", "voices")
    )
    more = sizes_table(sizes_found) + voices_table(voices_found)
    options.out.write_text(card(evaluation, more, facts, history), encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()

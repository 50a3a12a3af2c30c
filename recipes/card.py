"""The model card: `python -m recipes.card runs/first` writes src/vita/default/README.md from the evaluation.

Owns the card's words. The figures come from `eval.json` and the training log; nothing in the table is typed by hand.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from recipes.evaluate import TITLES
from recipes.score import Line, markdown

PLACES_ADDED = 77_184  # pictures into the shipped run
CARD = Path("src/vita/default/README.md")

HEAD = """\
# The embedded model

A checkpoint of VITA's architecture at less than a thousandth of the released size, in the released on-disk layout:
{millions:.2f} million parameters, {megabytes:.1f} MB in bfloat16. It ships with the package so that `./demo.sh` and
every test of behaviour run on a model that means something, with no download. It was trained from nothing by
`recipes/`, on pictures that the recipe draws itself; no weights and no pictures of anybody else are in it.

**What it does.** Typed English questions about simple pictures: one to three words in many fonts, colours and sizes
(read them, say colour, size, place, background), one to six coloured shapes (which, colour, count, place, relations),
bar charts, numbers, small sums, clocks. Larger or longer pictures are tiled like any other. About everything else it
was trained to say that it can only describe simple pictures.

**What it does not.** It does not listen: `config.json` says so under `vita_untrained`, and the engine refuses sound
rather than let it invent. It was not taught video: frames are seen, and described as if they were pictures. It knows
no photographs, no faces, no facts about the world. Charts, clocks and counting are hardly learned yet, and its mistakes
in reading are look-alike letters and lost ones. A question worded very unlike those it was taught may be taken for
another.
"""

TABLE = """
## How well

Held out are a tenth of the words, 13 font designs, combinations of colours, and phrasings of every question; greedy
answers. "Right" counts the fact asked for, "exact" the whole sentence, "blind" the commonest answer of the kind given
without looking. Captions score every attribute they should name. Intervals are Wilson's at 95 %.

"""

FOOT = """
## How it was trained

`{command}`: {minutes:.0f} active minutes on two cores, {pictures:,} pictures, in this order: full pages of letters
from easy to hard with a label for the character, shape and colour under every patch; then pictures with questions,
with the decoder; then wide pictures cut into tiles. Sums and numbers have no held-out pairs. The vision encoder's first
weights already see patches as a whitened cosine transform and look at their neighbours (`recipes/model.py`): without
that and the easy pages, reading does not start. This run was not one piece: after {places:,} pictures the label for a
letter's place in its text was added, and later its budget was raised; a run from nothing has both from the start.

To do it again: `sudo apt-get install` the fonts of `recipes/data/fonts.txt`, then

```
python -m recipes.train --minutes {minutes:.0f} --out runs/first
python -m recipes.export runs/first runs/first/export
python -m recipes.evaluate runs/first/export --out runs/first --describe assets/vita_logo.png
python -m recipes.card runs/first
```

## Licence

Weights, recipe and pictures are ours, under Apache-2.0 like the code.
"""


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


def card(evaluation: dict[str, Any], facts: dict[str, Any]) -> str:
    """The whole card.

    Args:
        evaluation: what `recipes.evaluate` wrote.
        facts: millions, megabytes, minutes, pictures and command of the run.
    """
    tables = "\n".join(table(evaluation["parts"][stage], TITLES[stage]) for stage in evaluation["parts"])
    return HEAD.format(**facts) + TABLE + tables + missed(evaluation) + FOOT.format(**facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run, with eval.json and export/")
    parser.add_argument("--out", type=Path, default=CARD)
    options = parser.parse_args()
    from recipes.checkpoint import read_state
    from recipes.export import load_run

    state = read_state(options.run)
    model, _ = load_run(options.run)
    shipped = [p for name, p in model.named_parameters() if not name.startswith("dense.")]
    weights = options.run / "export" / "model.safetensors"
    minutes = state["progress"]["spent"] / 60
    facts = {
        "millions": sum(p.numel() for p in shipped) / 1e6,
        "megabytes": weights.stat().st_size / 1e6,
        "minutes": minutes,
        "pictures": state["progress"]["index"],
        "places": PLACES_ADDED,
        "command": f"python -m recipes.train --minutes {minutes:.0f}",
    }
    evaluation = json.loads((options.run / "eval.json").read_text(encoding="utf-8"))
    options.out.write_text(card(evaluation, facts), encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()

"""What a machine needs that only trains: `python -m recipes.nano.pack_folder --out FOLDER`.

Owns the choice: the modules that training imports, fonts cut down to the recipe's characters, eSpeak NG with English
alone, and utterances of other voices at four bits a sample, as many as fit. The folder holds `nano.tar.xz` and
`gpu.sh`. Fonts are cut by fontTools (the extra `pack`).
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import shutil
import string
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from random import Random

import numpy as np

from recipes.nano.data import CHARS
from recipes.nano.data.fonts import BUILT_IN
from recipes.nano.data.studio import studio
from recipes.nano.speech.adpcm import encode
from recipes.nano.speech.bake import Texts, trimmed
from recipes.nano.speech.baked import COMPACT, Baked, read_index
from recipes.nano.speech.espeak import MissingSpeechEngine, espeak
from recipes.nano.speech.flite import TRAINED, Manner, flite
from recipes.nano.speech.resample import resample
from recipes.nano.speech.room import RATE
from recipes.nano.speech.voices import pick_voice

ROOT = Path(__file__).parents[2]
SOURCES = {"vita": ROOT / "src" / "vita", "recipes": ROOT / "recipes"}
BEGIN = ("recipes.nano.train", "recipes.nano.quick", "recipes.nano.trial", "vita.kernels.triton")
DATA = ("recipes/nano/data/*.txt", "recipes/nano/gpu.sh")
CHARACTERS = sorted({*string.printable, *CHARS, "\u00a0", "\u2019", "\ufffd"} - set("\x0b\x0c"))
FRESH = {"flite": 0.3, "espeak": 0.1}  # shares of the utterances that are made here; the rest was baked
TYPICAL = 1.3 * 16000 / 2  # bytes of an utterance
PACKED = 0.93  # what the archive makes of them, at most
ENGLISH = ("en_dict", "phondata", "phonindex", "phontab", "phondata-manifest", "intonations")


def modules(begin: tuple[str, ...]) -> set[Path]:
    """The files of the modules that these import, directly or not, wherever in a file the import stands."""
    wanted, seen = list(begin), set[Path]()
    while wanted:
        for file in files_of(wanted.pop()):
            if file in seen:
                continue
            seen.add(file)
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    wanted += [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module:
                    wanted += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return seen


def files_of(module: str) -> Iterator[Path]:
    """Of a module and of the packages it is in."""
    parts = module.split(".")
    if parts[0] not in SOURCES:
        return
    for count in range(1, len(parts) + 1):
        base = SOURCES[parts[0]].joinpath(*parts[1:count])
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.is_file():
                yield file


def copy_code(out: Path) -> None:
    """Modules and the recipe's texts, laid out as in the repository."""
    files = [*modules(BEGIN), *(f for pattern in DATA for f in ROOT.glob(pattern))]
    for file in files:
        target = out / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def copy_fonts(out: Path) -> int:
    """The faces that the recipe draws with, cut down to its characters; how many."""
    from fontTools import subset
    from fontTools.ttLib import TTFont

    out.mkdir(parents=True, exist_ok=True)
    book = studio().letters.book
    paths = sorted({face.path for group in book.all_faces() for face in group} - {BUILT_IN})
    for path in paths:
        # Layout is Pillow's basic one: of the tables only outlines, hints, metrics and the old kerning count.
        options = subset.Options(hinting=True, legacy_kern=True, notdef_outline=True, glyph_names=False,
                                 name_IDs=[1, 2, 3, 4, 6, 16, 17], layout_features=[])  # fmt: skip
        options.drop_tables += ["GSUB", "GPOS", "GDEF", "DSIG", "FFTM"]
        font = TTFont(path, lazy=True)
        cutter = subset.Subsetter(options)
        cutter.populate(text="".join(CHARACTERS))
        cutter.subset(font)
        font.save(out / Path(path).name)
    return len(paths)


def copy_espeak(out: Path) -> bool:
    """The library and English; False where it is not installed. It is loaded at run time (GPL-3.0-or-later)."""
    found = importlib.util.find_spec("espeakng_loader")
    if found is None or found.origin is None:
        return False
    home = Path(found.origin).parent
    data = home / "espeak-ng-data"
    files = [*home.glob("*.py"), *home.glob("libespeak-ng.so*"), *(data / name for name in ENGLISH),
             *(data / "voices" / "!v").iterdir(), *(data / "lang" / "gmw").glob("en*")]  # fmt: skip
    for file in files:
        if file.is_file():
            target = out / "espeakng_loader" / file.relative_to(home)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return True


Utterance = tuple[str, str, str, str, np.ndarray]  # group, speaker, kind, text and samples


def utterances(baked: Path | None, count: int) -> Iterator[Utterance]:
    """About `count` utterances of every voice there is, by number, one of each group in turn."""
    groups = {index.stem: read_index(index) for index in sorted(baked.glob("*.tsv"))} if baked else {}
    fresh = {name: round(count * share) for name, share in FRESH.items()}
    sources = [_said_here(name, number, baked) for name, number in fresh.items()]
    most = (count - sum(fresh.values())) // max(1, len(groups))
    sources += [_baked(name, Random(f"packed/{name}").sample(found, min(len(found), most)))
                for name, found in groups.items()]  # fmt: skip
    for row in zip_longest(*sources):
        yield from (one for one in row if one is not None)


def _baked(name: str, chosen: Sequence[Baked]) -> Iterator[Utterance]:
    for one in chosen:
        yield name, one.speaker, one.kind, one.text, one.samples()


def _said_here(name: str, count: int, folder: Path | None) -> Iterator[Utterance]:
    with tempfile.TemporaryDirectory() as made:
        texts = Texts(folder or Path(made))
        for number in range(count):
            kind, text = texts.text(name, number)
            rng = Random(f"packed/{name}/{number}")
            try:
                if name == "flite":
                    speaker = rng.choice(TRAINED)
                    samples, rate = flite(speaker).speak(text, Manner.drawn(rng))
                else:
                    voice = pick_voice(rng, "train")
                    speaker, rate = voice.name, espeak().rate
                    samples = espeak().speak(text, voice)
            except MissingSpeechEngine as error:
                print(f"{name}: left out, {error}", flush=True)
                return
            yield name, speaker, kind, text, trimmed(resample(samples, rate, RATE))


def write_voices(out: Path, baked: Path | None, megabytes: float) -> dict[str, int]:
    """Utterances in `out/GROUP.ima` and `.tsv` until so many megabytes are full; how many of each group."""
    out.mkdir(parents=True, exist_ok=True)
    done: dict[str, int] = {}
    budget = 1e6 * megabytes / PACKED
    for name, speaker, kind, text, samples in utterances(baked, int(budget / TYPICAL)):
        data = encode(samples)
        budget -= len(data)
        if budget < 0:
            break
        with (
            (out / f"{name}{COMPACT}").open("ab") as sounds,
            (out / f"{name}.tsv").open("a", encoding="utf-8") as lines,
        ):
            sounds.write(data)
            lines.write(f"{len(samples)}\t{speaker}\t{kind}\t{text}\n")
        done[name] = done.get(name, 0) + 1
    return done


def pack_folder(out: Path, baked: Path | None, megabytes: float) -> None:
    """Fills the folder; the archive and the script are under `megabytes` together."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        stage = Path(made) / "nano"
        copy_code(stage)
        print(f"{copy_fonts(stage / 'fonts')} fonts", flush=True)
        print("eSpeak NG: " + ("English" if copy_espeak(stage) else "not installed, left out"), flush=True)
        archive = out / "nano.tar.xz"
        _archive(stage, archive)
        left = megabytes - archive.stat().st_size / 1e6 - 0.5
        print(f"{archive.stat().st_size / 1e6:.1f} MB without voices", flush=True)
        print(f"utterances {write_voices(stage / 'voices', baked, left)}", flush=True)
        _archive(stage, archive)
    shutil.copyfile(Path(__file__).parent / "gpu.sh", out / "gpu.sh")
    size = sum(f.stat().st_size for f in out.iterdir()) / 1e6
    print(f"{size:.1f} MB in {out}; on the machine: bash {out.name}/gpu.sh", flush=True)
    if size > megabytes:
        raise SystemExit(f"the folder has {size:.1f} MB, more than {megabytes:g}; say --megabytes less than that")


def _archive(stage: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:xz", preset=2) as tar:
        tar.add(stage, stage.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--voices", type=Path, help="folder of baked voices")
    parser.add_argument("--megabytes", type=float, default=55.0, help="most of the folder")
    options = parser.parse_args()
    pack_folder(options.out, options.voices, options.megabytes)


if __name__ == "__main__":
    main()

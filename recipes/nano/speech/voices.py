"""Who speaks: accents and timbres of eSpeak NG, split so that held-out speakers are never trained on."""

from __future__ import annotations

from random import Random

from recipes.nano.data.fonts import held_out_name
from recipes.nano.data.labels import Split
from recipes.nano.speech.espeak import Voice

ACCENTS = (
    "en-us", "en", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029", "en-us-nyc",
)  # fmt: skip
TIMBRES = (
    "", "Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo", "Jacky",
    "Lee", "Marco", "Mario", "Michael", "Mike", "Nguyen", "Storm", "adam", "anika", "antonio", "aunty", "belinda",
    "benjamin", "boris", "caleb", "david", "ed", "edward", "edward2", "f1", "f2", "f3", "f4", "f5", "grandma",
    "grandpa", "gustave", "iven", "iven2", "iven3", "iven4", "john", "kaukovalta", "klatt", "klatt2", "klatt3",
    "klatt4", "linda", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "marcelo", "max", "michel", "miguel", "norbert",
    "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "steph2", "steph3", "travis",
    "victor", "zac",
)  # fmt: skip
HELD_OUT = 0.15


def held_out_timbre(name: str) -> bool:
    """Whether a speaker is kept for the held-out split; numbered twins go together."""
    return bool(name) and held_out_name("voice4", name.rstrip("0123456789") if len(name) > 2 else name, HELD_OUT)


def pick_voice(rng: Random, split: Split) -> Voice:
    """A speaker of the split with a speed and a melody of his own."""
    names = [t for t in TIMBRES if held_out_timbre(t) == (split == "heldout")]
    timbre, accent = rng.choice(names), rng.choice(ACCENTS)
    return Voice(
        f"{accent}+{timbre}" if timbre else accent,
        rate=round(rng.uniform(120, 215)),
        pitch=min(99, max(0, round(rng.gauss(50, 16)))),
        range=round(rng.uniform(20, 80)),
    )

"""What is trained when, by the share of the budget that is spent.

Owns the phases. Does not know what a sample holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from recipes.nano.data import Stage

SETTLED = 80  # steps after which a running mean has forgotten the phase before


@dataclass(frozen=True)
class Phase:
    """A part of the run.

    Attributes:
        name: for logs.
        until: share of the budget at which it ends.
        draw: stages and their weights.
        dense: factor on the loss of the dense heads.
        answers: whether the decoder is trained.
        eyes: whether encoder and projector are trained; drills leave too few pictures in a step for that.
        enough: share of characters right (running mean) that ends it early; the time saved goes to what follows.
    """

    name: str
    until: float
    draw: tuple[tuple[str, float], ...]
    dense: float
    answers: bool
    enough: float = 2.0
    eyes: bool = True

    def stages(self) -> list[Stage]:
        return [cast(Stage, name) for name, _ in self.draw]

    def weights(self) -> list[float]:
        return [weight for _, weight in self.draw]


# What is hard (small letters, long words, labels of charts) is seen more often than the mix has it; pictures of any
# size, cut into tiles, a third of the time; signs, slides, messages and what is beyond the model a tenth. With fewer
# drills the decoder forgets how to conclude.
EVERYTHING = (
    ("mix", 0.2), ("words", 0.1), ("charts", 0.18), ("tiles", 0.29), ("scenes", 0.11), ("pages4", 0.02),
    ("drill", 0.05), ("comparisons", 0.05),
)  # fmt: skip
# Pages from easy to hard, each with a share of the step before, and each left as soon as it is read: a harder page
# teaches nothing to a model that cannot read the easier one. Then everything the model is asked about.
CURRICULUM = (
    Phase("pages1", 0.12, (("pages1", 1.0),), 1.0, False, 0.75),
    Phase("pages2", 0.24, (("pages2", 0.9), ("pages1", 0.1)), 1.0, False, 0.75),
    Phase("pages3", 0.36, (("pages3", 0.85), ("pages2", 0.15)), 1.0, False, 0.70),
    Phase("pages4", 0.42, (("pages4", 0.8), ("pages3", 0.2)), 1.0, False, 0.65),
    Phase("mix", 0.46, (("mix", 0.7), ("pages4", 0.2), ("drill", 0.1)), 1.0, True),
    Phase("lists", 0.52, (("drill", 0.35), ("comparisons", 0.35), ("mix", 0.3)), 0.0, True, eyes=False),
    Phase("joint", 0.75, (("mix", 0.72), ("pages4", 0.08), ("drill", 0.2)), 0.4, True),
    Phase("tiles", 1.00, EVERYTHING, 0.4, True),
)
# For the tests: no reading to learn, straight to pictures with questions.
TINY = (Phase("mix", 1.0, (("mix", 1.0),), 0.3, True),)


def next_phase(phases: tuple[Phase, ...], now: int, share: float, char: float, steps_in: int) -> int:
    """The number of the phase to draw from.

    Args:
        phases: of the run.
        now: the phase it is in.
        share: of the budget that is spent.
        char: running mean of the characters read right.
        steps_in: steps since the phase began, so that the mean is the phase's own.
    """
    while now < len(phases) - 1 and share >= phases[now].until:
        now += 1
    if now < len(phases) - 1 and steps_in >= SETTLED and char >= phases[now].enough:
        now += 1
    return now

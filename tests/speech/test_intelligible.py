"""A recogniser hears the streamed speech about as well as the same voice speaking the whole normalised sentence."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest
from tests.speech.test_voices import check_sentences

from vita.speech.normalize import spoken_text
from vita.speech.stream import SpeechStream
from vita.speech.voice import SAMPLE_RATE, Voice

SENTENCES = (Path(__file__).parent / "sentences.txt").read_text(encoding="utf-8").splitlines()
SEED = 1  # of a voice that samples: nothing is left to chance


def stream(voice: Voice, text: str, rng: random.Random) -> SpeechStream:
    """The text as a model writes it: in deltas of a few characters."""
    made = SpeechStream(lambda language: voice, seed=SEED)
    position = 0
    while position < len(text):
        size = rng.randint(1, 8)
        made.feed(text[position : position + size])
        position += size
    made.finish()
    return made


@pytest.mark.slow
def test_word_error_of_streamed_speech(piper: Voice) -> None:
    """About five minutes of one core. Of `espeak` the recogniser understands a third, which would show nothing."""
    if importlib.util.find_spec("pocketsphinx") is None:
        pytest.skip("SKIPPED LOUDLY: pocketsphinx is not installed")
    from tests.speech.recognise import Recogniser, edits, words_of

    voice = piper
    recogniser, rng = Recogniser(), random.Random(0)
    utterances = voice.open(language="en", speed=1.0, seed=SEED)
    words = streamed = whole = 0
    for sentence in SENTENCES:
        normalised = spoken_text(sentence, "en")
        said = words_of(normalised)
        words += len(said)
        streamed += edits(recogniser.hear(stream(voice, sentence, rng).read()), said)
        whole += edits(recogniser.hear(np.concatenate(list(utterances.speak(normalised, first=True)))), said)
    print(f"{voice.name}: {streamed / words:.3f} streamed, {whole / words:.3f} whole, {words} words")
    assert len(SENTENCES) == 100
    assert streamed <= 1.15 * whole


@pytest.mark.slow
@pytest.mark.parametrize("name", ["espeak", "piper"])
def test_two_minutes_are_heard_from_the_first_sentence_to_the_last(name: str, request: pytest.FixtureRequest) -> None:
    voice: Voice = request.getfixturevalue(name)
    text = " ".join(SENTENCES[:45])
    chunks = list(stream(voice, text, random.Random(1)))
    assert sum(len(chunk.samples) for chunk in chunks) > 120 * SAMPLE_RATE
    check_sentences(chunks, text)

"""Voices of the recipe: those that measure never train, baked files survive an end, pitch and time move apart."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recipes.nano.data import QA
from recipes.nano.data.pieces import heard_words
from recipes.nano.senses import reply, word_errors
from recipes.nano.speech import speakers
from recipes.nano.speech.augment import warped
from recipes.nano.speech.bake import Texts, trimmed
from recipes.nano.speech.baked import FOLDER, Shelf, append, read_index, shelf
from recipes.nano.speech.body import KINDS, unsaid
from recipes.nano.speech.espeak import MissingSpeechEngine, espeak
from recipes.nano.speech.flite import MEASURED, TRAINED, Flite, Manner
from recipes.nano.speech.measure import right
from recipes.nano.speech.room import KNOWN, WORN, fast_length, hear, spoken_by_another
from recipes.nano.speech.sample import say
from recipes.nano.speech.texts import backchannel, sentence_to_repeat
from recipes.nano.speech.voices import pick_voice

RATE = 16_000


@pytest.fixture(scope="module")
def kal() -> Flite:
    try:
        return Flite("kal16")
    except MissingSpeechEngine as error:
        pytest.skip(f"SKIPPED LOUDLY: {error}")


@pytest.fixture
def baked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two groups that say one question, and nothing else in the process."""
    for group in ("first", "second"):
        append(tmp_path / f"{group}.tsv", [(np.full(8000, 0.5, np.float32), group, "question", "What is this?")])
    monkeypatch.setenv(FOLDER, str(tmp_path))
    shelf.cache_clear()
    yield tmp_path
    shelf.cache_clear()


def test_flite_speaks_as_it_is_told(kal: Flite) -> None:
    said = {slow: len(kal.speak("What color is the star?", Manner(slow, 120, 10))[0]) for slow in (0.8, 1.0, 1.3)}
    assert said[0.8] < said[1.0] < said[1.3]
    assert pitch(kal.speak("Where is the moon?", Manner(1, 90, 5))[0]) < 110
    assert pitch(kal.speak("Where is the moon?", Manner(1, 180, 5))[0]) > 160


def pitch(samples: np.ndarray) -> float:
    """The most frequent period's frequency in Hz."""
    power = np.fft.irfft(np.abs(np.fft.rfft(samples, 1 << 16)) ** 2)
    return RATE / (RATE // 250 + int(power[RATE // 250 : RATE // 60].argmax()))


def test_voices_that_measure_never_train(kal: Flite, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not set(TRAINED) & set(MEASURED)
    used: list[str] = []
    monkeypatch.setattr(speakers, "flite", lambda name: used.append(name) or kal)
    for k in range(40):
        speakers.speak("Hello.", "train", Random(k))
        speakers.speak("Hello.", "heldout", Random(k))
    assert set(used) == set(TRAINED)


def test_baked_files_are_read_back_and_go_on_after_an_end(tmp_path: Path) -> None:
    index = tmp_path / "somebody.tsv"
    wave = np.sin(np.arange(4000) / 20).astype(np.float32) / 2
    append(index, [(wave, "anna", "repeat", "Go home."), (-wave, "anna", "others", "Come in.")])
    with index.open("a") as lines, index.with_suffix(".pcm").open("ab") as pcm:
        lines.write("77\tanna\tques")  # the end came here
        pcm.write(b"\1\2\3")
    append(index, [(wave[:100], "bert", "question", "Where is it?")])
    first, second, third = read_index(index)
    assert (third.speaker, third.kind, third.text, third.length) == ("bert", "question", "Where is it?", 100)
    for one, wanted in ((first, wave), (second, -wave), (third, wave[:100])):
        np.testing.assert_allclose(one.samples(), wanted, atol=1e-4)


def test_what_was_baked_is_found_by_its_words(baked: Path) -> None:
    books = Shelf(baked)
    assert books.has("what is THIS") and not books.has("What is that?")
    assert {found.speaker for k in range(40) if (found := books.saying("What is this.", Random(k)))} == {
        "first", "second",
    }  # fmt: skip
    assert books.of_kind("repeat", Random(1)) is None
    with pytest.raises(FileNotFoundError, match="holds no baked voices"):
        Shelf(baked / "elsewhere")


def test_training_hears_baked_voices_and_held_out_speakers_stay_espeaks(baked: Path) -> None:
    try:
        espeak()
    except MissingSpeechEngine as error:
        pytest.skip(f"SKIPPED LOUDLY: {error}")
    known, other = QA("What is this?", "A star.", "shape", "star"), QA("Where is it?", "Left.", "where", "left")

    def is_baked(split: str, seed: int) -> bool:
        samples, _ = speakers.speak("What is this?", split, Random(seed))  # type: ignore[arg-type]
        return len(samples) == 8000 and bool((samples == samples[0]).all())

    assert 5 < sum(is_baked("train", k) for k in range(30)) < 25
    assert not any(is_baked("heldout", k) for k in range(10))
    chosen = [speakers.asked_aloud([known, other], "train", Random(k)) for k in range(200)]
    assert 110 < sum(qa is known for qa in chosen) < 170


def test_a_number_always_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "questions.txt").write_text("9\tWhat is this?\n1\tWhere is it?\n")
    first, again = ([Texts(tmp_path).text("pico", k) for k in range(60)] for _ in range(2))
    assert first == again and {"question", "repeat", "others", "backchannel"} == {kind for kind, _ in first}
    assert not any("\t" in text or "\n" in text for _, text in first)


def test_silence_around_a_voice_is_cut() -> None:
    wave = np.concatenate([np.zeros(9000), np.full(4000, 0.2), np.zeros(9000)]).astype(np.float32)
    assert 4000 <= len(trimmed(wave)) < 6000 and np.abs(trimmed(wave)).max() == pytest.approx(0.9)
    assert len(trimmed(np.zeros(500, np.float32))) == 500


def test_wear_moves_pitch_and_keeps_time() -> None:
    tone = np.sin(2 * np.pi * 200 * np.arange(2 * RATE) / RATE).astype(np.float32)
    seen = []
    for seed in range(40):
        sound = spoken_by_another(tone, RATE, np.random.default_rng(seed), 1.0, WORN)
        spectrum = np.abs(np.fft.rfft(sound))
        seen.append((len(sound) / len(tone), spectrum.argmax() * RATE / len(sound) / 200))
    lengths, pitches = (np.array(values) for values in zip(*seen, strict=True))
    assert lengths.min() < 0.85 and lengths.max() > 1.15 and pitches.min() < 0.85 and pitches.max() > 1.15
    apart = lengths * pitches  # 1 where time only follows pitch
    assert (np.abs(apart - 1) > 0.05).sum() > 10


def test_another_throat_moves_formants_up_or_down_and_keeps_frames() -> None:
    bank = torch.zeros(9, 80)
    bank[:, 40] = 5.0
    tops = {int(made.sum(0).argmax()) for k in range(40) if (made := warped(bank, Random(k))).shape == bank.shape}
    assert min(tops) < 40 < max(tops) and min(tops) >= 34 and max(tops) <= 46
    assert any(torch.equal(warped(bank, Random(k)), bank) for k in range(9))


@pytest.mark.parametrize("wear", [KNOWN, WORN])
def test_what_is_heard_is_a_usable_sound(wear) -> None:  # type: ignore[no-untyped-def]
    voice = np.random.default_rng(0).normal(0, 0.1, 12_000).astype(np.float32)
    for seed in range(30):
        sound = hear(voice, RATE, np.random.default_rng(seed), wear=wear, behind=voice[:500] if seed % 2 else None)
        assert sound.dtype == np.float32 and np.isfinite(sound).all() and 0.05 < np.abs(sound).max() < 1


@given(st.integers(1, 400_000))
def test_a_quick_transform_is_long_enough(least: int) -> None:
    length = fast_length(least)
    assert least <= length <= 1.2 * least + 2 and length % 2 == 0
    for factor in (2, 3, 5):
        while length % factor == 0:
            length //= factor
    assert length == 1


def test_sounds_of_a_body_are_usable() -> None:
    for k in range(8 * len(KINDS)):
        sound = unsaid(Random(k), np.random.default_rng(k))
        assert sound.dtype == np.float32 and np.isfinite(sound).all() and len(sound) > 1000
        assert np.abs(sound).max() == pytest.approx(1, abs=1e-3)


def test_backchannels_of_the_measurement_are_held_out() -> None:
    train = {backchannel(Random(k), "train") for k in range(2000)}
    assert not train & {backchannel(Random(k), "heldout") for k in range(50)}
    # The server is measured with eSpeak's own voice, no variant of it.
    assert all("+" in speakers._anybody(Random(k), "train", plain=False).name for k in range(300))
    assert not all("+" in pick_voice(Random(k), "train").name for k in range(300))


def test_every_word_to_write_down_can_be_heard_as_one() -> None:
    known = set(heard_words())
    for k in range(1000):
        assert set(re.findall("[a-z]+", sentence_to_repeat(Random(k)).lower())) <= known


def test_only_what_is_visible_is_judged() -> None:
    qa = QA("shape_color", "What color is the star?", "The star is red.", "red")
    assert right(qa, "☞What color is the star?\nThe star is red.")
    assert not right(qa, "☞<think>What color is the star?\na red star</think>The star is blue.")
    assert reply("☞<think>a\nb</think>Yes.") == "Yes." and reply("☟") == "☟"
    assert word_errors("what color is the star", "what colour is a the star") == 2


def test_a_held_out_speaker_is_heard_as_before() -> None:
    try:
        one, again = (say("Where is the star?", "heldout", Random(3)).samples for _ in range(2))
    except MissingSpeechEngine as error:
        pytest.skip(f"SKIPPED LOUDLY: {error}")
    assert abs(len(one) - len(again)) < RATE // 50

"""Sounds of the recipe: held-out speakers stay held out, rows are the engine's prompts, and hearing can be learned."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from recipes.model import LETTERS
from recipes.pack import ROWS_PER_TILE, Packer
from recipes.speech.espeak import MissingSpeechEngine, espeak
from recipes.speech.room import RATE, add_noise, reverberate
from recipes.speech.rows import Said, SpeechPacker, bank_of, build_speech_batch, spell
from recipes.speech.sample import Utterance, render_utterance
from recipes.speech.texts import question, sentence_to_repeat, spoken
from recipes.speech.voices import TIMBRES, held_out_timbre, pick_voice
from recipes.tokenizer import build_tokenizer

from vita.config import AudioConfig
from vita.encoders.audio import AudioEncoder
from vita.fusion import AUDIO_SLOT, IMAGE_SLOT
from vita.media.filterbank import token_count
from vita.prompt.template import Slots, Turn, render
from vita.prompt.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def packer(tmp_path_factory: pytest.TempPathFactory) -> SpeechPacker:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(folder)
    return SpeechPacker(Packer(Tokenizer.load(folder)))


@pytest.fixture(scope="module")
def engine_of_speech() -> None:
    try:
        espeak()
    except MissingSpeechEngine as error:
        pytest.skip(f"SKIPPED LOUDLY: {error}")


def test_no_speaker_is_on_both_sides() -> None:
    held = {t for t in TIMBRES if held_out_timbre(t)}
    assert 8 < len(held) < len(TIMBRES) // 2
    for split in ("train", "heldout"):
        used = {pick_voice(Random(k), split).name.partition("+")[2] for k in range(300)}  # type: ignore[arg-type]
        assert all((name in held) == (split == "heldout") for name in used)


def test_a_row_is_the_engines_prompt(packer: SpeechPacker) -> None:
    tokenizer = packer.packer.tokenizer
    silence = Utterance(np.zeros(100, np.float32), "", "repeat")
    for typed in ("", "What did I say?"):
        for tiles in (0, 1, 5):
            picture = np.zeros((2, 2, 3), np.uint8) if tiles else None
            row = packer.row(Said(silence, typed, "☞Yes.", picture), 7, tiles)
            pieces: list[str | Slots] = [Slots("image", tiles)] if tiles else []
            pieces += [typed] if typed else []
            wanted = render([Turn("user", (*pieces, Slots("audio")))], tokenizer)
            wide = [
                i
                for token in wanted
                for i in [token] * (ROWS_PER_TILE if token == IMAGE_SLOT else 7 if token == AUDIO_SLOT else 1)
            ]
            answer = [*tokenizer.encode("☞Yes."), tokenizer.im_end]
            assert row.ids.tolist() == wide + answer
            assert (row.taught > 0).tolist() == [False] * len(wide) + [True] * len(answer)
            assert row.position.tolist() == list(range(len(row.ids)))


def test_questions_that_quote_an_invented_word_are_not_spoken() -> None:
    asked = [question(Random(k), "train") for k in range(300)]
    assert not any("'" in q for q in asked) and len(set(asked)) > 150
    assert {c for q in asked for c in q.lower()} - set(LETTERS) <= set(".,?!-:")


def test_spelling_is_of_what_can_be_heard() -> None:
    assert "".join(LETTERS[k - 1] for k in spell("What's the red-one, VITA?")) == "what's the redone vita"


def test_a_room_keeps_the_sound_and_noise_keeps_its_ratio() -> None:
    dice = np.random.default_rng(0)
    click = np.zeros(4000, np.float32)
    click[100] = 1
    wet = reverberate(click, dice)
    assert wet.argmax() == 100 and np.abs(wet[101:]).sum() > 0
    sound = np.sin(np.arange(16000) * 0.1).astype(np.float32)
    noisy = add_noise(sound, dice.standard_normal(16000).astype(np.float32), 10)
    ratio = 10 * np.log10((sound**2).mean() / ((noisy - sound) ** 2).mean())
    assert abs(ratio - 10) < 0.1


@pytest.mark.usefixtures("engine_of_speech")
class TestSounds:
    def test_every_kind_is_a_usable_sound(self) -> None:
        made = [render_utterance(k, "train", 3) for k in range(60)]
        assert len(Counter(u.kind for u in made)) >= 4
        for u in made:
            assert u.samples.dtype == np.float32 and 0.01 < np.abs(u.samples).max() < 1
            assert len(bank_of(u.samples)) >= 7 and bool(u.text) == (u.kind in ("repeat", "others"))

    def test_the_same_number_says_the_same(self) -> None:
        first, again = render_utterance(5, "heldout", 1), render_utterance(5, "heldout", 1)
        assert (first.text, first.kind) == (again.text, again.kind)
        assert abs(len(first.samples) - len(again.samples)) < 100  # the synthesiser rounds its pauses

    @pytest.mark.parametrize("answers", [False, True])
    def test_batches_fit_together(self, packer: SpeechPacker, answers: bool) -> None:
        batch = build_speech_batch(packer, 0, 12, 1, answers)
        assert len(batch.letters) == batch.spelled.sum() and len(batch.banks) == len(batch.frames) <= 12
        assert bool(batch.rows) == answers
        if batch.rows:
            slots = [int(n) for rows in batch.rows for n in (rows.ids == AUDIO_SLOT).sum(1)]
            lengths = [rows.ids.shape[1] for rows in batch.rows]
            assert lengths == sorted(lengths), "short rows are not padded to long ones"
            assert [n for n in slots if n] == [token_count(int(n)) for n in batch.frames]
            seen = sum(int((rows.ids == IMAGE_SLOT).sum()) for rows in batch.rows)
            assert seen == ROWS_PER_TILE * len(batch.shown)
            assert batch.shown.unique().tolist() == list(range(len(batch.tiles)))

    def test_an_encoder_learns_to_write_down_a_few_words(self) -> None:
        """Eight short sentences of one voice each, forty steps: the loss per letter falls to a fraction."""
        torch.manual_seed(0)
        rng = Random(1)
        texts = [sentence_to_repeat(rng) for _ in range(8)]
        sounds = [espeak().speak(t, pick_voice(rng, "train")).astype(np.float32) / 32768 for t in texts]
        banks = [bank_of(s[:: max(1, espeak().rate // RATE)]) for s in sounds]
        encoder = AudioEncoder(AudioConfig(dim=64, num_heads=4, linear_units=128, num_layers=2, dynamic_chunks=False))
        head = torch.nn.Linear(64, len(LETTERS) + 1)
        for p in encoder.parameters():
            if p.dim() > 1:
                torch.nn.init.xavier_uniform_(p)
        padded = torch.nn.utils.rnn.pad_sequence(banks, batch_first=True) / 5 - 2
        frames = torch.tensor([len(b) for b in banks])
        letters = [torch.tensor(spell(t)) for t in texts]
        optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=2e-3)
        seen = []
        for _ in range(40):
            encoded, mask = encoder(padded, frames)
            logs = head(encoded).log_softmax(-1).transpose(0, 1)
            loss = torch.nn.functional.ctc_loss(
                logs, torch.cat(letters), mask.sum(1), torch.tensor([len(x) for x in letters]), zero_infinity=True
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*encoder.parameters(), *head.parameters()], 1.0)
            optimizer.step()
            seen.append(loss.item())
        assert seen[-1] < 0.6 * seen[0], seen


def test_questions_about_quoted_words_are_typed_only() -> None:
    from recipes.data import QA

    assert spoken(QA("What color is the circle?", "", "", ""))
    assert not spoken(QA("Does it say 'Bliup'?", "", "", "")) and not spoken(QA("What is 3 + 4?", "", "", ""))


def test_the_statistics_file_is_where_the_engine_looks(tmp_path: Path) -> None:
    from recipes.speech.rows import statistics

    mean, istd = statistics([torch.full((5, 80), 3.0), torch.full((5, 80), 5.0)])
    torch.testing.assert_close(mean, torch.full((80,), 4.0))
    assert (istd > 0.9).all() and (istd < 1.0).all()

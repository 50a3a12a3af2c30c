"""Sounds of the recipe: held-out speakers stay held out, rows are the engine's prompts, and hearing can be learned."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import get_args

import numpy as np
import pytest
import torch
from recipes.nano.data.pieces import heard_words
from recipes.nano.model import AROUND, LETTERS, Learner, sizes
from recipes.nano.pack import ROWS_PER_TILE, Packer
from recipes.nano.speech.espeak import Espeak, MissingSpeechEngine, espeak
from recipes.nano.speech.losses import heard_sounds, in_rows, losses, numbers, word_errors_of
from recipes.nano.speech.rehearsal import Rehearsal
from recipes.nano.speech.room import add_noise, reverberate
from recipes.nano.speech.rows import (
    NO_ANSWER,
    Earlier,
    Mix,
    Said,
    SpeechPacker,
    bank_of,
    build_speech_batch,
    spell,
    statistics,
    worded,
)
from recipes.nano.speech.sample import Utterance, render_utterance
from recipes.nano.speech.texts import question, spoken
from recipes.nano.speech.train import Options, Run
from recipes.nano.speech.voices import TIMBRES, held_out_timbre, pick_voice
from recipes.nano.tokenizer import build_tokenizer
from tests.prompt.spans import media

from vita.media.filterbank import token_count
from vita.model.audio import position_table
from vita.prompt.template import AUDIO_PLACEHOLDER, IMAGE_PLACEHOLDER, Media, Turn, placeholder_ids, render
from vita.prompt.tokenizer import Tokenizer
from vita.train.optimizer import update


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
            row = packer.row(Said(silence, typed, "☞Yes.", picture), [7], tiles)
            pieces: list[str | Media] = [media("image", tiles)] if tiles else []
            pieces += [typed] if typed else []
            wanted = placeholder_ids(render([Turn("user", (*pieces, media("audio")))], tokenizer))
            wide = [
                i
                for token in wanted
                for i in [token]
                * (ROWS_PER_TILE if token == IMAGE_PLACEHOLDER else 7 if token == AUDIO_PLACEHOLDER else 1)
            ]
            answer = [*tokenizer.encode("☞Yes."), tokenizer.im_end]
            assert row.ids.tolist() == wide + answer
            assert (row.taught > 0).tolist() == [False] * len(wide) + [True] * len(answer)
            assert row.position.tolist() == list(range(len(row.ids)))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("tiles", [0, 1, 5])
def test_a_row_with_earlier_turns_is_the_engines_prompt(packer: SpeechPacker, tiles: int, late: bool) -> None:
    tokenizer = packer.packer.tokenizer
    silence = Utterance(np.zeros(100, np.float32), "", "question")
    picture = np.zeros((2, 2, 3), np.uint8) if tiles else None
    before = (
        Earlier("Who are you?", "I am VITA.", None),
        Earlier("Is it red?", "I see a red ring (1): yes, it is.", silence),
        Earlier("And you?", "Me too.", None),
    )
    said = Said(silence, "", NO_ANSWER, picture, before=before, late=late)
    row = packer.row(said, [7, 5], tiles)
    shown = [media("image", tiles)] if tiles else []
    turns = [
        Turn("user", (*([] if late else shown), "Who are you?")), Turn("assistant", ("☜I am VITA.",)),
        Turn("user", (media("audio"),)), Turn("assistant", ("☞Yes, it is.",)),
        Turn("user", ("And you?",)), Turn("assistant", ("☜Me too.",)),
        Turn("user", (*(shown if late else []), media("audio"))),
    ]  # fmt: skip
    wide, lengths = list[int](), iter((7, 5))
    for token in placeholder_ids(render(turns, tokenizer)):
        count = ROWS_PER_TILE if token == IMAGE_PLACEHOLDER else next(lengths) if token == AUDIO_PLACEHOLDER else 1
        wide += [token] * count
    answer = [*tokenizer.encode(NO_ANSWER), tokenizer.im_end]
    assert row.ids.tolist() == wide + answer
    assert (row.taught > 0).tolist() == [False] * len(wide) + [True] * len(answer)
    assert len(said.sounds) == 2


def test_questions_that_quote_an_invented_word_are_not_spoken() -> None:
    asked = [question(Random(k), "train") for k in range(300)]
    assert not any("'" in q for q in asked) and len(set(asked)) > 150
    assert {c for q in asked for c in q.lower()} - set(LETTERS) <= set(".,?!-:")


def test_spelling_is_of_what_can_be_heard() -> None:
    assert "".join(LETTERS[k - 1] for k in spell("What's the red-one, VITA?")) == "what's the redone vita"


def test_words_are_labels_of_their_own_and_strangers_share_one() -> None:
    labels = worded("What's the RED ring, Zorblax?")
    book = heard_words()
    assert [book[k - 1] for k in labels[1:4]] == ["the", "red", "ring"]
    assert labels[0] == labels[4] == len(book) + 1, "a word that is in no book"


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


def test_words_are_numbered_where_they_are_written_down() -> None:
    said = torch.tensor([[0, 5, 5, 0, 5, 7, 0, 0], [9, 0, 3, 3, 0, 0, 0, 4], [0, 0, 0, 0, 0, 0, 0, 0]])
    logits, mask = torch.nn.functional.one_hot(said, 12).float(), torch.ones(3, 8, dtype=torch.bool)
    mask[1, 7] = False  # what stands in the padding is not written
    target = numbers(logits.argmax(-1), mask, torch.tensor([5, 5, 7, 9, 3]), torch.tensor([3, 2, 0]))
    assert target.tolist() == [[0, 1, 1, 0, 2, 3, 0, 0], [1, 0, 2, 2, 0, 0, 0, 0], [0] * 8]
    wrong = numbers(logits.argmax(-1), mask, torch.tensor([5, 7, 7, 9, 4]), torch.tensor([3, 2, 0]))
    assert not wrong.any(), "a sentence that is misheard teaches no numbers"


@pytest.mark.usefixtures("engine_of_speech")
class TestSounds:
    def test_every_kind_is_a_usable_sound(self) -> None:
        made = [render_utterance(k, "train", 3) for k in range(60)]
        assert len(Counter(u.kind for u in made)) >= 4
        for u in made:
            assert u.samples.dtype == np.float32 and 0.01 < np.abs(u.samples).max() < 1
            assert len(bank_of(u.samples)) >= 7 and bool(u.text) == (u.kind in ("repeat", "others", "backchannel"))

    def test_the_same_number_says_the_same(self) -> None:
        first, again = render_utterance(5, "heldout", 1), render_utterance(5, "heldout", 1)
        assert (first.text, first.kind) == (again.text, again.kind)
        assert abs(len(first.samples) - len(again.samples)) < 100  # the synthesiser rounds its pauses

    @pytest.mark.parametrize("mix", get_args(Mix))
    def test_batches_fit_together(self, packer: SpeechPacker, mix: Mix) -> None:
        batch = build_speech_batch(packer, 0, 12, 1, mix)
        assert bool(batch.rows) == (mix != "hearing")
        assert bool(batch.pictures) == bool(len(batch.tiles)) == (mix == "everything")
        for sounds in batch.sounds:
            assert len(sounds.letters) == sounds.spelled.sum() and len(sounds.words) == sounds.worded.sum()
            assert sounds.banks.shape[:2] == (len(sounds.frames), sounds.frames.max())
        frames = torch.cat([sounds.frames for sounds in batch.sounds])
        assert len(frames) == len(batch.place) <= 48 and frames.tolist() == sorted(frames.tolist())
        if batch.rows:
            slots = [int(n) for rows in batch.rows for n in (rows.ids == AUDIO_PLACEHOLDER).sum(1)]
            lengths = [rows.ids.shape[1] for rows in batch.rows]
            assert lengths == sorted(lengths), "short rows are not padded to long ones"
            # Some rows hold the sounds of earlier turns as well.
            ends = {0, *accumulate(token_count(int(frames[k])) for k in batch.place)}
            assert set(accumulate(slots)) <= ends and sum(slots) == max(ends) and len(slots) == 12
            seen = sum(int((rows.ids == IMAGE_PLACEHOLDER).sum()) for rows in batch.rows)
            assert seen == ROWS_PER_TILE * len(batch.shown)
            assert batch.shown.unique().tolist() == list(range(len(batch.tiles)))

    @pytest.fixture
    def learner(self, packer: SpeechPacker) -> Learner:
        torch.manual_seed(0)
        model = Learner(sizes("tiny-hearing", packer.packer.tokenizer.size))
        banks = [bank_of(render_utterance(k, "train", 1).samples) for k in range(8)]
        model.audio.cmvn_mean.data, model.audio.cmvn_istd.data = statistics(banks)
        return model

    @pytest.mark.slow
    def test_the_ears_learn_to_write_down_a_few_sentences(self, packer: SpeechPacker, learner: Learner) -> None:
        """Six sounds again and again, by the trainer's own steps: most of their words are written down."""
        batch = build_speech_batch(packer, 0, 6, 1, "hearing")
        optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=0.0)
        for _ in range(160):
            loss, measured = losses(learner, batch)
            update(learner.parameters(), optimizer, loss, 3e-3)
        assert word_errors_of(learner, batch) < 0.4, measured

    def test_the_learner_hears_as_the_engine_does(self, packer: SpeechPacker, learner: Learner) -> None:
        for sounds in build_speech_batch(packer, 0, 10, 1, "hearing").sounds:
            heard = learner.hear(sounds.banks, sounds.frames)
            encoded, mask = learner.audio(sounds.banks, sounds.frames)
            torch.testing.assert_close(heard.encoded, encoded)
            assert torch.equal(heard.mask, mask)

    @pytest.mark.slow
    def test_a_run_teaches_everything_and_goes_on_where_it_stopped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # eSpeak NG never speaks a text twice to the bit: it keeps the phase of its waves.
        monkeypatch.setattr(Espeak, "speak", cache(Espeak.speak))

        def run(folder: str, steps: int, resume: bool = False, freeze: tuple[str, ...] = ()) -> Run:
            options = Options(tmp_path / folder, 60.0, batch=3, worker=False, steps=steps, resume=resume, warm_up=1)
            return Run(replace(options, hearing_until=0.0, freeze=freeze))

        whole = run("whole", 2)
        before = {name: p.clone() for name, p in whole.model.named_parameters()}
        whole.train()
        changed = {n.partition(".")[0] for n, p in whole.model.named_parameters() if not torch.equal(p, before[n])}
        assert changed - {"places"} == {"vision", "projector", "dense", "decoder", "audio", "adapter", "ctc", "words"}
        run("parts", 1).train()
        rest = run("parts", 2, resume=True)
        assert (rest.progress.step, rest.progress.index, rest.progress.phase) == (1, 3, 1)
        rest.train()
        there = dict(rest.model.named_parameters())
        apart = sum(float((there[n] - p).detach().square().sum()) for n, p in whole.model.named_parameters())
        moved = sum(float((before[n] - p).detach().square().sum()) for n, p in whole.model.named_parameters())
        assert apart < 1e-6 * moved
        frozen = run("frozen", 1, freeze=("vision.", "audio.subsample."))
        frozen.train()
        kept = {n for n, p in frozen.model.named_parameters() if torch.equal(p, before[n])}
        assert {n for n in before if n.startswith(("vision.", "audio.subsample."))} <= kept
        assert not {n for n in kept if n.startswith(("decoder.layers.", "audio.layers."))}

    def test_answers_teach_ears_and_decoder_but_not_the_eyes(self, packer: SpeechPacker, learner: Learner) -> None:
        batch = build_speech_batch(packer, 0, 12, 1, "everything")
        assert len(batch.tiles) and len(batch.sounds) > 1
        loss, measured = losses(learner, batch)
        loss.backward()
        assert {"letters", "words", "answer"} <= measured.keys()
        taught = {name.partition(".")[0] for name, p in learner.named_parameters() if p.grad is not None}
        assert taught - {"places"} == {"audio", "adapter", "ctc", "words", "decoder"}

    def test_what_was_heard_once_is_rehearsed_by_the_decoder_alone(
        self, packer: SpeechPacker, learner: Learner
    ) -> None:
        """The answers to a few recorded sounds are learnt, though nobody hears them again."""
        rehearsal = Rehearsal()
        with torch.no_grad():
            for first in (0, 6):
                batch = build_speech_batch(packer, first, 6, 1, "alone")
                rehearsal.remember(batch.rows, in_rows(learner, batch, heard_sounds(learner, batch)))
        fixed = {n: p.clone() for n, p in learner.named_parameters() if not n.startswith("decoder.")}
        optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=0.0, weight_decay=0.0)
        first_loss, _ = rehearsal.losses(learner, Random(0))
        for step in range(60):
            loss, measured = rehearsal.losses(learner, Random(step))
            update(learner.parameters(), optimizer, loss, 3e-3)
        assert loss < 0.3 * first_loss and measured["rehearsed token"] > 0.7
        assert all(torch.equal(p, fixed[n]) for n, p in learner.named_parameters() if n in fixed)


def test_frames_look_at_their_neighbours_from_the_start() -> None:
    """First weights of the ears: each head of the first blocks looks most at the frame of its distance."""
    torch.manual_seed(0)
    ears = Learner(sizes("hearing", 900)).audio
    config = ears.config
    table = position_table(60, config.dim, torch.device("cpu"))
    x = ears.add_positions(ears.embed(torch.randn(1, 60, config.dim)), table)
    for block, offsets in zip(ears.layers, AROUND, strict=False):
        q = block.attn.q(block.norm1(x)).view(60, config.num_heads, -1)
        p = block.attn.pos(table).view(60, config.num_heads, -1)
        for head, offset in enumerate(offsets):
            looked = (q[:, head] @ p[:, head].T)[10:50].argmax(-1) - torch.arange(10, 50)
            assert (looked == offset).float().mean() > 0.9, (offset, looked)


def test_questions_about_quoted_words_are_typed_only() -> None:
    from recipes.nano.data import QA

    assert spoken(QA("What color is the circle?", "", "", ""))
    assert not spoken(QA("Does it say 'Bliup'?", "", "", "")) and not spoken(QA("What is 3 + 4?", "", "", ""))


def test_the_statistics_file_is_where_the_engine_looks(tmp_path: Path) -> None:
    mean, istd = statistics([torch.full((5, 80), 3.0), torch.full((5, 80), 5.0)])
    torch.testing.assert_close(mean, torch.full((80,), 4.0))
    assert (istd > 0.9).all() and (istd < 1.0).all()

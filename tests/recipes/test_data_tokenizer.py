"""The embedded model's tokenizer: every text comes back, quoted words are spelled, system texts are short."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes.nano.data.phrases import ANSWERS
from recipes.nano.data.pieces import whole_pieces
from recipes.nano.tokenizer import SPECIALS, STATE_TOKENS, THINK_TOKENS, build_tokenizer
from tokenizers import Tokenizer

PROMPTS = Path(__file__).parents[1] / "goldens" / "mini" / "system_prompts.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(out)
    return out


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def back(tokenizer: Tokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False)


@pytest.mark.parametrize("examples", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_every_text_comes_back(tokenizer: Tokenizer, examples: int) -> None:
    import unicodedata

    @settings(max_examples=examples, deadline=None)
    @given(st.text(max_size=60))
    def law(text: str) -> None:
        text = text.encode("utf-8", "ignore").decode()
        assert back(tokenizer, text) == unicodedata.normalize("NFC", text)

    law()


@pytest.mark.parametrize("examples", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_quoted_words_are_spelled(tokenizer: Tokenizer, examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(st.from_regex(r"[A-Za-z0-9]{1,12}", fullmatch=True))
    def law(word: str) -> None:
        encoded = tokenizer.encode(f"It says '{word}'.")
        assert back(tokenizer, f"It says '{word}'.") == f"It says '{word}'."
        if not set(re.findall("[A-Za-z]+", word)) & set(whole_pieces()):
            assert encoded.tokens == ["It", "Ġsays", "Ġ'", *word, "'."]

    law()


@pytest.mark.parametrize("word", ["VITA", "star", "tail", "red", "Red", "seven", "re", "ll", "dog's"])
def test_words_that_look_like_contractions_come_back(tokenizer: Tokenizer, word: str) -> None:
    for text in (f"It says '{word}'.", f"'{word}'", f"the words 'Blue {word}' in", f"☜'{word}' and '{word}'"):
        assert back(tokenizer, text) == text
    assert tokenizer.encode(f"says '{word}'.").tokens[-len(word) - 1 : -1] == list(word)


def test_system_texts_cost_a_few_ids(tokenizer: Tokenizer) -> None:
    for text in json.loads(PROMPTS.read_text(encoding="utf-8"))["system_prompts"].values():
        whole = f"<|im_start|>system\n{text}<|im_end|>\n"
        ids = tokenizer.encode(whole).ids
        assert len(ids) <= 7
        assert tokenizer.decode(ids, skip_special_tokens=False) == whole


def test_words_of_answers_are_single_tokens(tokenizer: Tokenizer) -> None:
    import re

    for template in ANSWERS.values():
        text = re.sub(r"\{\w+\}", "7", template)
        words = len(re.findall(r"[A-Za-z]+", text))
        letters = [t for t in tokenizer.encode(text).tokens if t.lstrip("Ġ").isalpha()]
        assert len(letters) == words, template


def test_files_agree(folder: Path, tokenizer: Tokenizer) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    for key, token in config["added_tokens_decoder"].items():
        assert tokenizer.token_to_id(token["content"]) == int(key)
        assert token["special"] == (token["content"] in (*SPECIALS, *THINK_TOKENS))
    assert config["eos_token"] == "<|im_end|>" and config["bos_token"] is None
    assert 700 <= tokenizer.get_vocab_size() <= 1500
    assert sorted(tokenizer.get_vocab().values()) == list(range(tokenizer.get_vocab_size()))
    assert all(len(tokenizer.encode(mark).ids) == 1 for mark in STATE_TOKENS)


def test_the_engine_reads_it(folder: Path) -> None:
    from vita.prompt.tokenizer import Tokenizer as EngineTokenizer

    loaded = EngineTokenizer.load(folder)
    assert set(loaded.special.values()) == {*SPECIALS, *THINK_TOKENS}

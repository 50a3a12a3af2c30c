"""Any text gives audio or a clear refusal, never another exception, hang or NaN."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.speech.tone import ToneVoice

import vita
from vita.speech.stream import SpeechStream
from vita.speech.voice import Voice

PIECES = st.sampled_from(
    ["😀", "👨‍👩‍👧", "🏳️‍🌈", "\x00", "\x1b[31m", "\u202e", "\u200b", "\ud800", "\ufffe", "你好", "مرحبا", "שלום",
     "Привет", "नमस्ते",
     "こんにちは", "สวัสดี", "12,345.67", "$9.99", "1/0", "99:99", "2024-13-45", "31/12/9999", "1e999",
     "9" * 40, "٣٤٥", "½", "Ⅷ", "№",
     "```", "`", "**", "$x^{", "\\frac{", "](", "<b", "&#x0;", "[[", "]]",
     "<speak>", "| a |", "http://", "a@b", "…", "。", "\n\n", " ",
     "word", "e" + "\u0301" * 30, "\t", "#", "...", "-" * 50]
)  # fmt: skip
LONG = st.sampled_from(["a", "9", "。", ".", "字", "word ", "😀", "\u0301", "$1,", "`", "é"]).map(
    lambda unit: (unit * 10_000)[:10_000]
)
TEXTS = st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=30).map("".join))


def check(voice: Voice, text: str) -> None:
    stream = SpeechStream(lambda language: voice, strict=True)
    half = len(text) // 2
    stream.feed(text[:half])
    stream.feed(text[half:])
    stream.finish()
    try:
        chunks = list(stream)
    except vita.RequestError as error:
        assert "nothing to say" in str(error) or "does not speak the language" in str(error)
        return
    samples = np.concatenate([chunk.samples for chunk in chunks])
    assert len(samples) and np.isfinite(samples).all() and np.abs(samples).max() <= 1
    assert all(0 <= chunk.text_start <= chunk.text_end <= len(text) for chunk in chunks)


@given(text=TEXTS)
@example(text="")
def test_any_text_is_split_and_normalised(text: str) -> None:
    check(ToneVoice(), text)


@settings(max_examples=12)
@given(text=LONG)
@pytest.mark.slow
def test_ten_thousand_characters(text: str) -> None:
    check(ToneVoice(), text)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_any_text_with_espeak(espeak: Voice, text: str) -> None:
    check(espeak, text)


@pytest.mark.slow
@settings(max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.one_of(*[TEXTS] * 30, LONG))
def test_a_thousand_texts_with_espeak(espeak: Voice, text: str) -> None:
    check(espeak, text)


@settings(max_examples=8)
@given(text=st.lists(PIECES, max_size=5).map("".join))
def test_any_text_with_piper(piper: Voice, text: str) -> None:
    check(piper, text)

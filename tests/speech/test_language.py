"""Tags of languages, the language of a clause, and foreign scripts in Latin letters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vita.speech.language import find_tag, in_latin_letters, language_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Hello 123", "en"),
        ("你好，VITA", "zh"),
        ("これは本です", "ja"),
        ("Привет", "ru"),
        ("123", "en"),
        ("안녕", "ko"),
        ("", "en"),
        ("请打开 Settings，然后点击 Privacy and Security。", "zh"),
        ("请运行 pip install transformers accelerate 命令", "zh"),
        ("请安装 transformers accelerate", "zh"),
        ("설정에서 Privacy and Security 항목을 누르세요", "ko"),
        ("The word 你好 means hello.", "en"),
        ("人工智能 means artificial intelligence.", "en"),
        ("The words 你好 and 再见 mean hello and goodbye.", "en"),
        ("Good morning, 早上好!", "en"),
        ("Откройте Settings", "ru"),
    ],
)
def test_language_by_script(text: str, language: str) -> None:
    assert language_of(text) == language
    assert language_of("Guten Tag", "de") == "de"


@pytest.mark.parametrize(
    ("text", "default", "language"),
    [
        ("Привіт", "uk", "uk"),
        ("日本", "ja", "ja"),
        ("你好", "zh-TW", "zh-TW"),
        ("Привет", "de", "ru"),
        ("سلام", "fa", "fa"),
    ],
)
def test_a_script_of_several_languages_is_that_of_the_default(text: str, default: str, language: str) -> None:
    assert language_of(text, default) == language


@pytest.mark.parametrize(
    ("wanted", "offered", "found"),
    [
        ("en", ("en", "zh"), "en"),
        ("fr-FR", ("en", "fr"), "fr"),
        ("DE", ("de",), "de"),
        ("en_US", ("en",), "en"),
        ("en_US.UTF-8", ("en",), "en"),
        ("en-GB", ("en", "en-GB", "en-US"), "en-GB"),
        ("EN-gb", ("en", "en-gb"), "en-gb"),
        ("pt-BR-x-abc", ("pt", "pt-BR"), "pt-BR"),
        ("zh", ("zh-CN", "zh-TW"), "zh-CN"),
        ("zh-Hans-CN", ("en", "zh"), "zh"),
        ("cmn", ("zh",), "zh"),
        ("no", ("nb",), "nb"),
        ("xx", ("en", "zh"), None),
        ("eng", ("en",), None),
        ("", ("en",), None),
    ],
)
def test_a_language_is_looked_up_as_bcp_47_says(wanted: str, offered: tuple[str, ...], found: str | None) -> None:
    assert find_tag(wanted, offered) == found


@pytest.mark.parametrize(
    ("text", "language", "latin"),
    [
        ("Say Привет to her.", "en", "Say Privet to her."),
        ("你好, Αθήνα!", "en", "nihao, Athina!"),
        ("Antonín Dvořák's café", "en", "Antonín Dvorák's café"),
        ("Việt Nam", "en-GB", "Viet Nam"),
        ("Москва und Łódź", "de", "Moskva und Łódź"),
        ("Привет, world", "ru", "Привет, world"),
        ("日本 and VITA", "ja", "日本 and VITA"),
        ("नमस्ते", "fr", "nmste"),
        ("plain", "en", "plain"),
    ],
)
def test_foreign_letters_become_latin_ones_for_voices_that_would_spell_them(
    text: str, language: str, latin: str
) -> None:
    assert in_latin_letters(text, language) == latin


@given(text=st.text(max_size=100), language=st.sampled_from(["en", "de", "zh"]))
def test_any_text_keeps_its_latin_letters(text: str, language: str) -> None:
    changed = in_latin_letters(text, language)
    if text.isascii() or language == "zh":
        assert changed == text
    assert in_latin_letters(changed, language) == changed

"""Streamed text is the whole text, for any split into tokens: nothing is cut, and no character waits for the next."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Backend

from vita.prompt.detokenizer import Detokenizer
from vita.prompt.tokenizer import Tokenizer

FOLDER = Path("made in memory")
TOKENIZER = Tokenizer.load(Path(__file__).parents[1] / "goldens" / "mini" / "mini_ckpt")
STATES = "☜☞☟"


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (spec section 2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable} | {byte: chr(256 + k) for k, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


ALPHABET = byte_alphabet()


def byte_level(pieces: list[bytes], added: tuple[str, ...] = ()) -> tuple[Tokenizer, list[int]]:
    """A tokenizer whose vocabulary is these pieces, and their ids in order."""
    names = ["".join(ALPHABET[byte] for byte in piece) for piece in pieces]
    vocabulary = {name: k for k, name in enumerate(dict.fromkeys(names))}
    backend = Backend(models.BPE(vocabulary, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken(name, normalized=False) for name in added])
    return Tokenizer(backend, FOLDER), [vocabulary[name] for name in names]


def speak(tokenizer: Tokenizer, ids: list[int], *stop: str) -> tuple[list[str], Detokenizer]:
    detokenizer = Detokenizer(tokenizer, stop)
    pieces = [detokenizer.push(token) for token in ids]
    return [*pieces, detokenizer.flush()], detokenizer


def cut(data: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted({place % len(data) for place in places} - {0}), len(data)]
    return [data[a:b] for a, b in pairwise(borders)]


def without_states(text: str) -> str:
    return "".join(c for c in text if c not in STATES)


def first_stop(text: str, stops: list[str]) -> int | None:
    """Where the answer ends if it is read character by character."""
    for end in range(1, len(text) + 1):
        ended = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if ended:
            return min(ended)
    return None


BYTES = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.text("a é日😀\n ☞", min_size=1, max_size=20).map(str.encode),
    st.lists(st.sampled_from([b"\xff", b"\xf0\x9f", b"\xe6\x97", "日".encode(), b" ", b"a"]), min_size=1).map(b"".join),
)
CUTS = st.lists(st.integers(0, 99), max_size=30)


@settings(max_examples=300, deadline=None)
@given(BYTES, CUTS)
def test_streamed_is_whole_for_any_bytes_in_any_tokens(data: bytes, places: list[int]) -> None:
    tokenizer, ids = byte_level(cut(data, places))
    pieces, _ = speak(tokenizer, ids)
    assert "".join(pieces) == without_states(data.decode("utf-8", "replace")).strip()
    assert tokenizer.decode(ids) == data.decode("utf-8", "replace")


@settings(max_examples=300, deadline=None)
@given(BYTES, CUTS, st.lists(st.text("a é日\n�", min_size=1, max_size=4), min_size=1, max_size=3))
def test_the_stop_string_that_ends_first_cuts_the_same_in_any_tokens(
    data: bytes, places: list[int], stops: list[str]
) -> None:
    tokenizer, ids = byte_level(cut(data, places))
    pieces, detokenizer = speak(tokenizer, ids, *stops)
    text = without_states(data.decode("utf-8", "replace"))
    at = first_stop(text, stops)
    assert detokenizer.stopped == (at is not None)
    assert "".join(pieces) == text[:at].strip()


@pytest.mark.parametrize("text", ["日本語文字列", "привет, мир", "a😀b😀😀", "नमस्ते"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7])
def test_a_chain_of_tokens_that_straddle_characters_is_cut_nowhere(text: str, size: int) -> None:
    data = text.encode()
    tokenizer, ids = byte_level([data[k : k + size] for k in range(0, len(data), size)])
    pieces, _ = speak(tokenizer, ids)
    assert "".join(pieces) == text and not any("�" in piece for piece in pieces)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xff\xf0\x9f\x98\x80", "�😀"),
        (b"\xf0\x9f\x98\xf0\x9f\x98\x80", "�😀"),
        (b"\xe6\x97ab", "�ab"),
        (b"\x80\x80\x80\x80\x80ok", "�����ok"),
        (b"\xe6\x97\xff\xff\xe6\x97\xa5", "���日"),
        (b"ok\xf0\x9f\x98", "ok�"),
        (b"\xed\xa0\x80!", "���!"),  # a surrogate in UTF-8
        (b"\xc0\x80!", "��!"),  # an overlong form
    ],
)
def test_invalid_bytes_become_what_pythons_decoder_makes_of_them(data: bytes, text: str) -> None:
    tokenizer, ids = byte_level([data[k : k + 1] for k in range(len(data))])
    pieces, _ = speak(tokenizer, ids)
    assert "".join(pieces) == text == data.decode("utf-8", "replace")


def test_what_precedes_an_incomplete_character_is_given_out_at_once() -> None:
    pieces = [b"Hello \xe6", b"\x97", b"\xa5\xe6", b"\x9c\xacok", b"\xff!"]
    tokenizer, ids = byte_level(pieces)
    detokenizer = Detokenizer(tokenizer)
    assert [detokenizer.push(token) for token in ids] == ["Hello", "", " 日", "本ok", "�!"]
    assert detokenizer.flush() == ""


def test_tokens_that_are_added_are_their_own_text() -> None:
    """Their characters are no bytes, even those that a byte-level vocabulary uses for bytes."""
    tokenizer, ids = byte_level([b"a", b"\xe6"], added=("é", "Ġ", "日本"))
    added = [tokenizer.token_id(name) for name in ("é", "Ġ", "日本")]
    pieces, _ = speak(tokenizer, [ids[0], *added, ids[1], added[0], ids[0]])
    assert "".join(pieces) == "aéĠ日本�éa"
    assert tokenizer.decode([ids[0], *added]) == "aéĠ日本"


@pytest.mark.parametrize("stop", ["\n\n", "\n", " ", " \n", "\n\nHe", "\n\nHello"])
def test_a_stop_string_of_white_space_works_at_the_very_start(stop: str) -> None:
    for size in (1, 2, 5):
        data = b" \n\nHello there"
        tokenizer, ids = byte_level([data[k : k + size] for k in range(0, len(data), size)])
        pieces, detokenizer = speak(tokenizer, ids, stop)
        assert detokenizer.stopped and "".join(pieces) == ""


def test_white_space_at_the_start_is_dropped_where_no_stop_string_asks_for_it() -> None:
    tokenizer, ids = byte_level([b" \n", b"\n", b"Hi ", b"\n"])
    assert "".join(speak(tokenizer, ids)[0]) == "Hi"
    assert "".join(speak(tokenizer, ids, "\n\n\n")[0]) == "Hi"


@pytest.mark.parametrize(("character", "state"), [("☜", "typed"), ("☞", "spoken"), ("☟", "noise")])
def test_the_state_is_known_with_the_first_token(character: str, state: str) -> None:
    tokenizer, ids = byte_level([character.encode(), b"Yes"])
    detokenizer = Detokenizer(tokenizer)
    assert not detokenizer.state_known
    assert detokenizer.push(ids[0]) == ""
    assert detokenizer.state_known and detokenizer.state == state
    assert detokenizer.push(ids[1]) == "Yes" and detokenizer.state == state


def test_the_state_is_known_as_soon_as_its_last_byte_is_there() -> None:
    tokenizer, ids = byte_level([bytes([b]) for b in b"\n\xe2\x98\x9eHi"])
    detokenizer = Detokenizer(tokenizer)
    known = []
    for token in ids:
        detokenizer.push(token)
        known.append(detokenizer.state_known)
    assert known == [False, False, False, True, True, True] and detokenizer.state == "spoken"


@pytest.mark.parametrize(
    ("pieces", "state", "known_after"),
    [
        ([b"Hi", "☞".encode()], None, 1),  # a word came first
        ([b" ", b"\n", b"Hi"], None, 3),  # white space decides nothing
        ([b"Hi \xe2\x98\x9e"], None, 1),  # in one token with the word before it
        (["☞☜".encode()], "spoken", 1),  # the first of two in one token
        ([b"\xff", "☞".encode()], None, 1),
        ([b" "], None, None),  # nothing but white space: known at the end
    ],
)
def test_when_the_state_is_decided(pieces: list[bytes], state: str | None, known_after: int | None) -> None:
    tokenizer, ids = byte_level(pieces)
    detokenizer = Detokenizer(tokenizer)
    known = []
    for token in ids:
        detokenizer.push(token)
        known.append(detokenizer.state_known)
    assert (known.index(True) + 1 if True in known else None) == known_after
    detokenizer.flush()
    assert detokenizer.state_known and detokenizer.state == state


def test_a_special_token_decides_nothing_and_a_stop_string_does() -> None:
    detokenizer = Detokenizer(TOKENIZER, ("\n",))
    detokenizer.push(TOKENIZER.im_start)
    assert not detokenizer.state_known
    for token in TOKENIZER.encode("\n"):
        detokenizer.push(token)
    assert detokenizer.stopped and detokenizer.state_known and detokenizer.state is None


def test_stop_strings_may_be_one_string_and_hold_surrogates() -> None:
    assert "".join(speak_with("one two three", "two")) == "one"
    assert "".join(speak_with("one � three", "\ud800")) == "one"
    assert "".join(speak_with("one 😀 three", "\ud83d\ude00")) == "one"


def speak_with(text: str, stop: str) -> list[str]:
    detokenizer = Detokenizer(TOKENIZER, stop)
    pieces = [detokenizer.push(token) for token in TOKENIZER.encode(text)]
    return [*pieces, detokenizer.flush()]


def metaspace() -> Backend:
    """A vocabulary in the way of SentencePiece: words behind a mark, and bytes as `<0x..>`."""
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁Hello", "▁world", "日", "!"]
    backend = Backend(models.BPE({name: k for k, name in enumerate(names)}, []))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def word_pieces() -> Backend:
    backend = Backend(models.WordPiece({"hello": 0, "##ing": 1, "world": 2, "日": 3}))
    backend.decoder = decoders.WordPiece()
    return backend


@pytest.mark.parametrize(
    ("backend", "names", "text"),
    [
        (metaspace, ["▁Hello", "▁world", "!", *(f"<0x{b:02X}>" for b in "é😀".encode()), "日"], "Hello world!é😀日"),
        (metaspace, [*(f"<0x{b:02X}>" for b in "日本".encode()), "▁world"], "日本 world"),
        (word_pieces, ["hello", "##ing", "world", "日"], "helloing world 日"),
    ],
)
def test_vocabularies_that_are_not_byte_level_stream_too(backend: object, names: list[str], text: str) -> None:
    made = backend()  # type: ignore[operator]
    tokenizer = Tokenizer(made, FOLDER)
    ids = [tokenizer.token_id(name) for name in names]
    assert tokenizer.decode(ids) == text
    pieces, _ = speak(tokenizer, ids)
    assert "".join(pieces) == text and not any("�" in piece for piece in pieces)


def test_bytes_of_such_a_vocabulary_do_not_wait_for_ever() -> None:
    tokenizer = Tokenizer(metaspace(), FOLDER)
    stray = tokenizer.token_id("<0xF0>")
    detokenizer = Detokenizer(tokenizer)
    assert any(detokenizer.push(stray) for _ in range(6))


def test_a_byte_level_decoder_is_known_inside_a_sequence() -> None:
    tokenizer, ids = byte_level([b"\xff", "😀".encode()])
    tokenizer.backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])
    again = Tokenizer(tokenizer.backend, FOLDER)
    assert "".join(speak(again, ids)[0]) == "�😀"


def say(ids: list[int], *stop: str) -> tuple[str, Detokenizer, list[str]]:
    detokenizer = Detokenizer(TOKENIZER, stop)
    pieces = []
    for token in ids:
        pieces.append(detokenizer.push(token))
        if detokenizer.stopped:
            break
    pieces.append(detokenizer.flush())
    return "".join(pieces), detokenizer, pieces


@given(st.text(max_size=60))
def test_pieces_joined_are_the_whole_text(text: str) -> None:
    normal = TOKENIZER.decode(TOKENIZER.encode(text))
    for mark in "☜☞☟":
        normal = normal.replace(mark, "")
    said, _, pieces = say(TOKENIZER.encode(text))
    assert said == normal.strip()
    if "�" not in text:
        assert not any("�" in piece for piece in pieces)


@given(st.text("ab ☜é你😀\n", max_size=40), st.text("ab é你", min_size=1, max_size=6))
def test_a_stop_string_cuts_exactly_where_it_begins(text: str, stop: str) -> None:
    whole = TOKENIZER.decode(TOKENIZER.encode(text)).replace("☜", "")
    said, detokenizer, _ = say(TOKENIZER.encode(text), stop)
    at = first_stop(whole, [stop])
    assert said == whole[:at].strip() and detokenizer.stopped == (at is not None)


def test_a_stop_string_works_across_token_borders() -> None:
    ids = TOKENIZER.encode("one two STOP three")
    assert len(TOKENIZER.encode("STOP")) > 1
    assert say(ids, "STOP")[0] == "one two"
    assert say(ids, "wo ST")[0] == "one t"
    assert say(ids, "STOPP")[0] == "one two STOP three"


@pytest.mark.parametrize(("mark", "state"), [("☜", "typed"), ("☞", "spoken"), ("☟", "noise")])
def test_the_first_mark_is_the_state_and_no_mark_is_text(mark: str, state: str) -> None:
    said, detokenizer, _ = say(TOKENIZER.encode(f"{mark} yes ☞ no"))
    assert (said, detokenizer.state) == ("yes  no", state)
    assert say(TOKENIZER.encode("no mark"))[1].state is None
    assert say(TOKENIZER.encode("late ☜"))[1].state is None


def test_special_tokens_never_reach_the_text() -> None:
    ids = [TOKENIZER.im_start, *TOKENIZER.encode("hi"), TOKENIZER.im_end, *TOKENIZER.encode(" you")]
    assert say(ids)[0] == "hi you"


def test_bytes_that_never_become_a_character_are_shown_as_such_and_not_held_for_ever() -> None:
    euro = TOKENIZER.encode("😀")
    assert len(euro) > 1, "the mini vocabulary spells this in bytes"
    said, _, _ = say([euro[0]] * 6 + TOKENIZER.encode(" ok"))
    assert said.endswith("ok") and "�" in said

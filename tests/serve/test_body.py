"""Bodies: hostile JSON under any content type, numbers and strings that cannot be sent back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serve.running import Running
from vita.serve.body import NonFiniteNumber, checked_json, media_type, parse_json
from vita.serve.errors import ApiError
from vita.serve.options import Limits

CHAT, RESPONSES, TRANSCRIPTIONS = "/v1/chat/completions", "/v1/responses", "/v1/audio/transcriptions"
SECRETS = "/v1/realtime/client_secrets"
JSON_TYPE = ("content-type", "application/json")
HUGE = "1" + "0" * 400
MANY = b'{"messages": [' + b"{}," * 200_001 + b"{}]}"


def post(served: Running, url: str, body: bytes | str, *headers: tuple[str, str]) -> tuple[int, str]:
    answer = served.client.post(url, content=body, headers=[*(headers or (JSON_TYPE,))])
    return answer.status_code, answer.text


def test_no_content_type_hides_json_from_its_limits(served: Running) -> None:
    disguised = ("content-type", "application/json; x=multipart/form-data")
    for headers in ((disguised,), (JSON_TYPE, ("content-type", "multipart/form-data"))):
        status, text = post(served, CHAT, MANY, *headers)
        assert status == 400 and "more than 200,000 JSON values" in text, text[:300]


def test_no_form_is_parsed_as_json(served: Running) -> None:
    disguised = ("content-type", "multipart/form-data; boundary=x; x=application/json")
    for body in (MANY, "[" * 100_000):
        status, text = post(served, TRANSCRIPTIONS, body, disguised)
        assert status == 400 and "valid JSON" not in text, text[:300]


def test_the_first_content_type_counts() -> None:
    assert media_type([(b"Content-Type", b" Application/JSON; charset=utf-8"), (b"content-type", b"x/y")]) == (
        "application/json"
    )
    assert media_type([]) == ""


@pytest.mark.parametrize(
    ("url", "body"),
    [
        (SECRETS, '{"session": {"tools": [NaN]}}'),
        (SECRETS, '{"session": {"tools": [{"x": -Infinity}]}}'),
        (SECRETS, f'{{"session": {{"audio": {{"output": {{"speed": {HUGE}}}}}}}}}'),
        (SECRETS, json.dumps({"session": {"x": "a" * 300_000}})),
        (RESPONSES, '{"model": "vita", "input": "Hi", "tools": [NaN]}'),
        (CHAT, f'{{"messages": [{{"role": "user", "content": "Hi"}}], "temperature": {HUGE}}}'),
        (TRANSCRIPTIONS, '{"type": "text", "text": "x"}'),
        (TRANSCRIPTIONS, "[" * 100_000),
        (TRANSCRIPTIONS, '{"audio": NaN}'),
    ],
)
def test_odd_json_is_refused_by_name(served: Running, url: str, body: str) -> None:
    status, text = post(served, url, body)
    assert status == 400 and "message" in json.loads(text)["error"], text[:300]


def test_half_a_character_is_sent_back_as_a_replacement(served: Running) -> None:
    body = (
        '{"model": "vita", "input": "Hi", "max_output_tokens": 1, "metadata": {"a": "x\\ud83d", "b": "\\ud83d\\ude00"}}'
    )
    status, text = post(served, RESPONSES, body)
    assert status == 200 and json.loads(text)["metadata"] == {
        "a": "x\N{REPLACEMENT CHARACTER}",
        "b": "\N{GRINNING FACE}",
    }
    settings = '{"session": {"instructions": "\\udc00"}}'
    status, text = post(served, SECRETS, settings)
    assert status == 200 and json.loads(text)["session"]["instructions"] == "\N{REPLACEMENT CHARACTER}"


def test_what_is_no_json_is_left_to_the_route() -> None:
    for body in (b"{ NaN", b'{"a": "\\ud83d"', b"\xff\xfe NaN"):
        assert checked_json(body, Limits()) == body
    with pytest.raises(ApiError, match="NaN is not a number"):
        checked_json(b"[NaN]", Limits())
    with pytest.raises(NonFiniteNumber):
        parse_json("[Infinity]")


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_ordinary_json_stays_as_it_is(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value
    body = json.dumps(value, ensure_ascii=False).encode()
    assert json.loads(checked_json(body, Limits())) == value


@given(st.text(st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF) | st.characters(max_codepoint=0x7F)))
def test_any_string_can_be_encoded(text: str) -> None:
    found = parse_json(json.dumps([text]))
    assert json.dumps(found, ensure_ascii=False).encode()

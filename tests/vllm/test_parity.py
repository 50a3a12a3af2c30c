"""vLLM's greedy ids equal this package's engine's in float32, in every modality and under every schedule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import vita
from tests.vllm.cases import LOOK, PICTURES, cases, engine_prompt
from tests.vllm.running import Answered, Step, as_openai, ask_engine, ask_vllm, data_url
from vita.checkpoint.files import DEFAULT
from vita.plugins.vllm import response_state
from vita.types import MediaOptions, Message, SamplingParams

INPUTS = Path(__file__).parents[1] / "goldens" / "mini" / "inputs"
CASES = cases(INPUTS)
BATCH = ["text", "image", "video", "audio", "image and audio", "turns", "turns with speech", "several images"]
TILES = {"max_tiles": 6}
CHUNK = 48  # positions prefilled at a time: less than an image takes


def long_conversation() -> list[Message]:
    """More turns than the context holds."""
    turns = []
    for n in range(60):
        turns += [vita.user(f"Question {n}: " + "what is this and where is it? " * 8), vita.assistant(f"Answer {n}.")]
    return [*turns, vita.user("Hello, who are you?")]


def bad_conversations() -> dict[str, tuple[list[dict], str]]:
    """Messages that cannot be answered, and what the error says."""
    png = PICTURES[0].read_bytes()

    def asked(*parts: dict) -> list[dict]:
        return [{"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]}]

    def media(kind: str, data: bytes) -> dict:
        return {"type": f"{kind}_url", f"{kind}_url": {"url": data_url(data, f"{kind}/x")}}

    return {
        "no image": (asked(media("image", b"just some text")), "is not an image"),
        "half an image": (asked(media("image", png[: len(png) // 3])), "is a damaged or truncated image"),
        "no audio": (asked(media("audio", b"just some text" * 9)), "<audio>"),
        "an image as audio": (asked(media("audio", png)), "<audio>"),
        "no video": (asked(media("video", b"just some text")), "<video>"),
        "an empty file": (asked(media("image", b"")), "is empty"),
        "no base64": (
            asked({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}),
            "is not valid base64",
        ),
        "a local file": (asked({"type": "image_url", "image_url": {"url": PICTURES[0].as_uri()}}), "local"),
        "nothing asked": ([{"role": "user", "content": " "}], "there is no question"),
        "a tool's message": ([{"role": "tool", "content": "5", "tool_call_id": "a"}], "role 'tool'"),
        "a system message at the end": (
            [{"role": "user", "content": "Hello"}, {"role": "system", "content": "Be brief."}],
            "has the role 'system'",
        ),
        "too long a question": ([{"role": "user", "content": "word " * 9000}], "context is 4096"),
    }


@dataclass(frozen=True)
class Run:
    """What one start of vLLM answered, by the names of the cases."""

    solo: dict[str, Answered]
    again: dict[str, Answered]
    batch: dict[str, Answered]
    tiles: Answered
    long: Answered
    bad: dict[str, Answered]


def conversation(name: str) -> list[dict]:
    return as_openai(CASES[name])


def run(work: Path, **options: object) -> Run:
    """All cases alone, again, eight at once; then what cannot be answered, and one case after that."""
    bad = bad_conversations()
    steps = [Step([conversation(name)]) for name in CASES] * 2
    steps += [Step([conversation(name) for name in BATCH])]
    steps += [Step([as_openai([vita.user(LOOK, image=INPUTS / "heldA.png")])], mm_processor_kwargs=TILES)]
    steps += [Step([messages]) for messages, _ in bad.values()]
    steps += [Step([as_openai(long_conversation())])]
    got = ask_vllm(DEFAULT, work, steps, **options)
    one = [answers[0] for answers in got]
    count = len(CASES)
    return Run(
        dict(zip(CASES, one[:count], strict=True)), dict(zip(CASES, one[count : 2 * count], strict=True)),
        dict(zip(BATCH, got[2 * count], strict=True)), one[2 * count + 1],
        one[-1], dict(zip(bad, one[2 * count + 2 : -1], strict=True)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> vita.Vita:
    return vita.load(dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def expected(engine: vita.Vita) -> dict[str, tuple[int, ...]]:
    return {name: ask_engine(engine, messages) for name, messages in CASES.items()}


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """vLLM's defaults: prefixes are cached, and a prompt is prefilled at once."""
    return run(tmp_path_factory.mktemp("cached"), enable_prefix_caching=True)


@pytest.fixture(scope="module")
def chunked(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """No prefix cache, and prompts prefilled in chunks that end inside of images."""
    return run(
        tmp_path_factory.mktemp("chunked"), enable_prefix_caching=False, enable_chunked_prefill=True,
        max_num_batched_tokens=CHUNK, limit_mm_per_prompt={"image": 3, "video": 1, "audio": 2},
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_prompt_is_the_engines(cached: Run, name: str) -> None:
    assert cached.solo[name].prompt == engine_prompt(str(DEFAULT), CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_ids_equal_the_engines(cached: Run, expected: dict[str, tuple[int, ...]], name: str) -> None:
    assert cached.solo[name].ids == expected[name]


@pytest.mark.parametrize("name", CASES)
def test_ids_with_cached_prefixes(cached: Run, expected: dict[str, tuple[int, ...]], name: str) -> None:
    assert cached.again[name].ids == expected[name]


def test_prefixes_are_found_in_the_cache(cached: Run) -> None:
    assert cached.again["video"].cached > 0 and cached.again["several images"].cached > 0


@pytest.mark.parametrize("name", CASES)
def test_ids_with_chunked_prefill(chunked: Run, expected: dict[str, tuple[int, ...]], name: str) -> None:
    assert chunked.solo[name].ids == expected[name]
    assert chunked.again[name].cached == 0


@pytest.mark.parametrize("name", BATCH)
def test_a_batch_of_eight_equals_solo(
    cached: Run, chunked: Run, expected: dict[str, tuple[int, ...]], name: str
) -> None:
    assert cached.batch[name].ids == expected[name]
    assert chunked.batch[name].ids == expected[name]


def test_tiles(cached: Run, engine: vita.Vita) -> None:
    asked, options = [vita.user(LOOK, image=INPUTS / "heldA.png")], MediaOptions(max_tiles=6)
    assert cached.tiles.prompt == engine_prompt(str(DEFAULT), asked, options)
    assert cached.tiles.ids == ask_engine(engine, asked, options=options)
    opened_rows = engine.engine.model.config.vision.tokens_per_tile
    assert len(cached.tiles.prompt) > 5 * opened_rows, "several tiles, not one"


def test_the_oldest_turns_are_left_out_as_the_engine_does(cached: Run, engine: vita.Vita) -> None:
    asked = long_conversation()
    assert cached.long.prompt == engine_prompt(str(DEFAULT), asked)
    assert cached.long.ids == ask_engine(engine, asked)
    assert len(cached.long.prompt) < engine.engine.model.config.context


@pytest.mark.parametrize("name", bad_conversations())
def test_what_cannot_be_answered_is_one_sentence(cached: Run, name: str) -> None:
    answered = cached.bad[name]
    assert bad_conversations()[name][1] in answered.error, answered.error
    assert "Traceback" not in answered.error and "\n" not in answered.error.strip()


def test_it_goes_on_after_errors(cached: Run) -> None:
    assert cached.long.ids, "the conversation after the bad ones"


def test_the_response_state_is_not_in_the_text(cached: Run, engine: vita.Vita) -> None:
    for name in ("text", "audio", "two clips"):
        answered = cached.solo[name]
        result = engine.submit(CASES[name], SamplingParams(max_tokens=24)).result()
        assert response_state(str(DEFAULT), answered.ids) == result.state is not None
        assert answered.text.strip() == result.text
        assert not set(answered.text) & set("☜☞☟")

"""The engine from outside: golden answers, concurrency, cancelling, limits, what the result says about itself."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vita
from vita.engine.batch import Batcher
from vita.engine.runner import EagerDecode
from vita.errors import MediaError, RequestError
from vita.events import Done, Result, TextDelta
from vita.runtime.clock import Stopwatch
from vita.runtime.device import choose_device
from vita.types import MediaOptions, SamplingParams

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 255, (60, 90, 3), np.uint8)
FRAMES = [RNG.integers(0, 255, (40, 40, 3), np.uint8) for _ in range(3)]  # the spec looks at four frames at least
SOUND = vita.Audio(RNG.normal(0, 3000, 24000).astype(np.int16), 16000)
SHORT = SamplingParams(max_tokens=8)


def collect(model: vita.Vita, message: vita.Message, params: SamplingParams = SHORT) -> Result:
    return Result.collect(model.stream(message, params))


def test_the_golden_text_case_through_the_public_surface(mini: Path, mini_model: vita.Vita) -> None:
    case = json.loads((mini / "model" / "model.json").read_text())["cases"]["text"]
    result = mini_model.ask("Hello, who are you?", params=SamplingParams(max_tokens=24))
    assert list(result.token_ids) == case["greedy_ids"]
    assert result.usage.prompt_tokens == case["fused_len"] and result.finish_reason == "length"


@pytest.mark.parametrize("case_name", ["image", "image_audio", "video", "video9", "lang_audio"])
def test_golden_media_cases_through_the_public_surface(mini: Path, mini_model: vita.Vita, case_name: str) -> None:
    data = json.loads((mini / "model" / "model.json").read_text())
    case, inputs = data["cases"][case_name], data["inputs"]
    media: dict[str, Any] = {}
    for key in case["media"]:
        if key.startswith("image"):
            media["image"] = mini / inputs[key]
        elif key.startswith("video"):
            media["video"] = [mini / name for name in inputs[key]]
        else:
            media["audio"] = mini / inputs[key]
    text = case["prompt"].split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
    question = text.replace("<image>", "").replace("<audio>", "").strip()
    params = SamplingParams(max_tokens=len(case["greedy_ids"]))
    asked = vita.user(question, **media)
    result = Result.collect(mini_model.stream(asked, params, options=MediaOptions(reference=True)))
    assert result.usage.prompt_tokens == case["fused_len"]
    assert list(result.token_ids) == case["greedy_ids"][: len(result.token_ids)]


def test_what_went_in_is_counted(mini_model: vita.Vita) -> None:
    asked = vita.user("What?", images=[PICTURE, PICTURE], video=FRAMES, audio=SOUND)
    usage = collect(mini_model, asked).usage
    pixels = mini_model.engine.prepare([asked], MediaOptions(), Stopwatch(torch.device("cpu"))).pixels
    assert pixels is not None
    tiles = len(pixels)
    tokens = mini_model.engine.config.vision.tokens_per_tile
    assert usage.pictures == 2 + 4 and usage.tiles == tiles
    assert usage.image_tokens == tiles * tokens and usage.audio_seconds == 1.5 and usage.audio_tokens == 18
    assert usage.text_tokens == usage.prompt_tokens - usage.image_tokens - usage.audio_tokens > 0


def test_a_request_chooses_its_tiles(mini_model: vita.Vita) -> None:
    wide = RNG.integers(0, 255, (100, 300, 3), np.uint8)
    used = [
        mini_model.ask(
            "What?", images=[wide], videos=[FRAMES], params=SHORT, options=MediaOptions(max_tiles=most)
        ).usage
        for most in (1, 2, 3)
    ]
    assert [usage.tiles - 4 for usage in used] == [1, 3, 4], "frames are never cut"
    with pytest.raises(RequestError, match="max_tiles: must be 1 to 12, not 0"):
        mini_model.ask("What?", params=SHORT, options=MediaOptions(max_tiles=0))


def test_timings_add_up(mini_model: vita.Vita) -> None:
    mini_model.engine.features.clear()
    result = collect(
        mini_model, vita.user("What?", image=PICTURE, audio=SOUND), SamplingParams(max_tokens=8, temperature=1, seed=5)
    )
    t = result.timings
    stages = t.media + t.preprocess + t.load + t.vision + t.audio + t.prefill + t.decode
    assert 0 < t.prefill < t.first_token < t.total and stages <= t.total
    assert t.vision > 0 and t.audio > 0 and t.decode_tokens == len(result.token_ids) - 1
    assert t.peak_memory > 50e6 and t.device == "cpu" and t.bytes_per_token > 0


def test_every_medium_changes_the_answer(mini_model: vita.Vita) -> None:
    def scores(message: vita.Message) -> tuple[float, ...]:
        params = SamplingParams(max_tokens=3, logprobs=1)
        return tuple(round(t.logprob, 5) for t in collect(mini_model, message, params).logprobs)

    messages = [
        vita.user("What?"),
        vita.user("What?", image=PICTURE),
        vita.user("What?", image=255 - PICTURE),
        vita.user("What?", video=FRAMES),
        vita.user("What?", audio=SOUND),
        vita.user(audio=SOUND),
        vita.user("What?", image=PICTURE, audio=SOUND),
        vita.user("What?", images=[PICTURE, 255 - PICTURE]),
        vita.user("What?", images=[255 - PICTURE, PICTURE]),
    ]
    assert len({scores(m) for m in messages}) == len(messages)


def test_many_threads_get_the_answers_they_would_get_alone(mini_model: vita.Vita) -> None:
    messages = [vita.user(f"Question {n}?", image=PICTURE if n % 2 else None) for n in range(8)]
    alone = [collect(mini_model, m).token_ids for m in messages]
    with ThreadPoolExecutor(8) as pool:
        together = [r.token_ids for r in pool.map(lambda m: collect(mini_model, m), messages)]
    assert together == alone


def test_cancelling_stops_between_tokens(mini_model: vita.Vita) -> None:
    stop = threading.Event()
    seen = []
    params = SamplingParams(max_tokens=500)
    done: Done | None = None
    for event in mini_model.stream(vita.user("Hello"), params, cancelled=stop.is_set):
        seen.append(event)
        stop.set()
        if isinstance(event, Done):
            done = event
    assert done is not None and done.finish_reason == "cancelled" and done.usage.completion_tokens < 60
    assert collect(mini_model, vita.user("Hello")).usage.completion_tokens == 8, "the next request is served"


def test_cancelled_before_it_began(mini_model: vita.Vita) -> None:
    result = mini_model.ask("Hello", images=[PICTURE], params=SHORT, cancelled=lambda: True)
    assert (result.finish_reason, result.text, result.token_ids) == ("cancelled", "", ())


def test_a_dropped_stream_frees_the_model(mini_model: vita.Vita) -> None:
    events = mini_model.stream(vita.user("Hello"), SamplingParams(max_tokens=100))
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert collect(mini_model, vita.user("Hello")).usage.completion_tokens == 8


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_max_tokens_is_exact(mini_model: vita.Vita, limit: int) -> None:
    result = mini_model.ask("Hello", params=SamplingParams(max_tokens=limit))
    assert result.usage.completion_tokens == len(result.token_ids) == limit and result.finish_reason == "length"


def test_stop_strings_end_the_answer(mini_model: vita.Vita) -> None:
    whole = mini_model.ask("Hello", params=SamplingParams(max_tokens=24)).text
    middle = whole[len(whole) // 2 : len(whole) // 2 + 3]
    result = mini_model.ask("Hello", params=SamplingParams(max_tokens=24, stop=(middle,)))
    assert result.text == whole[: whole.index(middle)].rstrip() and result.finish_reason == "stop"


def test_logprobs_name_the_chosen_token(mini_model: vita.Vita) -> None:
    result = mini_model.ask("Hello", params=SamplingParams(max_tokens=4, logprobs=3))
    assert [t.id for t in result.logprobs] == list(result.token_ids)
    for token in result.logprobs:
        assert len(token.top) == 3 and token.top[0][0] == token.id and token.top[0][2] == token.logprob <= 0


def test_sampling_with_a_seed_repeats(mini_model: vita.Vita) -> None:
    def ids(seed: int) -> tuple[int, ...]:
        return mini_model.ask("Hello", params=SamplingParams(max_tokens=12, temperature=1.0, seed=seed)).token_ids

    assert ids(3) == ids(3) != ids(4)


def test_pieces_are_the_text(mini_model: vita.Vita) -> None:
    events = list(mini_model.stream(vita.user("Hello"), SamplingParams(max_tokens=30)))
    text = "".join(e.text for e in events if isinstance(e, TextDelta))
    assert text == mini_model.ask("Hello", params=SamplingParams(max_tokens=30)).text
    assert isinstance(events[-1], Done) and not any(isinstance(e, Done) for e in events[:-1])


def test_errors_come_before_any_piece(mini_model: vita.Vita) -> None:
    with pytest.raises(MediaError, match=r"nothing\.png"):
        mini_model.ask("What?", images=["nothing.png"])
    with pytest.raises(RequestError, match="there is no question"):
        mini_model.ask(None)
    with pytest.raises(RequestError, match="temperature"):
        mini_model.ask("x", params=SamplingParams(temperature=-1))


def test_long_sound_is_cut_into_windows_and_joined(mini_model: vita.Vita, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = mini_model.engine
    seconds = 450  # the position table ends after 200
    sound = vita.Audio(RNG.normal(0, 2000, 16000 * seconds).astype(np.int16), 16000)
    prepared = engine.prepare([vita.user(audio=vita.Audio(sound.source[: 16000 * 20], 16000))],
                              MediaOptions(), Stopwatch(engine.device))  # fmt: skip
    assert [len(w) for w in prepared.filterbanks] == [1]
    wave = engine.prepare._windows
    from vita.media.audio import load_audio

    windows = wave(load_audio(sound, MediaOptions(), 16000), reference=False)
    assert len(windows) == 3 and sum(w.numel() for w in windows) == 16000 * seconds
    assert all(w.numel() % 1280 == 0 for w in windows[:-1]), "cut on token borders"


def test_chat_remembers_and_forgets(mini_model: vita.Vita) -> None:
    chat = mini_model.chat()
    first = Result.collect(chat.send(vita.user("Hello", image=PICTURE), SHORT))
    second = chat.ask("And?", params=SHORT)
    assert [m.role for m in chat.turns] == ["user", "assistant"] * 2
    whole = [vita.user("Hello", image=PICTURE), vita.assistant(first.text), vita.user("And?")]
    assert second.token_ids == Result.collect(mini_model.stream(whole, SHORT)).token_ids
    with pytest.raises(MediaError):
        Result.collect(chat.send(vita.user("x", image="nowhere.png"), SHORT))
    assert len(chat.turns) == 4, "a failed turn is not kept"
    chat.reset()
    assert (
        Result.collect(chat.send(vita.user("And?"), SHORT)).token_ids
        == collect(mini_model, vita.user("And?")).token_ids
    )


def test_a_full_context_says_so(mini: Path) -> None:
    model = vita.load(mini / "mini_ckpt", dtype="float32", device="cpu")
    model.engine.model.config = replace(model.engine.config, max_length=220)
    model.engine.prepare.config = model.engine.config
    result = model.ask("Hello", params=SamplingParams(max_tokens=500))
    if result.finish_reason == "length":
        assert result.usage.prompt_tokens + result.usage.completion_tokens == 220
        assert "context of 220 tokens is full" in result.notes[0]
    talk = [vita.user("Hi"), vita.assistant("Hello."), vita.user("abc " * 5)]
    assert Result.collect(model.stream(talk, SHORT)).usage.dropped_messages == 2, "old turns leave room for an answer"


def test_chat_may_be_shown_a_file_that_can_be_read_once(mini_model: vita.Vita) -> None:
    import io

    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.fromarray(PICTURE).save(file, "PNG")
    file.seek(0)
    chat = mini_model.chat()
    Result.collect(chat.send(vita.user("What?", image=file), SHORT))
    second = Result.collect(chat.send(vita.user("And?"), SHORT))
    assert second.usage.pictures == 1


class TestAsync:
    def test_answers_are_those_of_the_plain_calls(self, mini_model: vita.Vita) -> None:
        async def both() -> tuple[list[Result], str]:
            results = await asyncio.gather(*(mini_model.aask(f"Question {n}?", params=SHORT) for n in range(3)))
            pieces = [e.text async for e in mini_model.astream(vita.user("Hello"), SHORT) if isinstance(e, TextDelta)]
            return results, "".join(pieces)

        results, text = asyncio.run(both())
        assert [r.token_ids for r in results] == [
            mini_model.ask(f"Question {n}?", params=SHORT).token_ids for n in range(3)
        ]
        assert text == mini_model.ask("Hello", params=SHORT).text

    def test_errors_arrive_where_the_caller_waits(self, mini_model: vita.Vita) -> None:
        async def go() -> None:
            with pytest.raises(MediaError):
                await mini_model.aask("x", images=["nowhere.png"])
            with pytest.raises(MediaError):
                async for _ in mini_model.astream(vita.user("x", image="nowhere.png")):
                    pass

        asyncio.run(go())

    def test_leaving_the_loop_stops_the_answer(self, mini_model: vita.Vita) -> None:
        async def go() -> None:
            stream = mini_model.astream(vita.user("Hello"), SamplingParams(max_tokens=1500))
            async for _ in stream:
                break
            await stream.aclose()  # type: ignore[attr-defined]

        asyncio.run(go())
        names = [t for t in threading.enumerate() if t.name == "vita-astream"]
        for thread in names:
            thread.join(timeout=20)
        assert not any(t.is_alive() for t in names)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_answers(mini: Path, dtype: str) -> None:
    model = vita.load(mini / "mini_ckpt", dtype=dtype, device="cpu")
    result = collect(model, vita.user("What?", image=PICTURE, audio=SOUND, video=FRAMES))
    assert result.usage.completion_tokens == 8


def test_a_small_model_stays_on_the_cpu_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    small, large = 7_000_000, 8_320_087_040
    assert [choose_device("auto", n).type for n in (small, large)] == ["cpu", "cuda"]
    assert choose_device("cuda", small).type == "cuda"


@pytest.mark.gpu
def test_the_gpu_gives_the_cpus_ids(mini: Path, mini_model: vita.Vita, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("SKIPPED LOUDLY: no CUDA device here")
    monkeypatch.setattr("torch.backends.cudnn.allow_tf32", False)
    gpu = vita.load(mini / "mini_ckpt", dtype="float32", device="cuda")
    asked = vita.user("What?", image=PICTURE, audio=SOUND)
    assert collect(gpu, asked).token_ids == collect(mini_model, asked).token_ids


@pytest.mark.gpu
@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_recorded_steps_on_a_gpu_answer_as_the_decoder_does(quantize: str | None) -> None:
    """Four requests at a time, of different lengths, joined and left at different tokens."""
    if not torch.cuda.is_available():
        pytest.skip("SKIPPED LOUDLY: no CUDA device here")
    from vita.engine.cuda_graphs import CudaGraphDecode  # needs Triton

    recorded, plain = (vita.load(dtype="float32", device="cuda", quantize=quantize) for _ in range(2))
    assert isinstance(recorded.engine.steps, CudaGraphDecode)
    plain.engine.batcher = Batcher(EagerDecode(plain.engine.decoder), threading.Lock())
    asked = [
        vita.user(f"What is a {word}?" * k, image=PICTURE) for k, word in enumerate(("dog", "cat", "ox", "bee"), 1)
    ]
    counts = [SamplingParams(max_tokens=n) for n in (5, 9, 14, 20)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda pair: collect(recorded, *pair).token_ids, zip(asked, counts, strict=True)))
    assert answers == [collect(plain, *pair).token_ids for pair in zip(asked, counts, strict=True)]

"""The Python API: forms of media, wrong types, names, and what a model says of itself."""

from __future__ import annotations

import ast
import asyncio
import base64
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.api import right_calls, wrong_calls
from tests.api.right_calls import CLIP, LOGO, VOICE

import vita

SHORT = vita.SamplingParams(max_tokens=2)


@pytest.fixture(scope="module")
def model() -> vita.Vita:
    """The embedded model: unlike the mini checkpoint, it hears."""
    return vita.load(dtype="float32", device="cpu")


@pytest.mark.parametrize("form", right_calls.ONE_IMAGE)
def test_one_image_is_one_image_in_every_form(model: vita.Vita, form: str) -> None:
    result = model.submit(right_calls.ONE_IMAGE[form](), SHORT).result()
    assert result.usage.images == 2, "one as image and one as images"
    twice = model.submit(vita.user("What?", images=[LOGO, LOGO]), SHORT).result()
    assert result.token_ids == twice.token_ids


@pytest.mark.parametrize("form", right_calls.TWO)
def test_several_images_are_as_many(model: vita.Vita, form: str) -> None:
    assert model.submit(right_calls.TWO[form](), SHORT).result().usage.images == 2


@pytest.mark.parametrize("form", right_calls.ONE_VIDEO)
def test_every_form_of_a_video_is_one_video(model: vita.Vita, form: str) -> None:
    message = right_calls.ONE_VIDEO[form]()
    assert [type(part) for part in message.parts] == [vita.Video, vita.Text]
    assert model.submit(message, SHORT).result().usage.images >= 4


@pytest.mark.parametrize("form", right_calls.ONE_AUDIO)
def test_every_form_of_audio_is_one_clip(model: vita.Vita, form: str) -> None:
    usage = model.submit(right_calls.ONE_AUDIO[form](), SHORT).result().usage
    assert 0.5 < usage.audio_seconds < 3 and usage.audio_tokens > 0


def test_every_way_to_ask_takes_the_same_media(model: vita.Vita) -> None:
    question = vita.user("What does the logo say?", image=LOGO, video=CLIP, audio=VOICE)
    wanted = model.submit(question, SHORT).result()
    arguments = {"image": LOGO, "video": CLIP, "audio": VOICE}
    results = [
        model.ask("What does the logo say?", params=SHORT, **arguments),
        asyncio.run(model.aask("What does the logo say?", params=SHORT, **arguments)),
        model.chat().ask("What does the logo say?", params=SHORT, **arguments),
        model.ask("What does the logo say?", params=SHORT, images=LOGO, videos=CLIP, audios=VOICE),
    ]
    for result in results:
        assert result.token_ids == wanted.token_ids and result.usage.prompt_tokens == wanted.usage.prompt_tokens


@pytest.mark.parametrize("case", wrong_calls.WRONG)
def test_a_wrong_call_is_one_sentence_at_the_call(model: vita.Vita, case: str) -> None:
    with pytest.raises(vita.RequestError) as caught:
        wrong_calls.WRONG[case](model)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".") and "--" not in sentence and "`" not in sentence
    assert "object at 0x" not in sentence


@pytest.mark.parametrize("case", wrong_calls.UNKNOWN)
def test_unknown_names_are_refused(model: vita.Vita, case: str) -> None:
    with pytest.raises((TypeError, AttributeError)):
        wrong_calls.UNKNOWN[case](model)


SAID: dict[str, tuple[Callable[[], object], str]] = {
    "tensor as image": (lambda: vita.user(image=torch.zeros(3, 4, 4)),  # type: ignore[arg-type]
                        "a torch tensor cannot be an image; pass tensor.cpu().numpy(), uint8 with the colours last."),
    "tensor as audio": (lambda: vita.user(audio=torch.zeros(9)),  # type: ignore[arg-type]
                        "a torch tensor cannot be an audio clip; pass Audio(tensor.cpu().numpy(), sample_rate)."),
    "list as image": (lambda: vita.user(image=["a"]),  # type: ignore[arg-type]
                      "a list cannot be an image; pass several files as images, and numbers as a NumPy array."),
    "number": (lambda: vita.user(image=3),  # type: ignore[arg-type]
               "a value of type int cannot be an image; pass a path, a URL, bytes, an open binary file, a NumPy array "
               "or a PIL image."),
    "frames": (lambda: vita.Video("a.mp4", max_frames=0), "max_frames: must be 1 or more, not 0."),
    "times": (lambda: vita.Video("a.mp4", start=3, end=1), "start: 3 s is after end, 1 s; swap them."),
    "size": (lambda: vita.load(memory=4),  # type: ignore[arg-type]
             "memory: must be a size such as '4GB', or 'auto', not 4."),
    "both": (lambda: vita.load(memory="4GB", quantize="int4"),
             "memory: cannot be used with quantize; leave one of them out."),
    "base": (lambda: vita.load(base="a"), "base: needs a model, the LoRA folder; name that folder as model."),
}  # fmt: skip


@pytest.mark.parametrize("case", SAID)
def test_sentences_speak_of_arguments(case: str) -> None:
    call, sentence = SAID[case]
    with pytest.raises(vita.RequestError) as caught:
        call()
    assert str(caught.value) == sentence


def test_base64_is_named_as_such(model: vita.Vita) -> None:
    for data in (LOGO.read_bytes(), CLIP.read_bytes(), VOICE.read_bytes()):
        for text in (base64.b64encode(data), base64.encodebytes(data)[:400], base64.b64encode(data[:60])):
            with pytest.raises(vita.MediaError, match='is base64 text, not a path; put "data:;base64," before'):
                model.ask("What?", image=text.decode())
            with pytest.raises(vita.MediaError, match="holds base64 text, not the bytes of a file"):
                model.ask("What?", image=text)
    result = model.ask("What?", image="data:;base64," + base64.b64encode(LOGO.read_bytes()).decode(), params=SHORT)
    assert result.token_ids == model.ask("What?", image=LOGO, params=SHORT).token_ids


def test_a_long_path_is_a_path(model: vita.Vita, tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 70)
    folder.mkdir()
    (folder / "logo").write_bytes(LOGO.read_bytes())
    assert model.ask("What?", image=folder / "logo", params=SHORT).usage.images == 1
    with pytest.raises(vita.MediaError, match="no such file"):
        model.ask("What?", image=folder / "missing.png")


def test_samples_without_a_rate_say_how_to_give_it(model: vita.Vita) -> None:
    with pytest.raises(vita.MediaError, match=r"pass vita\.Audio\(array, sample_rate=16000\)"):
        model.ask(audio=np.zeros(16000, np.float32))


def test_dir_lists_the_public_names() -> None:
    shown = [name for name in dir(vita) if not name.startswith("__")]
    assert shown == sorted(vita.__all__)
    for name in ("MediaError", "RequestError", "CheckpointError", "ResourceError", "DownloadError", "Usage", "Timings",
                 "Event"):  # fmt: skip
        assert name in shown and getattr(vita, name) is not None
    everything: dict[str, object] = {}
    exec("from vita import *", everything)
    assert set(vita.__all__) <= set(everything)


def test_type_checkers_see_every_public_name() -> None:
    """Behind the module's __getattr__ a name that is not imported for them would be of any type."""
    tree = ast.parse(Path(vita.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == set(vita.__all__)


def test_import_is_light() -> None:
    check = "import sys, vita, vita.errors, vita.events, vita.types; dir(vita)\n"
    check += "print([m for m in ('numpy', 'PIL', 'torch', 'av', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_model_says_what_it_is(mini: Path) -> None:
    with vita.load(mini / "mini_ckpt", device="cpu", dtype="float32", quantize="int8") as model:
        said = repr(model)
        assert said.startswith("<vita.Vita '") and "mini_ckpt" in said and said.endswith(" tokens>")
        assert "million parameters, quantised to int8, float32 on cpu, context of " in said
        chat = model.chat()
        chat.ask("What?", params=SHORT)
        assert repr(chat) == "<vita.Chat of 2 turns>"
    assert repr(model).endswith(", closed>"), "the end of the with block has closed it"
    with pytest.raises(vita.ResourceError, match="the engine is closed; load the model again"):
        model.ask("What?")


def test_the_embedded_model_says_its_name(model: vita.Vita) -> None:
    assert repr(model) == "<vita.Vita 'default': 7.9 million parameters, float32 on cpu, context of 4,096 tokens>"


def test_a_session_speaks_its_answer_as_the_model_does(model: vita.Vita, tone_is_declared: None) -> None:
    """`Session.submit(speech=)` gives the events of `Vita.submit(session=, speech=)`, and the history goes on."""
    tone, question = vita.SpeechOptions(voice="tone"), vita.user("What does the logo say?", image=LOGO)
    heard: list[bytes] = []
    for through_the_model in (False, True):
        with model.session() as session:
            if through_the_model:
                events = list(model.submit(question, session=session, speech=tone))
            else:
                events = list(session.submit(question, speech=tone))
            assert "VITA" in "".join(e.text for e in events if isinstance(e, vita.TextDelta))
            assert isinstance(events[-1], vita.Done) and events[-1].timings.speech_seconds > 0.2
            heard.append(b"".join(e.samples.tobytes() for e in events if isinstance(e, vita.SpeechChunk)))
            assert session.submit(vita.user("Which colour is it?")).result().usage.reused_tokens > 0
            with pytest.raises(vita.RequestError, match="there is no voice 'bob'"):
                session.submit(question, speech=vita.SpeechOptions(voice="bob"))
    assert heard[0] == heard[1] and len(heard[0]) > 20_000

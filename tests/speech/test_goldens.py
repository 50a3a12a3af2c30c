"""Speech decoder, codec and joiner against the reference's numbers (the `tts` set beside the checkout)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vita.engine.decode import EagerDecode
from vita.model.kv_cache import KVCacheBatch
from vita.speech.checkpoint import SpeechModel, load_speech
from vita.speech.codec import CodecStream, finish
from vita.speech.join import Joiner, ReferencePieces, ReferenceStreaming
from vita.speech.tts import SpeechSampling

pytestmark = pytest.mark.goldens
ROOT = Path(__file__).parents[2]
GREEDY = SpeechSampling(top_k=1, max_tokens=137)


class Goldens:
    """The set and its checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.json: dict[str, Any] = json.loads((folder / "tts.json").read_text())
        self.model: SpeechModel = load_speech(folder, device=torch.device("cpu"), dtype=torch.float32)
        self.decode = EagerDecode(self.model.decoder.decoder)

    def load(self, name: str) -> Tensor:
        return torch.from_numpy(np.load(self.folder / f"{name}.npy"))

    def tokens(self, name: str) -> list[int]:
        return [int(token) for token in self.load(name).flatten()]


@pytest.fixture(scope="module")
def goldens() -> Goldens:
    folder = Path(os.environ.get("VITA_GOLDENS", ROOT.parent / "shared" / "goldens")) / "tts"
    if not folder.is_dir():
        pytest.skip(f"SKIPPED LOUDLY: the speech reference set is not at {folder}; set VITA_GOLDENS")
    return Goldens(folder)


def close(got: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert got.shape == wanted.shape
    assert float((got - wanted).abs().max()) <= tolerance


@torch.inference_mode()
def test_the_pre_network(goldens: Goldens) -> None:
    *_, out = goldens.model.decoder.pre_network.hidden_states(goldens.load("text_embeds"))
    close(out, goldens.load("pre_nn_out"), 1e-4)


@torch.inference_mode()
def test_greedy_tokens_and_their_logits(goldens: Goldens) -> None:
    decoder = goldens.model.decoder
    tokens = decoder.generate(goldens.decode, goldens.load("text_embeds"), GREEDY)
    assert tokens == goldens.tokens("greedy_tokens")
    cache = decoder.new_cache(200)
    for _ in decoder.fill_prefix(goldens.load("text_embeds"), cache):
        pass
    logits = []
    for token in [decoder.config.start_id, *tokens[:39]]:
        rows = decoder.decoder.embed_tokens(torch.tensor([[token]]))
        logits.append(decoder.decoder.logits(decoder.decoder(rows, KVCacheBatch([cache])))[0, 0])
    close(torch.stack(logits), goldens.load("greedy_logits_first40").reshape(40, -1), 1e-4)


def test_the_penalty_counts_every_occurrence(goldens: Goldens) -> None:
    options = SpeechSampling(top_k=1, window=20, penalty=1.1, max_tokens=60)
    tokens = goldens.model.decoder.generate(goldens.decode, goldens.load("text_embeds"), options)
    assert tokens == goldens.tokens("greedy_tokens_penalty20")


def test_the_codec(goldens: Goldens) -> None:
    codec = goldens.model.codec
    close(codec.global_vector()[None], goldens.load("codec_global_embedding"), 0)
    close(codec(goldens.tokens("codec_tokens12"))[None, None], goldens.load("codec_wave12"), 1e-5)


def test_streamed_and_whole_audio_are_the_references(goldens: Goldens) -> None:
    codec, tokens = goldens.model.codec, goldens.tokens("greedy_tokens")
    close(codec(tokens)[::16], goldens.load("whole_wave_every16").flatten(), 1e-5)
    stream, sizes, parts, at = CodecStream(codec), [14, 3, 4, 6, 1, 20], [], 0
    with torch.inference_mode():
        while at < len(tokens):
            size = sizes[len(parts) % len(sizes)]
            parts.append(finish(stream.push(tokens[at : at + size], last=at + size >= len(tokens))))
            at += size
    close(torch.cat(parts)[::16], goldens.load("whole_wave_every16").flatten(), 1e-5)


@torch.inference_mode()
def test_the_references_streaming(goldens: Goldens) -> None:
    tokens = goldens.tokens("greedy_tokens")
    for run in goldens.json["runs"]:
        options = ReferenceStreaming(run["codec_chunk_size"], run["codec_padding_size"], run["N"], run["seg_threshold"])
        pieces, segments = ReferencePieces(goldens.model.codec, options), []
        for token in tokens:
            segments.append(finish(pieces.push([token], last=False)))
        segments.append(finish(pieces.push([], last=True)))
        segments = [segment for segment in segments if len(segment)]
        assert [len(segment) for segment in segments] == run["segment_lengths"]
        audio = torch.cat(segments).double()
        assert float(audio.sum()) == pytest.approx(run["sum"], abs=0.1)
        assert float(audio.abs().sum()) == pytest.approx(run["abs_sum"], abs=0.1)
        for segment, first in zip(segments, run.get("first8_of_each_segment", ()), strict=False):
            close(segment[:8], torch.tensor(first), 1e-5)
        if run["tag"] == "a":
            close(torch.cat(segments)[::4], goldens.load("run_a_wave_every4").flatten(), 1e-5)


def test_the_joiner(goldens: Goldens) -> None:
    for case in goldens.json["joiner"]:
        i = np.arange(case["n"], dtype=np.float64)
        wave = 0.3 * np.sin(0.37 * i) * (1 + 0.5 * np.cos(0.0021 * i))
        wave[case["q"] : case["q"] + 3000] *= 0.03
        joiner = Joiner(case["N"], case["threshold"])
        joiner.buffer = torch.zeros(case["in_buffer_len"])
        segment = joiner.push(torch.from_numpy(wave.astype(np.float32)))
        assert (None if segment is None else len(segment)) == case["out_len"]
        assert len(joiner.buffer) == case["new_buffer_len"]

"""The encoders give the same alone, batched and padded; pixel shuffle order, masks, other grids."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeVar

import pytest
import torch
from torch import nn
from torch.nn import functional

from vita.config import AudioConfig, VisionConfig
from vita.errors import MediaError
from vita.media.filterbank import token_count
from vita.model.audio import AudioEncoder, chunk_mask, encoder_frames, frame_mask, position_table
from vita.model.projectors import AudioAdapter, Projector
from vita.model.vision import VisionEncoder, pixel_shuffle

Module = TypeVar("Module", bound=nn.Module)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def randomise(module: Module) -> Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)
    return module.eval()


def vision(**changes: object) -> VisionEncoder:
    sizes: dict[str, object] = {
        "hidden_size": 32, "intermediate_size": 64, "num_layers": 2, "num_heads": 4, "image_size": 56,
        "norm_type": "layer_norm", "qkv_bias": True, "qk_normalization": False,
    }  # fmt: skip
    return randomise(VisionEncoder(VisionConfig(**(sizes | changes))))  # type: ignore[arg-type]


def audio(**changes: object) -> AudioEncoder:
    sizes: dict[str, object] = {"dim": 32, "num_heads": 4, "linear_units": 64, "num_layers": 2, "dynamic_chunks": False}
    return randomise(AudioEncoder(AudioConfig(**(sizes | changes))))  # type: ignore[arg-type]


def test_pixel_shuffle_concatenates_the_four_patches_of_a_block() -> None:
    grid = torch.arange(16).view(1, 16, 1).float()  # patch number as its only channel, 4x4
    assert pixel_shuffle(grid)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize("changes", [{}, {"norm_type": "rms_norm", "qkv_bias": False, "qk_normalization": True}])
def test_batched_tiles_equal_the_tiles_alone(changes: dict[str, object]) -> None:
    encoder, tiles = vision(**changes), torch.randn(5, 3, 56, 56)
    alone = torch.cat([encoder(t[None]) for t in tiles])
    torch.testing.assert_close(encoder(tiles), alone, atol=1e-5, rtol=1e-5)
    assert alone.shape == (5, 4, 128)


def test_another_image_size_interpolates_the_positions() -> None:
    encoder = vision()
    assert encoder.position_table(4, 4) is encoder.positions
    table = encoder.position_table(6, 8)
    assert table.shape == (1, 1 + 48, 32) and torch.equal(table[:, 0], encoder.positions[:, 0])
    assert encoder.embed(torch.randn(1, 3, 84, 112)).shape == (1, 49, 32)


def test_the_patch_embedding_equals_a_convolution() -> None:
    encoder, pixels = vision(), torch.randn(2, 3, 56, 56)
    wanted = functional.conv2d(pixels, encoder.patch, encoder.patch_bias, stride=14).flatten(2).transpose(1, 2)
    got = encoder.embed(pixels)[:, 1:] - encoder.positions[:, 1:]
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_a_projector_of_one_linear_layer_has_no_activation() -> None:
    projector = randomise(Projector(8, 6, 1))
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(
        projector(x), functional.linear(x, projector.linears[0].weight, projector.linears[0].bias)
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"normalize_before": False}, {"concat_after": True}, {"chunk_size": 4, "left_chunks": 1}],
    ids=["release", "norm after", "concat", "chunks"],
)
def test_audio_in_a_padded_batch_equals_the_audio_alone(changes: dict[str, object]) -> None:
    encoder = audio(**changes)
    adapter = randomise(AudioAdapter(encoder.config, 48))
    frames = [93, 41, 7]
    clips = [torch.randn(n, 80) for n in frames]
    batch = torch.stack([functional.pad(clip, (0, 0, 0, max(frames) - len(clip))) for clip in clips])
    rows, _ = adapter(*encoder(batch, torch.tensor(frames)))
    for clip, batched in zip(clips, rows, strict=True):
        alone, _ = adapter(*encoder(clip[None], torch.tensor([len(clip)])))
        count = token_count(len(clip))
        assert count == alone.shape[1]
        # The adapter's convolution reaches past the last frame: zeros alone, and masked padding, so zeros, in a batch.
        torch.testing.assert_close(batched[:count], alone[0], atol=1e-4, rtol=1e-4)


def test_chunked_attention_attends_to_its_chunk_and_those_to_the_left() -> None:
    mask = chunk_mask(6, 2, 1, torch.device("cpu"))[0, 0].int().tolist()
    assert mask == [
        [1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1],
    ]  # fmt: skip


def test_frames_right_of_a_chunk_do_not_change_it() -> None:
    encoder = audio(chunk_size=4, left_chunks=-1)
    audio_frames = torch.randn(1, 131, 80)  # 32 encoder frames
    changed = audio_frames.clone()
    changed[:, 80:] += 1  # in the receptive field of encoder frames from 19 on
    a, _ = encoder(audio_frames, torch.tensor([131]))
    b, _ = encoder(changed, torch.tensor([131]))
    torch.testing.assert_close(a[:, :16], b[:, :16], atol=1e-5, rtol=1e-5)
    assert (a[:, 24:] - b[:, 24:]).abs().max() > 1e-3


def test_dynamic_chunks_attend_to_everything_so_that_answers_repeat() -> None:
    encoder, frames = audio(dynamic_chunks=True, chunk_size=2, left_chunks=0), torch.randn(1, 60, 80)
    first, _ = encoder(frames, torch.tensor([60]))
    second, _ = encoder(frames, torch.tensor([60]))
    assert torch.equal(first, second)


def test_frames_carry_positions_only_if_the_config_says_so() -> None:
    """For constant input, all frames are equal without positions and differ with them; padding changes neither."""
    constant = torch.full((1, 41, 80), 0.3)
    for positions in (False, True):
        encoder = audio(positions_in_input=positions)
        encoded = encoder(constant, torch.tensor([41]))[0][0]
        equal = torch.allclose(encoded, encoded[:1].expand_as(encoded), atol=1e-5)
        assert equal != positions
        padded, mask = encoder(functional.pad(constant, (0, 0, 0, 20)), torch.tensor([41]))
        torch.testing.assert_close(padded[0][mask[0]], encoded)


def test_a_query_without_keys_gives_no_nan() -> None:
    encoder = audio()
    out, mask = encoder(torch.randn(2, 50, 80), torch.tensor([50, 1]))
    assert not mask[1].any() and torch.isfinite(out).all()


@pytest.mark.parametrize("changes", [{}, {"chunk_size": 3, "left_chunks": 1}])
def test_frames_without_padding_need_no_mask(changes: dict[str, object]) -> None:
    encoder, subsampled = audio(**changes), torch.randn(1, 40, 32)
    mask = torch.ones(1, 40, dtype=torch.bool)
    masked = [x for x, _ in encoder.layer_states(subsampled, mask)]
    plain = list(encoder.packed_states([subsampled]))
    torch.testing.assert_close(plain, masked, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"chunk_size": 3, "left_chunks": 1}, {"positions_in_input": True}])
@pytest.mark.parametrize("lengths", [[1, 40], [40, 7, 23], [5] * 8])
def test_packed_clips_do_not_see_each_other(changes: dict[str, object], lengths: list[int]) -> None:
    encoder, clips = audio(**changes), [torch.randn(1, length, 32) for length in lengths]
    packed = zip(*(state.split(lengths, dim=1) for state in encoder.packed_states(clips)), strict=True)
    for clip, together in zip(clips, packed, strict=True):
        alone = list(encoder.packed_states([clip]))
        torch.testing.assert_close(list(together), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_prompt_rows_come_before_the_audio(norm: str) -> None:
    config = AudioConfig(dim=32, num_heads=4, linear_units=64, num_layers=1, prompt_tokens=3, adapter_norm=norm)
    adapter = randomise(AudioAdapter(config, 48))
    rows, mask = adapter(torch.randn(2, 10, 32), torch.ones(2, 10, dtype=torch.bool))
    assert rows.shape == (2, 3 + 5, 48) and mask.shape == (2, 5)
    assert torch.equal(rows[0, :3], adapter.prompt) and torch.equal(rows[1, :3], adapter.prompt)


@pytest.mark.parametrize("frames", [7, 8, 9, 50, 51, 52, 53, 998])
def test_frame_counts_equal_those_of_the_convolutions(frames: int) -> None:
    encoder = audio()
    assert encoder.subsample(torch.randn(1, frames, 80)).shape[1] == encoder_frames(frames)
    assert frame_mask(frames, torch.tensor([frames])).sum() == encoder_frames(frames)


def test_too_few_and_too_many_frames_are_refused_in_a_sentence() -> None:
    encoder = audio(max_frames=20)
    with pytest.raises(MediaError, match="6 filterbank frames are too few, the encoder needs 7"):
        encoder(torch.randn(1, 6, 80), torch.tensor([6]))
    with pytest.raises(MediaError, match="position table's 20; split the audio"):
        encoder(torch.randn(1, 200, 80), torch.tensor([200]))


def test_the_position_table_interleaves_sines_and_cosines() -> None:
    table = position_table(4, 6, torch.device("cpu"))[0]
    angle = 3 / 10000 ** (2 / 6)
    torch.testing.assert_close(table[3, 2:4], torch.tensor([math.sin(angle), math.cos(angle)]))

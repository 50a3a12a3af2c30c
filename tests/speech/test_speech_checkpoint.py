"""Loading a speech checkpoint: strict, plain tensors only, and one error lists all that is wrong."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from tests.speech.checkpoints import CODEC, CPU, DECODER, decoder_tensors, tiny_speech, write_speech

from vita.checkpoint.locate import find_speech
from vita.errors import CheckpointError
from vita.speech.checkpoint import load_speech


def problems(folder: Path, **options: int) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_speech(folder, device=CPU, dtype=torch.float32, **options)
    return str(caught.value)


def change_pt(file: Path, change) -> None:  # type: ignore[no-untyped-def]
    data = torch.load(file, weights_only=True)
    change(data)
    torch.save(data, file)


def test_float16_weights_are_upcast_before_weight_norm_is_folded(tmp_path: Path) -> None:
    model = tiny_speech(tmp_path)
    generator = torch.load(tmp_path / "codec" / "final.pt", weights_only=True)["generator"]
    for name, conv in (("conv_pre", model.codec.conv_pre), ("conv_post", model.codec.conv_post)):
        v, g = generator[f"{name}.weight_v"].float(), generator[f"{name}.weight_g"].float()
        norm = v.double().pow(2).sum((1, 2), keepdim=True).sqrt()
        wanted = (g.double() * v.double() / norm).permute(2, 1, 0)
        assert (conv.weight.double() - wanted).abs().max() < 1e-6
        assert conv.weight.dtype == torch.float32


def test_the_decoder_takes_the_working_dtype_and_the_codec_stays_in_float32_on_a_cpu(tmp_path: Path) -> None:
    write_speech(tmp_path)
    model = load_speech(tmp_path, device=CPU, dtype=torch.bfloat16)
    assert {p.dtype for p in model.decoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.codec.parameters()} == {torch.float32}
    int8 = load_speech(tmp_path, device=CPU, dtype=torch.bfloat16, quantize="int8")
    assert int8.decoder.decoder.layers[0].attn.q.weight.dtype == torch.int8  # type: ignore[union-attr, index]


def test_a_state_dict_without_a_mapping_around_it_loads_too(tmp_path: Path) -> None:
    write_speech(tmp_path)
    torch.save(decoder_tensors(DECODER), tmp_path / "decoder" / "final.pt")
    load_speech(tmp_path, device=CPU, dtype=torch.float32)


def test_layers_that_inference_does_not_use_are_left_out(tmp_path: Path) -> None:
    write_speech(tmp_path, decoder={"kv_cache_prefix_finetune": 1})
    change_pt(tmp_path / "decoder" / "final.pt", lambda d: d["model"].update({"layers_prefix.0.x": torch.zeros(1)}))
    load_speech(tmp_path, device=CPU, dtype=torch.float32)


def test_one_error_lists_all_that_is_wrong_in_both_parts(tmp_path: Path) -> None:
    write_speech(tmp_path)

    def spoil_decoder(data: dict[str, dict[str, torch.Tensor]]) -> None:
        tensors = data["model"]
        del tensors["norm.weight"]
        tensors["layers.0.self_attn.q_proj.weight"] = torch.zeros(3, 24)
        tensors["out_fnn.bias"][2] = float("nan")
        tensors["layers.9.mlp.up_proj.weight"] = torch.zeros(1)

    def spoil_codec(data: dict[str, dict[str, torch.Tensor]]) -> None:
        del data["generator"]["conv_pre.weight_g"]
        data["quantizer"]["quantizer_modules2.0.embedding.weight"] = torch.zeros(1)

    change_pt(tmp_path / "decoder" / "final.pt", spoil_decoder)
    change_pt(tmp_path / "codec" / "final.pt", spoil_codec)
    sentence = problems(tmp_path, text_size=50)
    for part in (
        "decoder/final.pt: 1 tensors missing (norm.weight)",
        "2 tensors of a wrong shape or value (",
        "layers.0.self_attn.q_proj.weight [3, 24] instead of [24, 24]",
        "out_fnn.bias holds infinite values or NaN",
        "1 tensors unexpected (layers.9.mlp.up_proj.weight)",
        "codec/final.pt: 1 tensors missing (generator.conv_pre.weight_g)",
        "1 tensors unexpected (quantizer.quantizer_modules2.0.embedding.weight)",
        "idim 24 does not divide the text's embedding size 50",
    ):
        assert part in sentence, sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"upsample_rates": [6, 5, 5, 5]}, "must be 600, not 750"),
        ({"upsample_kernel_sizes": [12, 10, 9, 8]}, "do not belong to the upsample_rates"),
        ({"upsample_kernel_sizes": [4, 11, 9, 8]}, "do not belong to the upsample_rates"),
        ({"upsample_initial_channel": 24}, "cannot be halved 4 times"),
        ({"resblock_kernel_sizes": [3, 4]}, "must be odd"),
        ({"resblock_dilation_sizes": [[1, 3, 5]]}, "one list for each"),
        ({"resblock_dilation_sizes": [[1, 3], [1, 3]]}, "lists of 3 integers"),
        ({"n_code_groups": 2}, "n_code_groups is 2"),
        ({"residul_layer": 4}, "residul_layer is 4"),
        ({"global_code_num": 5}, "does not divide 128"),
        ({"global_tokens": [1, 2, 3]}, "must hold 4 codes"),
        ({"global_tokens": [1, 2, 3, 24]}, "must be under 24"),
        ({"n_codes": "many"}, "n_codes must be an integer"),
        ({"upsample_rates": "6554"}, "upsample_rates must be a list"),
    ],
)
def test_wrong_values_of_the_codec_are_named(tmp_path: Path, change: dict[str, object], expected: str) -> None:
    write_speech(tmp_path)
    (tmp_path / "codec" / "model.json").write_text(json.dumps(CODEC | change))
    assert expected in problems(tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"transformer_attention_heads": 5}, "5 heads do not divide 24"),
        ({"transformer_attention_dim": 32}, "transformer_attention_dim is 32, and idim 24"),
        ({"transformer_num_blocks": None}, "transformer_num_blocks is missing"),
        ({"odim": 30}, "odim 30 is over the codec's 24 codes"),
    ],
)
def test_wrong_values_of_the_decoder_are_named(tmp_path: Path, change: dict[str, object], expected: str) -> None:
    write_speech(tmp_path)
    (tmp_path / "decoder" / "model.json").write_text(json.dumps([24, 20, DECODER | change]))
    assert expected in problems(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "7", "[1, 2]", "null", '{"a": 1}', "[" * 5000])
def test_damaged_configurations_are_named(tmp_path: Path, text: str) -> None:
    write_speech(tmp_path)
    for part in ("decoder", "codec"):
        (tmp_path / part / "model.json").write_text(text)
    sentence = problems(tmp_path)
    assert "decoder/model.json" in sentence and "codec/model.json" in sentence


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("pwned"),))


def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_speech(tmp_path)
    torch.save({"model": Evil()}, tmp_path / "decoder" / "final.pt")
    (tmp_path / "codec" / "final.pt").write_bytes(pickle.dumps(Evil()))
    sentence = problems(tmp_path)
    assert "decoder/final.pt: cannot be loaded as plain tensors" in sentence
    assert "codec/final.pt: cannot be loaded as plain tensors" in sentence
    assert not (tmp_path / "pwned").exists()


def test_missing_files_are_named(tmp_path: Path) -> None:
    sentence = problems(tmp_path)
    for name in ("decoder/model.json", "codec/model.json", "decoder/final.pt", "codec/final.pt"):
        assert f"{name}: is missing" in sentence


def test_the_folder_inside_a_model(tmp_path: Path) -> None:
    assert find_speech(tmp_path) is None
    write_speech(tmp_path / "vita_tts_ckpt")
    assert find_speech(tmp_path) == tmp_path / "vita_tts_ckpt"

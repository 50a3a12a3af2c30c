"""`video_audio_demo.py`: the flags of the reference's demo."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.commands import MINI, assert_sentence, demo

import vita


@pytest.fixture
def question(files: Path) -> Iterator[list[str]]:
    yield ["--model_path", MINI, "--image_path", str(files / "good.png"), "--question", "What is this?"]


class TestDemo:
    def test_the_known_flags_answer(self, files: Path, question: list[str]) -> None:
        done = demo(*question, "--model_type", "qwen2p5_instruct", "--conv_mode", "qwen2p5_instruct")
        assert done.returncode == 0, done.stderr.decode()
        assert "Time consume:" in done.stdout.decode() and "prefill" in done.stderr.decode()

    @pytest.mark.slow
    def test_question_and_audio_may_come_together(
        self, files: Path, question: list[str], mini_model: vita.Vita
    ) -> None:
        done = demo(*question, "--audio_path", str(files / "good.wav"))
        assert done.returncode == 0, done.stderr.decode()
        wanted = mini_model.ask("What is this?", images=[files / "good.png"], audios=[files / "good.wav"])
        assert wanted.text in done.stdout.decode()

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (["--model_type", "mixtral-8x7b"], "--model_type: 'mixtral-8x7b' is another model family's; only qwen2p5"),
            (["--conv_mode", "sonnet"], "--conv_mode: 'sonnet' is unknown"),
            (["--frameCat"], "projector takes five tiles side by side"),
            (["--wrong"], "--wrong"),
            (["--max_tiles", "0"], "--max_tiles: must be 1 to 12, not 0"),
            (["--max_tiles", "many"], "--max_tiles"),
            (["--image_path", "nowhere.png"], "nowhere.png: no such file"),
        ],
    )
    def test_mistakes(self, question: list[str], flags: list[str], said: str) -> None:
        assert_sentence(demo(*question, *flags), said)

    @pytest.mark.slow
    def test_tiles(self, tmp_path: Path, mini_model: vita.Vita) -> None:
        file = tmp_path / "wide.png"
        Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 240, 3), np.uint8)).save(file)
        arguments = ["--model_path", MINI, "--image_path", str(file), "--question", "What?"]
        one = mini_model.ask("What?", images=[file], options=vita.MediaOptions(max_tiles=1))
        many = mini_model.ask("What?", images=[file])
        assert one.usage.tiles == 1 < many.usage.tiles
        for flag in ("--max_tiles", "--max-tiles"):
            assert f"1 tile, {one.usage.image_tokens} tokens" in demo(*arguments, flag, "1").stderr.decode()
        assert f"{many.usage.tiles} tiles, {many.usage.image_tokens} tokens" in demo(*arguments).stderr.decode()

    def test_help_explains_every_flag(self) -> None:
        done = demo("--help")
        shown = done.stdout.decode()
        assert done.returncode == 0 and "examples:" in shown
        options = shown.split("options:")[1].split("examples:")[0]
        for entry in re.split(r"\n  (?=-)", options.strip("\n")):
            assert re.search(r" {2,}\w+|\n +\w+", entry.strip()), f"not explained: {entry}"
        assert "--say_next" not in shown

    def test_no_question(self, files: Path) -> None:
        assert_sentence(demo("--image_path", str(files / "good.png")), "there is no question")
        assert_sentence(demo("--model_base", MINI, "--question", "x"), "--model_base: needs --model_path")

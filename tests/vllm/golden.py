"""The cases of a reference set, as conversations."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from vita.plugins.vllm.checkpoint import opened_model
from vita.prompt.template import AUDIO_PLACEHOLDER, IMAGE_PLACEHOLDER
from vita.types import Audio, Image, Message, Part, Text, Video


@dataclass(frozen=True)
class GoldenCase:
    """One request and what the reference implementation answered.

    Attributes:
        input_ids: with the reference's placeholders.
        fused_len: positions of the prompt.
        ids: greedy ids.
    """

    name: str
    messages: list[Message]
    input_ids: list[int]
    fused_len: int
    ids: tuple[int, ...]

    def prompt(self, folder: str) -> tuple[int, ...]:
        """The ids as vLLM has them: with this package's placeholders, one for each position."""
        opened = opened_model(folder)
        config = opened.checkpoint.config
        video = any(isinstance(part, Video) for part in self.messages[0].parts)
        image = opened.placeholders["video" if video else "image"]
        images, rows = self.input_ids.count(IMAGE_PLACEHOLDER), config.vision.tokens_per_tile
        audio_rows = (
            self.fused_len - len(self.input_ids) - images * (rows - 1) + self.input_ids.count(AUDIO_PLACEHOLDER)
        )
        out: list[int] = []
        for token in self.input_ids:
            if token == IMAGE_PLACEHOLDER:
                out += [image] * rows
            elif token == AUDIO_PLACEHOLDER:
                out += [opened.placeholders["audio"]] * audio_rows
            else:
                out.append(token)
        return tuple(out)


def golden_cases(root: Path) -> list[GoldenCase]:
    """The cases of `root/model/model.json`."""
    model = json.loads((root / "model" / "model.json").read_text(encoding="utf-8"))
    return [_case(name, case, model["inputs"], root) for name, case in model["cases"].items()]


def _case(name: str, case: dict, inputs: dict, root: Path) -> GoldenCase:
    found = re.search(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", case["prompt"], re.DOTALL)
    assert found is not None
    text = re.sub(r"<image>|<audio>", "", found[1]).strip("\n")
    parts: list[Part] = []
    for media in case["media"]:
        files = inputs[media]
        if media == "image":
            parts.append(Image(str(root / files)))
        elif media.startswith("video"):
            parts.append(Video([str(root / file) for file in files]))
    if text:
        parts.append(Text(text))
    parts += [Audio(str(root / inputs[media])) for media in case["media"] if media.startswith("audio")]
    return GoldenCase(
        name, [Message("user", tuple(parts))], case["input_ids"], case["fused_len"], tuple(case["greedy_ids"])
    )

"""Wrong calls of the Python API. mypy reports each line marked `wrong`, and each call raises one sentence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

import vita

TENSOR = torch.zeros(4, 4, 3)

WRONG: dict[str, Callable[[vita.Vita], object]] = {
    "image is a number": lambda model: model.ask("What?", image=3),  # wrong
    "image is a list": lambda model: model.ask("What?", image=["a.png", "b.png"]),  # wrong
    "images are numbers": lambda model: model.ask("What?", images=[1, 2]),  # wrong
    "images are a mapping": lambda model: model.ask("What?", images={"a.png": 1}),  # wrong
    "image is a tensor": lambda model: model.ask("What?", image=TENSOR),  # wrong
    "images are a tensor": lambda model: model.ask("What?", images=TENSOR),  # wrong
    "audio is a list of numbers": lambda model: model.ask(audio=[0.1, 0.2]),  # wrong
    "audio is a tensor": lambda model: model.ask(audio=TENSOR),  # wrong
    "video holds a number": lambda model: model.ask("What?", video=["a.png", 7]),  # wrong
    "question is bytes": lambda model: model.ask(b"What?"),  # wrong
    "system text is a number": lambda model: model.ask("What?", system_text=3),  # wrong
    "params are a dict": lambda model: model.ask("What?", params={"temperature": 0}),  # wrong
    "options are parameters": lambda model: model.ask("What?", options=vita.SamplingParams()),  # wrong
    "cancelled is no function": lambda model: model.ask("What?", cancelled=True),  # wrong
    "message is a str": lambda model: model.submit("What?"),  # wrong
    "messages are dicts": lambda model: model.submit([{"role": "user", "content": "What?"}]),  # wrong
    "stream of a str": lambda model: model.stream("What?"),  # wrong
    "chat sends a str": lambda model: list(model.chat().send("What?")),  # wrong
    "chat asks of a number": lambda model: model.chat().ask("What?", image=3),  # wrong
    "chat with other options": lambda model: model.chat(options=vita.SamplingParams()),  # wrong
    "session with a number": lambda model: model.session(3),  # wrong
    "speech is a number": lambda model: model.submit(vita.user("What?"), speech=5),  # wrong
    "speech of a session is a number": lambda model: model.session().submit(vita.user("What?"), speech=5),  # wrong
    "deadline is a str": lambda model: model.submit(vita.user("What?"), deadline="soon"),  # wrong
    "max_tokens is a str": lambda model: model.ask("What?", params=vita.SamplingParams(max_tokens="9")),  # wrong
    "max_tiles is a str": lambda model: vita.MediaOptions(max_tiles="3"),  # wrong
    "policy is a bool": lambda model: vita.MediaOptions(policy=False),  # wrong
    "fps is a str": lambda model: vita.Video("a.mp4", fps="1"),  # wrong
    "rate is a str": lambda model: vita.Audio(np.zeros(9, np.int16), sample_rate="16000"),  # wrong
    "user text is a number": lambda model: vita.user(3),  # wrong
    "system is a number": lambda model: vita.system(3),  # wrong
    "answer is a number": lambda model: vita.assistant(3),  # wrong
    "parts are a str": lambda model: vita.Message("user", "What?"),  # wrong
    "model is a number": lambda model: vita.load(3),  # wrong
    "base is a number": lambda model: vita.load("a", base=3),  # wrong
    "device is a number": lambda model: vita.load(device=0),  # wrong
    "unknown dtype": lambda model: vita.load(dtype="float8"),  # wrong
    "unknown scheme": lambda model: vita.load(quantize="int5"),  # wrong
    "unknown cache": lambda model: vita.load(kv_cache="int4"),  # wrong
    "memory is a number": lambda model: vita.load(memory=4e9),  # wrong
    "offline is a str": lambda model: vita.load(offline="no"),  # wrong
    "threads is a str": lambda model: vita.load(threads="4"),  # wrong
    "budget is no integer": lambda model: vita.load(kv_budget=1.5),  # wrong
    "queue is nothing": lambda model: vita.load(max_queue=None),  # wrong
    "progress is no function": lambda model: vita.load(progress=True),  # wrong
}

# Python itself refuses these.
UNKNOWN: dict[str, Callable[[vita.Vita], object]] = {
    "option": lambda model: vita.load(divice="cpu"),  # wrong
    "argument": lambda model: model.ask("What?", picture="a.png"),  # wrong
    "name": lambda model: vita.lod(),  # wrong
    "method": lambda model: model.answer("What?"),  # wrong
    "attribute": lambda model: model.ask("What?").texts,  # wrong
}

"""Sentences name options as the surface does that shows them: arguments in Python, flags on the command line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import vita
from vita.cli.app import flag_names
from vita.errors import CheckpointError, MediaError, QueueFull, RequestError, ResourceError, VitaError

SOURCE = Path(vita.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z]|\bvita [a-z]+ .*--")


def test_an_option_has_the_name_of_the_surface() -> None:
    error = RequestError("cannot be used with `quantize`", where="memory", fix="set `kv_cache` or leave it out")
    assert str(error) == "memory: cannot be used with quantize; set kv_cache or leave it out."
    assert error.sentence(flag_names()) == ("--memory: cannot be used with --quantize; set --kv-cache or leave it out.")
    assert error.sentence({"memory": "memory_limit"}) == (
        "memory_limit: cannot be used with quantize; set kv_cache or leave it out."
    )


@pytest.mark.parametrize("kind", [MediaError, CheckpointError])
def test_a_file_that_is_named_like_an_option_keeps_its_name(kind: type[VitaError]) -> None:
    assert kind("no such file", where="memory").sentence(flag_names()) == "memory: no such file."
    assert kind("no such file", where="`seed`").sentence(flag_names()) == "`seed`: no such file."


@pytest.mark.parametrize("kind", [RequestError, ResourceError, QueueFull])
def test_other_words_stay(kind: type[VitaError]) -> None:
    text = "the file `/a b` and `vita doctor` stay"
    assert kind(text, where="the engine").sentence(flag_names()) == f"the engine: {text}."


def strings_of_errors() -> list[tuple[str, str]]:
    """Every text in a call that makes an error, outside the command line: (place, text)."""
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        if file.relative_to(SOURCE).parts[0] == "cli":
            continue
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = call.func if isinstance(call, ast.Call) else None
            label = getattr(name, "id", getattr(name, "attr", ""))
            if label.endswith(("Error", "QueueFull", "fail")):
                texts = [n for n in ast.walk(call) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
                found += [(f"{file.relative_to(SOURCE)}:{node.lineno}", str(node.value)) for node in texts]
    return found


def test_no_error_of_the_library_quotes_a_flag() -> None:
    texts = strings_of_errors()
    assert len(texts) > 300, "the errors were not found"
    assert [text for text in texts if FLAG.search(text[1])] == []


def test_options_between_backticks_exist() -> None:
    """A misspelt name would reach the command line as it is."""
    named = {name for _, text in strings_of_errors() for name in re.findall(r"`([a-z_]+)`", text)}
    assert named and named <= set(flag_names())

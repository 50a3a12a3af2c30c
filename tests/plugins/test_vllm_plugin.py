"""The vLLM plugin stays out of everybody else's way; tests/vllm runs it where vLLM is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from vita.checkpoint.files import DEFAULT
from vita.plugins.vllm import response_state
from vita.plugins.vllm.checkpoint import opened_model

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "vita"


def test_importing_the_package_imports_no_vllm() -> None:
    code = (
        "import sys, vita, vita.cli.app, vita.api, vita.plugins.vllm, vita.serve.engines\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('vllm', 'transformers')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_only_the_choice_of_the_engine_imports_a_plugin() -> None:
    importing = re.compile(r"(from|import) vita\.plugins|from vita import plugins")
    found = [
        str(file.relative_to(SOURCE))
        for file in SOURCE.rglob("*.py")
        if importing.search(file.read_text(encoding="utf-8")) and "plugins" not in file.parts
    ]
    assert found == ["serve/engines.py"]


def test_the_entry_point_is_declared() -> None:
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points."vllm.general_plugins"]\nvita = "vita.plugins.vllm:register"' in declared


def test_placeholders_lie_behind_the_vocabulary() -> None:
    opened = opened_model(str(DEFAULT))
    assert sorted(opened.placeholders.values()) == [opened.tokenizer.size + n for n in range(3)]
    for token in opened.placeholders.values():
        assert opened.tokenizer.decode([token]) == "", "no text of a user becomes one"


def test_the_response_state_is_read_from_ids() -> None:
    tokenizer = opened_model(str(DEFAULT)).tokenizer
    for text, state in (("☜Hello", "typed"), ("☞Hello", "spoken"), ("☟", "noise"), ("Hello", None), ("", None)):
        assert response_state(str(DEFAULT), tokenizer.encode(text)) == state

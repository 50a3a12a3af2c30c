"""Help and version: fast, in panels, with examples that can be run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer
from tests.cli.commands import COMMANDS, ENV, Ended, assert_sentence, run

import vita
from vita.cli.app import app
from vita.options import SCHEMES


class TestHelp:
    def test_help_and_version_need_no_model(self) -> None:
        done = run("--help")
        shown = done.stdout.decode()
        assert (done.returncode, done.stderr) == (0, b"")
        for command in COMMANDS:
            assert re.search(rf"^\W*{command}\s+[A-Z]", shown, re.MULTILINE), f"{command} is not listed: {shown}"
        assert run("--version").stdout.decode() == run("-V").stdout.decode() == f"vita {vita.__version__}\n"
        assert run("-h").stdout == done.stdout == run().stdout

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_has_help_with_two_examples_that_parse(self, name: str, monkeypatch: Any) -> None:
        monkeypatch.setenv("COLUMNS", "120")
        done = run(name, "--help")
        shown = done.stdout.decode()
        assert (done.returncode, done.stderr, run(name, "-h").stdout) == (0, b"", done.stdout)
        assert "<bool>" not in shown and "<bool>" not in run("--help").stdout.decode()
        found = re.findall(r"^ +((?:\w+=\w+ )?vita .*?) *$", shown.split("Examples:")[1], re.MULTILINE)
        assert len(found) == 2, shown
        command = typer.main.get_group(app).commands[name]
        for line in found:
            words = shlex.split(line.split(" > ")[0])
            words = words[words.index("vita") :]
            assert words[1] == name
            command.make_context(name, words[2:], resilient_parsing=False)  # raises for a flag that does not exist
        for parameter in command.params:
            hidden = getattr(parameter, "hidden", False)
            assert hidden or getattr(parameter, "help", None), f"{parameter.name} is not explained"
            assert all((flag in shown) != hidden for flag in parameter.opts if flag.startswith("--")), parameter.opts

    def test_help_of_ask_is_in_panels(self) -> None:
        shown = run("ask", "--help").stdout.decode()
        titles = re.findall(r"─ (Media|Model|Answer|Output) ─", shown)
        assert titles == ["Media", "Model", "Answer", "Output"]
        media, model, answer, output = re.split(r"─ (?:Media|Model|Answer|Output) ─", shown)[1:]
        for panel, flags in (
            (media, ("--image", "--audio-from-video", "--max-tiles")), (model, ("--device", "--memory")),
            (answer, ("--temperature", "--logprobs")), (output, ("--json", "--timings", "--verbose")),
        ):  # fmt: skip
            assert all(flag in panel for flag in flags), panel

    @pytest.mark.parametrize("columns", [60, 80, 120, 160])
    def test_the_width_of_the_terminal_is_used(self, columns: int, monkeypatch: Any) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        widths = {len(line) for line in run("ask", "--help").stdout.decode().splitlines() if line.startswith("╭")}
        assert widths == {columns}

    @pytest.mark.parametrize("name", COMMANDS)
    def test_what_a_flag_takes_is_a_word(self, name: str) -> None:
        for parameter in typer.main.get_group(app).commands[name].params:
            takes_value = parameter.param_type_name == "option" and not getattr(parameter, "is_flag", False)
            if takes_value and not getattr(parameter, "hidden", False):
                word = str(parameter.metavar)
                assert re.fullmatch(r"[A-Z]{4,}", word) and word not in ("TEXT[]", "INTEGER", "FLOAT", "BOOLEAN"), word

    def test_chat_has_the_flags_of_ask(self) -> None:
        """But those of one answer, and of a part of a video."""
        commands = typer.main.get_group(app).commands
        ask, chat = ({p.name for p in commands[name].params} for name in ("ask", "chat"))
        assert ask - chat == {
            "question", "json", "stream", "timings", "show_reasoning", "logprobs", "start", "end", "audio_from_video",
            "play",
        }  # fmt: skip

    @pytest.mark.parametrize("name", ["ask", "chat"])
    def test_media_have_short_flags(self, name: str) -> None:
        command = typer.main.get_group(app).commands[name]
        short = {flag: p.name for p in command.params for flag in p.opts if len(flag) == 2}
        assert {flag: short[flag] for flag in ("-i", "-v", "-a")} == {"-i": "image", "-v": "video", "-a": "audio"}

    def test_verify_names_every_scheme(self) -> None:
        shown = " ".join(re.sub(r"[│\s]+", " ", run("verify", "--help").stdout.decode()).split())
        for scheme in SCHEMES:
            assert scheme in shown, shown

    def test_python_dash_m_is_the_command(self) -> None:
        command = [sys.executable, "-m", "vita"]
        done = subprocess.run([*command, "-V"], capture_output=True, env=ENV, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"vita {vita.__version__}\n".encode(), b"")
        wrong = subprocess.run([*command, "answer"], capture_output=True, env=ENV, timeout=60, check=False)
        assert_sentence(Ended(wrong.returncode, wrong.stdout, wrong.stderr), "answer", "See 'vita --help'")

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--help",), ("list",), ("list", "--json"), ("rm", "owner/name"), ("ask", "Hi", "--model", "/nowhere"),
            ("info", "/nowhere"),
        ],
    )  # fmt: skip
    def test_these_import_nothing_heavy(self, arguments: tuple[str, ...]) -> None:
        code = (
            f"import sys; sys.argv=['vita', *{arguments}]\n"
            "from vita.cli import run\n"
            "try: run()\nexcept SystemExit: pass\n"
            "print([m for m in ('torch','numpy','PIL','av','tokenizers') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ENV, timeout=60, check=False)
        assert done.stdout.decode().strip().endswith("[]"), done.stdout

    @pytest.mark.parametrize(
        ("typed", "offered"), [("vita c", ["chat", "convert"]), ("vita ask --max-t", ["--max-tiles", "--max-tokens"])]
    )
    def test_the_shell_completes_commands_and_flags(self, typed: str, offered: list[str]) -> None:
        env = ENV | {"_VITA_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        command = [sys.executable, "-m", "vita"]
        done = subprocess.run(command, capture_output=True, env=env, timeout=60, check=False)
        assert (done.returncode, done.stdout.decode().split(), done.stderr) == (0, offered, b"")

"""`vita info`, `verify`, `bench`, `eval`, `convert` and `doctor`."""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
from pathlib import Path

import psutil
import pytest
import torch
from huggingface_hub import constants
from tests.checkpoints import copy_mini, edit_json, read_tensors, write_single
from tests.cli.commands import MINI, assert_sentence, run
from tests.speech.test_audio_file import Device
from tests.voices import declare_voices, on_path

from vita.checkpoint.files import DEFAULT
from vita.cli import doctor


class TestOtherCommands:
    def test_info_counts_and_predicts(self) -> None:
        facts = json.loads(run("info", MINI, "--json").stdout)
        tensors = read_tensors(Path(MINI))
        unused = sum(tensors[n].shape[1] * (1408 - 1378) for n in ("model.embed_tokens.weight", "lm_head.weight"))
        stored = sum(t.numel() for n, t in tensors.items() if "global_cmvn" not in n)
        assert facts["total"] == stored - unused and facts["problem"] is None
        text = run("info", MINI).stdout.decode()
        assert f"{facts['total'] / 1e6:,.3f} M" in text and "missing     nothing" in text

    def test_info_says_what_a_memory_limit_changes(self) -> None:
        facts = json.loads(run("info", MINI, "--json").stdout)
        text = run("info", MINI).stdout.decode()
        assert f"KV cache    budget {facts['kv_budget'] / 1e9:.2f} GB" in text and "in turn" not in text
        limited = run("info", MINI, "--memory", "2GB")
        assert limited.returncode == 0 and b"limit       2GB: " in limited.stdout and b"in turn" in limited.stdout
        tight = run("info", MINI, "--memory", "1MB").stdout.decode()
        assert "KV cache    no budget: memory: the smallest variant (int4) needs about" in tight

    def test_the_chosen_variant_is_printed(self) -> None:
        for flag in "--memory", "--fit":
            done = run("ask", "Hello", "--model", MINI, "--dtype", "float32", "--max-tokens", "2", flag, "2GB")
            assert b"vita: float32 is the least quantised variant within 2GB\n" in done.stderr
        assert b"--memory" in run("ask", "--help").stdout and b"--fit" not in run("ask", "--help").stdout

    def test_info_says_what_is_missing(self, mini: Path, tmp_path: Path) -> None:
        folder = copy_mini(mini, tmp_path)
        tensors = read_tensors(folder)
        del tensors["model.norm.weight"]
        write_single(folder, tensors)
        done = run("info", str(folder))
        assert done.returncode == 2 and "1 missing (model.norm.weight)" in done.stdout.decode()

    def test_verify_prints_rows_and_counts(self, mini: Path) -> None:
        done = run("verify", str(mini))
        _, *rows, last = done.stdout.decode().splitlines()
        ends = [re.search(r"  (pass|skipped)(?: \(.*\))?$", row) for row in rows]
        passed, skipped = (sum(e is not None and e[1] == status for e in ends) for status in ("pass", "skipped"))
        assert done.returncode == 0 and last == f"{passed} passed, 0 failed, {skipped} skipped"
        assert passed > 80 and passed + skipped == len(rows)

    def test_verify_fails_with_exit_code_1(self, mini: Path, tmp_path: Path) -> None:

        copy = shutil.copytree(mini, tmp_path / "set")
        edit_json(copy / "model" / "model.json", lambda d: d["cases"]["text"]["greedy_ids"].reverse())
        done = run("verify", str(copy), "--json")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 1
        assert {(r["stage"], r["case"]) for r in rows if r["status"] == "fail"} == {
            ("greedy ids, cached", "text"), ("greedy ids, not cached", "text"),
        }  # fmt: skip

    def test_convert_writes_a_smaller_checkpoint_that_answers(self, tmp_path: Path) -> None:
        out = str(tmp_path / "small")
        done = run("convert", MINI, out, "--quantize", "int8")
        assert done.returncode == 0 and "int8" in done.stdout.decode()
        flags = ["--json", "--max-tokens", "6"]
        small = json.loads(run("ask", "Hello", "--model", out, *flags).stdout)
        loaded = json.loads(run("ask", "Hello", "--model", MINI, "--quantize", "int8", *flags).stdout)
        assert small["token_ids"] == loaded["token_ids"]
        facts = json.loads(run("info", out, "--json").stdout)
        assert facts["quantized"] == "int8" and facts["problem"] is None
        assert facts["memory"]["decoder"] < json.loads(run("info", MINI, "--json").stdout)["memory"]["decoder"]
        assert_sentence(run("convert", MINI, out), "exists already")

    @pytest.mark.slow
    def test_bench_measures_every_stage_and_compares(self, tmp_path: Path) -> None:
        done = run("bench", MINI, "--tokens", "4", "--json")
        assert done.returncode == 0, done.stderr.decode()
        report = json.loads(done.stdout)
        stages = {f["stage"] for f in report["figures"]}
        assert {"load, warm", "vision, 5 tiles", "speech, 10 s", "prefill, 5 tiles", "decode, 5 tiles"} <= stages
        assert all(f["seconds"] > 0 for f in report["figures"]) and all(v > 0 for v in report["peaks"].values())
        file = tmp_path / "before.json"
        file.write_bytes(done.stdout)
        again = run("bench", MINI, "--tokens", "4", "--compare", str(file)).stdout.decode()
        assert '"stage"' not in again, "without --json there is the table only"
        assert sum(line.count("x ") + line.endswith("x") for line in again.splitlines()) >= len(stages)

    def test_bench_refuses_a_report_that_is_not_there(self) -> None:
        assert_sentence(run("bench", MINI, "--compare", "nowhere.txt"), "cannot be read")
        assert_sentence(run("bench", MINI, "--json", "--compare", "nowhere.txt"), "--compare: adds ratios to the table")

    def test_doctor_says_what_this_machine_has(self) -> None:
        done = run("doctor")
        assert (done.returncode, done.stderr) == (0, b"")
        lines = done.stdout.decode().splitlines()
        found = {line[6:22].strip(): line[23:] for line in lines}
        assert all(line[:6] in ("ok    ", "note  ") for line in lines) and len(found) == len(lines) >= 12
        assert all("; " in line for line in lines if line.startswith("note")), "a note says what to do"
        assert found["Python"] == platform.python_version() and found["PyTorch"] == torch.__version__
        assert found["CPU"] == f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
        total = psutil.virtual_memory().total
        assert re.fullmatch(rf"\d+\.\d of {total / 1e9:.1f} GB available", found["memory"]), found["memory"]
        assert float(found["memory read"].split()[0]) > 0.1
        assert found["CUDA"].startswith("none") != torch.cuda.is_available()
        size = sum(f.stat().st_size for f in DEFAULT.rglob("*") if f.is_file())
        assert found["embedded model"].endswith(f" {size / 1e6:.1f} MB")
        assert sum("kernels" in name for name in found) == 1
        assert {"loudspeaker", "microphone", "voice activity", "voice espeak", "voice piper"} <= set(found)

    def test_doctor_says_which_devices_there_are(self) -> None:
        loudspeaker, microphone = doctor.audio_devices(lambda extra: Device())
        assert loudspeaker == doctor.Finding("loudspeaker", "built-in output, 44,100 Hz")
        assert microphone == doctor.Finding("microphone", "built-in input, 44,100 Hz")
        for finding in doctor.audio_devices(lambda extra: Device(exists=False)):
            assert finding.found == f"off, this machine has no {finding.name}" and finding.fix == "attach one"

    def test_doctor_names_the_extras(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sounddevice", None)
        fixes = [finding.fix for finding in doctor.audio_devices()]
        assert fixes == ['run pip install "vita-engine[play]"', 'run pip install "vita-engine[listen]"']
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        fixes = [finding.fix for finding in [*doctor.voices(), *doctor.packages()]]
        for extra in ("espeak", "piper", "listen", "chinese"):
            assert any(f'"vita-engine[{extra}]"' in fix for fix in fixes), extra

    @pytest.mark.usefixtures("tone_is_declared")
    def test_doctor_says_what_a_voice_speaks(self) -> None:
        assert doctor.Finding("voice tone", "en, zh") in doctor.voices()

    def test_doctor_reports_a_voice_of_another_package_that_is_broken(self, tmp_path: Path) -> None:
        with on_path(declare_voices(tmp_path, {"odd": "no_such_module:Voice"})):
            (found,) = [finding for finding in doctor.voices() if finding.name == "voice odd"]
        assert "no_such_module" in found.found and found.fix == "install its package again"

    def test_doctor_says_what_to_mend(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("vita.checkpoint.locate.DEFAULT", tmp_path)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        done = run("doctor")
        notes = [line for line in done.stdout.decode().splitlines() if line.startswith("note")]
        assert done.returncode == 0
        assert any("embedded model" in n and "no config.json" in n and "install the package again" in n for n in notes)
        assert any("HEIC" in n and 'pip install "vita-engine[heic]"' in n for n in notes)
        assert any("GPU" in n and 'pip install "vita-engine[gpu]"' in n for n in notes)


LONG = "a" * 300


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("batch", LONG, "out.jsonl"), f"{LONG}: cannot be read (File name too long)"),
        (("batch", "in.jsonl", LONG), f"{LONG}: cannot be written (File name too long)"),
        (("verify", LONG), f"{LONG}: is not a reference set"),
        (("serve", "--ssl-certfile", LONG), f"{LONG}: no such file"),
        (("info", LONG), f"{LONG}: no such folder"),
    ],
)
def test_a_path_that_the_system_cannot_hold_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "in.jsonl").write_text('{"messages": [{"role": "user", "content": "Hello"}]}\n')
    monkeypatch.chdir(tmp_path)
    assert_sentence(run(*arguments), said)


def test_a_cache_that_the_system_cannot_hold_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / LONG))
    done = run("list")
    assert done.returncode == 0 and b"nothing is in the hub cache" in done.stderr
    assert_sentence(run("rm", "owner/name"), "is not in the hub cache")

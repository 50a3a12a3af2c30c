"""What a visitor must find in README and docs: the image beside the answer, the machines, the model's limits."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image, ImageChops

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HREF = "{http://www.w3.org/1999/xlink}href"


def section(title: str, text: str = README) -> str:
    """The text below a heading, up to the next one of its level."""
    return re.split(r"^## ", text.split(f"\n## {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def test_the_drawing_shows_the_image_beside_the_answer() -> None:
    text = (ROOT / "docs" / "demo.svg").read_text(encoding="utf-8")
    assert "](docs/demo.svg)" in README and "The image shows the word 'VITA'" in text
    images = [e for e in ElementTree.fromstring(text).iter() if e.tag.endswith("}image")]
    (shown,) = [value for e in images for key, value in e.attrib.items() if key in ("href", HREF)]
    drawn = Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))).convert("RGB")
    logo = Image.open(ROOT / "assets" / "vita_logo.png").convert("RGB")
    difference = ImageChops.difference(drawn, logo.resize(drawn.size))
    assert max(high for _, high in difference.getextrema()) < 64, "another image than the one that was asked about"


def test_the_recording_of_a_chat_moves_and_is_short() -> None:
    text = (ROOT / "docs" / "chat.svg").read_text(encoding="utf-8")
    assert "](docs/chat.svg)" in README and text.count("@keyframes") > 50 and "VITA" in text
    seconds = max(float(found) for found in re.findall(r"[: ](\d+(?:\.\d+)?)s", text))
    assert seconds < 60 and len(text) < 100_000


def test_every_machine_has_a_model_its_speed_and_how_to_get_it() -> None:
    rows = [line for line in section("Which model for which machine").splitlines() if line.startswith("|")]
    head, _, *machines = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    assert [word in cell for word, cell in zip(("machine", "model", "first token", "", "get it"), head, strict=True)]
    assert len(machines) >= 6 and all(len(row) == 5 and all(row) for row in machines)
    assert {"CPU", "GPU"} <= {word for row in machines for word in row[0].replace(",", "").split()}


def test_what_the_model_does_not_know_is_said() -> None:
    text = section("What the embedded model does not know")
    for said in (
        "no photograph",
        "no face",
        "no human voice",
        "no facts",
        "no other language",
        "wrong and sounds sure",
    ):
        assert said in text.replace("\n", " "), said


def test_the_talking_page_is_shown_with_how_to_open_it() -> None:
    text = " ".join(section("Talk in the browser, and the server").split())
    for said in ("./demo.sh --serve", "vita serve", "Open the address that it prints", "microphone", "docs/serving.md"):
        assert said in text, said


PAGES = {
    "First steps": "index.md", "Images, video and audio": "media.md", "Python": "python.md", "Serving": "serving.md",
    "Batches": "batch.md", "Replicas": "replicas.md", "Speech out": "speech.md", "Memory and speed": "memory.md",
    "GPUs": "gpu.md",
    "Quantising": "quantising.md", "Troubleshooting": "troubleshooting.md", "Architecture": "architecture.md",
    "Contributing": "contributing.md",
    "Benchmarks": "benchmarks.md", "Log of findings": "log.md",
}  # fmt: skip


def test_the_site_has_every_page() -> None:
    found = re.findall(r"- ([^:\n]+): (\w[\w-]*\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert PAGES.items() <= dict(found).items()
    for name in PAGES.values():
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert len(text) > 1000 or "CONTRIBUTING.md" in text, name  # that page is the repository's file


def test_twelve_errors_are_explained_as_they_are_printed() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    numbers = re.findall(r"^## (\d+)\. ", text, re.MULTILINE)
    assert numbers == [str(k) for k in range(1, 13)]
    for part in re.split(r"^## \d+\. ", text, flags=re.MULTILINE)[1:]:
        assert "```" in part, part.splitlines()[0]


@pytest.mark.parametrize("what", ["Set up", "What a change must keep", "Where things are", "Add a CPU kernel",
                                  "Add a voice", "Add a task to the embedded model"])  # fmt: skip
def test_contributing_says_how(what: str) -> None:
    assert len(section(what, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))) > 200


def test_the_architecture_fits_one_page_and_is_drawn() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert "flow.svg" in text and text.count("\n") < 100


def test_claims_are_those_of_the_second_measurement() -> None:
    """Parity in decode, two to three times in prefill, no memory advantage (issue 18, item 8)."""
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    beside = section("Beside other engines", text)
    for figure in ("1.02 (0.84 to 1.10)", "2.2 to 3.3", "2.45", "4.8 GB and 4.8 GB", "1.84", "1.9 to 2.1", "1,435"):
        assert figure in beside, figure
    for page in (README, text):
        said = " ".join(page.split())
        assert "two to three times as fast" in said and re.search(r"decod\w* (is )?as fast as llama\.cpp", said)
    assert text.count("\n") < 250, "current tables only; findings are in log.md"


def test_the_site_is_built_strictly_by_ci() -> None:
    assert "mkdocs build --strict" in (ROOT / "scripts" / "docs.sh").read_text(encoding="utf-8")
    assert re.search(r"^tier \w+ scripts/docs\.sh$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)

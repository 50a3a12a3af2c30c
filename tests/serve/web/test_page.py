"""The page over HTTP: what is served, to whom, under which content security policy; nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

import vita
from tests.serve.running import Running, running
from vita.serve.options import ServeOptions
from vita.serve.page import FOLDER, read_files

ROOT = Path(__file__).parents[3]
FILES = sorted(read_files())
SCRIPTS = [name for name in FILES if name.endswith(".js")]


def text_of(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def test_the_page_and_each_of_its_files(served: Running) -> None:
    page = served.client.get("/")
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    wanted = re.findall(r'(?:href|src)="(static/[^"]+)"', page.text)
    assert {"static/app.js", "static/style.css", "static/icon.svg"} <= set(wanted)
    for name in {*wanted, *(f"static/{name}" for name in FILES)}:
        answer = served.client.get(f"/{name}")
        assert answer.status_code == 200 and answer.content == (FOLDER / name.removeprefix("static/")).read_bytes()
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert served.client.get("/static/app.js").headers["content-type"] == "text/javascript; charset=utf-8"


def test_the_policy_allows_this_server_only(served: Running) -> None:
    for path in ("/", "/static/app.js"):
        found = served.client.get(path).headers["content-security-policy"]
        policy = dict(part.strip().split(" ", 1) for part in found.split(";"))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert not re.search(r"unsafe|https?:|\*", found)


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_inline() -> None:
    for name in FILES:
        text = text_of(name).replace("http://www.w3.org/2000/svg", "")
        addresses = re.findall(r"(?:https?:)?//[\w$][\w.$-]*\.\w+", text)
        assert not addresses, f"{name} names {addresses}"
    page = text_of("index.html")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page)
    for name in SCRIPTS:
        assert not re.search(
            r"\beval\(|new Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write", text_of(name)
        )


def test_modules_import_files_that_exist_and_names_that_are_in_the_page() -> None:
    ids = set(re.findall(r'\sid="([^"]+)"', text_of("index.html")))
    for name in SCRIPTS:
        text = text_of(name)
        for target in re.findall(r'from "([^"]+)"', text):
            assert (FOLDER / name).parent.joinpath(target).resolve().is_file(), f"{name} imports {target}"
        assert set(re.findall(r'\$\("([\w-]+)"\)', text)) <= ids, name
        assert text.count("\n") <= 400 and text.startswith("// "), f"{name} says what it does, in 400 lines at most"


def test_head_and_etag(served: Running) -> None:
    head = served.client.head("/")
    assert head.status_code == 200 and not head.content and int(head.headers["content-length"]) > 1000
    answer = served.client.get("/static/style.css")
    again = served.client.get("/static/style.css", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304 and not again.content and answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/talk"],
)  # fmt: skip
def test_other_paths_are_no_files_of_the_page(served: Running, path: str) -> None:
    answer = httpx.Client(trust_env=False).send(
        httpx.Request("GET", served.url, extensions={"target": path.encode()})
    )  # fmt: skip
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "unknown_url"


def test_the_page_is_shown_without_a_key_and_the_api_is_not(embedded: vita.Vita) -> None:
    with running(embedded, ServeOptions(port=0, api_keys=("a-key-of-the-test",))) as server:
        for path, status in (("/", 200), ("/static/app.js", 200), ("/static/none", 404), ("/v1/models", 401)):
            assert httpx.get(server.url + path, trust_env=False).status_code == status


@pytest.mark.slow
def test_the_wheel_holds_the_page(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="SKIPPED LOUDLY: hatchling is not installed")
    pytest.importorskip("hatch_fancy_pypi_readme", reason="SKIPPED LOUDLY: hatch-fancy-pypi-readme is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {f"vita/serve/web/{name}" for name in FILES} <= set(names)

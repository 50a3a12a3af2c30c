"""Which files are pictures: one list, nothing on it starts a program, and what is refused is named."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageFile

from vita.errors import MediaError
from vita.media.audio import load_audio
from vita.media.formats import ALIASES, FORMATS
from vita.media.image import load_image
from vita.media.video import load_video
from vita.types import Audio, Video

# Every format of Pillow's that is not read, and why. A format that a newer Pillow brings fails the test below until
# somebody puts it here or on the list.
NOT_READ = {
    "EPS": "runs Ghostscript",
    "IPTC": "opens whatever picture is inside it, in any format",
    "WMF": "drawing instructions, for which Windows or a handler of somebody's is called",
    "BUFR": "weather data, a stub that calls a handler",
    "GRIB": "weather data, a stub that calls a handler",
    "HDF5": "arrays, a stub that calls a handler",
    "MPEG": "only its size can be read",
    "FITS": "astronomers' arrays: values, not colours",
    "MCIDAS": "satellite data",
    "SPIDER": "electron microscopy: values, not colours",
    "BLP": "textures of games",
    "FTEX": "textures of games",
    "GBR": "brushes",
    "CUR": "mouse pointers",
    "ICNS": "nobody asked for it",
    "DCX": "nobody asked for it",
    "DIB": "a BMP without its header; nobody asked for it",
    "FLI": "nobody asked for it",
    "IM": "nobody asked for it",
    "IMT": "nobody asked for it",
    "MSP": "nobody asked for it",
    "PCD": "nobody asked for it",
    "PCX": "nobody asked for it",
    "PIXAR": "nobody asked for it",
    "SGI": "nobody asked for it",
    "SUN": "nobody asked for it",
    "XBM": "nobody asked for it",
    "XPM": "nobody asked for it",
    "XVTHUMB": "nobody asked for it",
}

EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\n"
    b"1 0 0 setrgbcolor 0 0 50 50 rectfill\nshowpage\n%%EOF\n"
)
ENDLESS = EPS.replace(b"showpage", b"{ } loop")
DOS_EPS = b"\xc5\xd0\xd3\xc6" + (30).to_bytes(4, "little") + len(EPS).to_bytes(4, "little") + bytes(18) + EPS
PLACEABLE_WMF = (
    b"\xd7\xcd\xc6\x9a\0\0" + bytes([0, 0, 0, 0, 100, 0, 100, 0, 0x48, 0]) + bytes(6) + b"\1\0\t\0" + bytes(60)
)
BARE_WMF = b"\1\0\t\0\0\3" + bytes(80)
EMF_BOX = b"".join(n.to_bytes(4, "little") for n in (0, 0, 50, 50, 0, 0, 1000, 1000))
EMF = b"\1\0\0\0" + (108).to_bytes(4, "little") + EMF_BOX + b" EMF" + b"\0\0\1\0" + bytes(64)
REFUSED = {
    "eps": (EPS, "is a PostScript file, which is not read because it is a program; convert it to PNG"),
    "endless": (ENDLESS, "is a PostScript file"),
    "dos-eps": (DOS_EPS, "is a PostScript file"),
    "printer": (b"\x04" + EPS, "is a PostScript file"),
    "wmf": (PLACEABLE_WMF, "is a Windows metafile"),
    "bare-wmf": (BARE_WMF, "is a Windows metafile"),
    "emf": (EMF, "is a Windows metafile"),
    "grib": (b"GRIB\0\0\0\1" + bytes(60), "is a GRIB file of weather data"),
    "bufr": (b"BUFR" + bytes(60), "is a BUFR file of weather data"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(60), "is an HDF5 file"),
}
ROUTES: dict[str, Callable[[Path], object]] = {
    "file": load_image,
    "bytes": lambda path: load_image(path.read_bytes()),
    "stream": lambda path: load_image(io.BytesIO(path.read_bytes())),
    "frames": lambda path: load_video(Video([path, path])),
    "frames of bytes": lambda path: load_video(Video([path.read_bytes()] * 4)),
}


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program called `gs`, which makes the file `ran` beside it; Pillow is shown to run it."""
    program = tmp_path_factory.mktemp("bin") / "gs"
    mark = program.with_name("ran")
    program.write_text(f"#!/bin/sh\ntouch '{mark}'\nexit 1\n")
    program.chmod(0o755)
    attempt = (
        "import io, sys\nfrom PIL import Image\n"
        "try: Image.open(io.BytesIO(sys.stdin.buffer.read())).load()\nexcept Exception: pass"
    )
    env = os.environ | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([sys.executable, "-c", attempt], input=EPS, check=True, timeout=60, env=env)
    assert mark.exists(), "the trap does not work"
    return program


@pytest.fixture
def ran(trap: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that would be there if a program called `gs` had been run."""
    monkeypatch.setenv("PATH", f"{trap.parent}{os.pathsep}{os.environ['PATH']}")
    mark = trap.with_name("ran")
    mark.unlink(missing_ok=True)
    return mark


def test_every_plug_in_of_pillow_is_decided() -> None:
    Pillow.init()
    known = {name for name in Pillow.ID if Pillow.OPEN[name][0].__module__.startswith("PIL.")}
    assert known <= {*FORMATS, *NOT_READ}, "put new formats on the list in formats.py, or here"
    assert not {*FORMATS, *ALIASES} & set(NOT_READ)


def test_the_documentation_names_the_list() -> None:
    text = (Path(__file__).parents[2] / "docs" / "media.md").read_text(encoding="utf-8")
    for name in ("JPEG", "MPO", "PNG", "GIF", "WebP", "BMP", "TIFF", "AVIF", "HEIC", "JPEG 2000", "PSD", "QOI", "DDS",
                 "ICO", "PBM", "TGA", "PostScript"):  # fmt: skip
        assert name in text


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("name", ["a.png", *(pytest.param(n, marks=pytest.mark.slow) for n in ("a.jpg", "a.eps", "a"))])
def test_what_is_no_picture_is_named_and_not_run(kind: str, route: str, name: str, tmp_path: Path, ran: Path) -> None:
    data, said = REFUSED[kind]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(MediaError) as caught:
        ROUTES[route](path)
    assert said in str(caught.value) and str(caught.value).count("\n") == 0
    assert not ran.exists()


@pytest.mark.parametrize("kind", REFUSED)
def test_as_a_video_or_a_sound_it_is_not_run_either(kind: str, tmp_path: Path, ran: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(REFUSED[kind][0])
    with pytest.raises(MediaError):
        load_video(Video(path))
    with pytest.raises(MediaError):
        load_audio(Audio(path))
    assert not ran.exists()


@pytest.mark.parametrize("wrap", [lambda p: load_image(p), lambda p: load_video(Video([p, p]))])
@pytest.mark.parametrize("kind", ["eps", "endless", "dos-eps", "wmf", "emf", "grib", "bufr", "hdf5"])
def test_an_opened_picture_that_would_run_a_program_is_refused(
    kind: str, wrap: Callable[[object], object], ran: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = Pillow.open(io.BytesIO(REFUSED[kind][0]))
    with pytest.raises(MediaError, match=r"call its load\(\) first"):
        wrap(picture)
    assert not ran.exists()


def test_an_iptc_file_with_postscript_inside_is_refused(ran: Path) -> None:
    def record(number: int, field: int, body: bytes) -> bytes:
        return bytes([0x1C, number, field]) + len(body).to_bytes(2, "big") + body

    data = (
        record(3, 60, b"\1\0") + record(3, 20, b"\0\x32") + record(3, 30, b"\0\x32") + record(3, 120, b"\0\5")
        + record(8, 10, EPS)
    )  # fmt: skip
    with pytest.raises(MediaError, match="not an image in a known format"):
        load_image(data)
    assert not ran.exists()


def test_a_decoded_picture_is_a_picture_whatever_it_was() -> None:
    out = io.BytesIO()
    Pillow.new("RGB", (5, 4), "red").save(out, "PCX")
    opened = Pillow.open(io.BytesIO(out.getvalue()))
    with pytest.raises(MediaError, match="PCX"):
        load_image(opened)
    opened.load()
    assert load_image(opened).getpixel((0, 0)) == (255, 0, 0)
    assert isinstance(opened, ImageFile.ImageFile)


def saved(name: str, picture: Pillow.Image) -> bytes:
    out = io.BytesIO()
    if name == "MPO":
        picture.save(out, "MPO", save_all=True, append_images=[picture])
    else:
        picture.save(out, name)
    return out.getvalue()


@pytest.mark.parametrize("name", [*FORMATS, *ALIASES])
def test_every_format_on_the_list_is_read(name: str) -> None:
    Pillow.init()
    picture = Pillow.new("RGB", (32, 16), (200, 40, 40))
    try:
        data = saved(name, picture)
    except (KeyError, OSError):
        if name == "PSD":
            data = psd(picture)
        else:
            pytest.skip(f"this Pillow cannot write {name}")
    loaded = load_image(data)
    assert loaded.size == ((32, 16) if name != "ICO" else loaded.size)
    assert np.abs(np.asarray(loaded, np.int32)[2, 2] - (200, 40, 40)).max() <= 12
    # An opened picture of a listed format may still be undecoded.
    assert load_image(Pillow.open(io.BytesIO(data))).size == loaded.size


def psd(picture: Pillow.Image) -> bytes:
    """A Photoshop file of one flat picture."""
    planes = b"".join(band.tobytes() for band in picture.split())
    head = b"8BPS\0\1" + bytes(6) + (3).to_bytes(2, "big") + picture.height.to_bytes(4, "big")
    return head + picture.width.to_bytes(4, "big") + b"\0\x08\0\3" + bytes(12) + b"\0\0" + planes


@pytest.mark.parametrize("name", ["PCX", "SGI", "DIB", "IM", "SPIDER", "XBM", "MSP", "ICNS"])
def test_a_format_off_the_list_is_refused(name: str) -> None:
    picture = Pillow.new("1" if name in ("XBM", "MSP") else "F" if name == "SPIDER" else "RGB", (16, 16))
    with pytest.raises(MediaError, match="not an image in a known format"):
        load_image(saved(name, picture))


@pytest.mark.slow
def test_the_command_says_it_in_one_sentence(tmp_path: Path, ran: Path) -> None:
    path = tmp_path / "logo.png"
    path.write_bytes(ENDLESS)
    command = [sys.executable, "-c", "from vita.cli import main; main()", "ask", "What is this?", "--image", str(path)]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == 2 and done.stdout == b""
    assert (
        done.stderr.decode()
        .strip()
        .endswith("logo.png: is a PostScript file, which is not read because it is a program; convert it to PNG.")
    )
    assert not ran.exists()

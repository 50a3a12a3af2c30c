"""Reads mutated media under limits of CPU time and memory: `fuzz_child.py FOLDER FIRST LAST`.

Prints the number of each case before it is read, and a line of JSON for every case that is neither an answer nor a
one-sentence error. The parent tells by the last number which case ended this process.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
import warnings
from pathlib import Path

CPU_SECONDS = 5
MEMORY = 500 << 20  # bytes a case may add
ADDRESS_SPACE = 2 << 30  # bytes beyond what the imports took; threads reserve far more than they touch
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutate(rng: random.Random, files: list[Path]) -> tuple[Path, bytes]:
    """One file of the folder with bits, bytes or numbers changed, cut, or spliced with another."""
    path = rng.choice(files)
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        place = rng.randrange(len(data)) if rng.random() < 0.6 else rng.randrange(min(len(data), 512))
        kind = rng.randrange(8)
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            for _ in range(rng.randrange(1, 30)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        elif kind == 2:
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(EXTREMES) & (1 << 8 * width) - 1
            data[place : place + width] = value.to_bytes(width, rng.choice(("big", "little")))
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            del data[place : place + rng.randrange(1, 300)]
        elif kind == 5:
            data[place:place] = data[place : place + rng.randrange(1, 3000)]
        elif kind == 6:
            other = rng.choice(files).read_bytes()
            data[place:] = other[rng.randrange(len(other)) :]
        else:
            data += rng.choice(files).read_bytes()
    return path, bytes(data)


def memory(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) << 10
    raise LookupError(field)


def main(folder: Path, first: int, last: int) -> None:
    from vita.errors import VitaError
    from vita.media.audio import load_audio
    from vita.media.image import load_image
    from vita.media.video import load_video
    from vita.types import Audio, MediaOptions, MediaPolicy, Video

    options = MediaOptions(policy=MediaPolicy(max_pixels=16_000_000))
    load = {
        "image": lambda data: load_image(data, options),
        "video": lambda data: load_video(Video(data), options),
        "audio": lambda data: load_audio(Audio(data), options),
    }
    files = sorted(folder.iterdir())
    for path in files:  # all libraries are loaded before the limits count
        load[path.name.split("-")[0]](path.read_bytes())
    resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + ADDRESS_SPACE, resource.RLIM_INFINITY))
    warnings.simplefilter("ignore")
    for number in range(first, last):
        path, data = mutate(random.Random(number), files)
        print(number, flush=True)
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory counts from here
        before, start = memory("VmRSS"), time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(start) + CPU_SECONDS + 2, resource.RLIM_INFINITY))
        fault = ""
        try:
            load[path.name.split("-")[0]](data)
        except VitaError as error:
            if "\n" in str(error):
                fault = f"more than one line: {error}"
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        grown = memory("VmHWM") - before
        if not fault and grown > MEMORY:
            fault = f"took {grown >> 20} MB"
        if not fault and time.process_time() - start > CPU_SECONDS:
            fault = f"took {time.process_time() - start:.1f} s"
        if fault:
            print(json.dumps({"case": number, "file": path.name, "fault": fault}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

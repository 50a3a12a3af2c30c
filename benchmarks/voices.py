"""First audio and real-time factor of the installed voices.

python benchmarks/voices.py
"""

from __future__ import annotations

import statistics
import time

from vita.speech.stream import SpeechStream
from vita.speech.voice import available_voices

TEXT = (
    "The train to the north leaves at 10:30, and it arrives in the evening. She bought three apples and two loaves of "
    "bread. On March 15, 2024, the old bridge was opened again. It costs $12.50 to enter the museum."
)
REPEATS = 5


def main() -> None:
    print("voice    load    first audio    real-time factor    audio")
    for voice in available_voices():
        start = time.perf_counter()
        voice.open(language=voice.languages[0], speed=1.0, seed=None)
        load = time.perf_counter() - start
        firsts, factors = [], []
        for _ in range(REPEATS):
            stream = SpeechStream(lambda language, voice=voice: voice)  # type: ignore[misc]
            stream.feed(TEXT)
            stream.finish()
            for _ in stream:
                pass
            firsts.append(stream.metrics.first_audio)
            factors.append(stream.metrics.real_time_factor)
        print(
            f"{voice.name:8} {load:.2f} s  {statistics.median(firsts):.3f} s        "
            f"{statistics.median(factors):.3f}               {stream.metrics.audio:.1f} s"
        )


if __name__ == "__main__":
    main()

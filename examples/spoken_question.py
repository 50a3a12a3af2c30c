"""Ask by voice: the question is in the audio, so there is no typed one."""

from pathlib import Path

import vita

QUESTION = Path("assets/what_can_you_do.flac")

with vita.load() as model:
    result = model.ask(audio=QUESTION)
    print(f"{result.text} (a {result.state} question of {result.usage.audio_seconds:.1f} s)")

    # The bytes of an upload work the same; samples of a microphone are vita.Audio(array, sample_rate=16000).
    print(model.ask(audio=QUESTION.read_bytes()).text == result.text)

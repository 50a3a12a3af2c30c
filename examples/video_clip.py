"""Ask about a video: the whole clip, then its first two seconds, of which four frames a second are looked at."""

import vita

with vita.load() as model:
    print(model.ask("Describe the video.", video="assets/moving.mp4").text)

    start = vita.Video("assets/moving.mp4", fps=4, end=2.0)
    result = model.ask("Describe the video.", video=start)
    print(f"{result.text} ({result.usage.images} frames)")

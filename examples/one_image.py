"""Ask about one image. Run it from the repository's folder: `python examples/one_image.py`."""

import vita

with vita.load() as model:  # the embedded model; vita.load("VITA-MLLM/VITA-1.5") loads the released one
    result = model.ask("What does the logo say?", image="assets/vita_logo.png")
    print(result.text)
    print(f"{result.usage.image_tokens} image tokens, {result.timings.total:.2f} s")

"""Ask about several images at once: files, PIL images and NumPy arrays may be mixed.

The embedded model was trained on one image a question and describes two as one; the released model tells them apart.
"""

from PIL import Image

import vita

square = Image.new("RGB", (300, 300), (245, 245, 240))
square.paste((30, 70, 200), (80, 80, 220, 220))

with vita.load() as model:
    result = model.ask("What is in the images?", images=["assets/vita_logo.png", square])
    print(result.text)
    print(f"{result.usage.images} images")

"""Made-up images of several shapes, gray and in colour, JPEG and PNG, for oracles of model folders."""

import numpy as np
from PIL import Image

SIZES = [(50, 37), (32, 32), (20, 71), (301, 200), (5, 9), (33, 64), (97, 31)]


def write_images(out, rng, sizes=SIZES):
    """Writes them into a folder and gives their names."""
    names = []
    for index, (width, height) in enumerate(sizes):
        pixels = np.linspace(0, 200, width)[None, :, None] + rng.integers(0, 56, (height, width, 3))
        image = Image.fromarray(pixels.astype(np.uint8))
        if index == 1:
            image = image.convert("L")
        name = f"{index}.png" if index % 2 else f"{index}.jpg"
        image.save(out / name)
        names.append(name)
    return names

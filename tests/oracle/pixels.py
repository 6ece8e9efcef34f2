"""Writes images of every kind, and the pixels that transformers over Pillow makes of them.

python pixels.py OUT [CORPUS...]. CORPUS: folders of other people's images. Seeded: the same files
every time. tests/pixels.rs compares. The image writers are in pixels_files.py, because Pillow
reads much that it does not write.
"""

import io
import json
import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import pixels_files as files

OUT = Path(sys.argv[1])
SAMPLE = Path(__file__).parents[2] / "sample_data"

CONFIGS = {
    "clip": {},
    "sample": json.loads((SAMPLE / "model/preprocessor_config.json").read_text()),
    "squash": {"size": {"height": 40, "width": 56}, "do_center_crop": False, "resample": 3},
    "bilinear": {"size": 37, "crop_size": 33, "resample": 2},
    "lanczos": {"size": {"shortest_edge": 31}, "crop_size": {"height": 31, "width": 24}, "resample": 1},
    "nearest": {"size": 29, "crop_size": 29, "resample": 0},
    "padded": {"size": 32, "crop_size": {"height": 51, "width": 44}, "resample": 5},
    "unsized": {"do_resize": False, "crop_size": {"height": 60, "width": 47}},
    "exif": {"size": {"height": 30, "width": 20}, "do_center_crop": False},
}


def expected(path, name, processor):
    with Image.open(path) as image:
        if name == "exif":
            image = ImageOps.exif_transpose(image)
        batch = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="np")
    pixels = batch["pixel_values"][0]
    assert pixels.dtype == np.uint8, pixels.dtype
    return pixels.transpose(1, 2, 0).tobytes()


def damage(made):
    """Files cut off and files with a byte changed, from one of each kind but TIFF's many."""
    rng = random.Random(5)
    by_kind = {}
    for kind, suffix, data in made:
        if suffix != ".tif" or rng.random() < 0.1:
            by_kind.setdefault(kind, (suffix, data))
    for kind, (suffix, data) in sorted(by_kind.items()):
        for part in (0.05, 0.3, 0.6, 0.95):
            yield f"cut-{kind}", suffix, data[: int(len(data) * part)]
        yield f"cut-{kind}", suffix, data[:-2]
        for _ in range(3):
            at = rng.randrange(len(data) // 3, len(data))
            yield f"flip-{kind}", suffix, data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def corpus(folder):
    """Images made by others. Most of the hostile ones are alike."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    hostile = [path for path in paths if "fuzz" in path.parts or "fuzz-afl" in path.parts]
    for path in sorted(set(paths) - set(hostile[::2])):
        if path.stat().st_size < 300_000:
            yield "corpus-" + path.relative_to(folder).parts[0], path.suffix, path.read_bytes()


def resizes():
    """Image.resize itself, every filter, sizes up and down."""
    rng = np.random.default_rng(7)
    index, data = [], io.BytesIO()
    sizes = [(1, 1), (1, 7), (5, 1), (3, 2), (17, 31), (64, 48), (100, 75), (500, 375), (7, 300), (333, 9)]
    targets = [(1, 1), (2, 3), (16, 16), (17, 31), (48, 64), (224, 224), (299, 224), (7, 90)]
    for source in sizes:
        image = Image.fromarray(rng.integers(0, 256, (source[1], source[0], 3), dtype=np.uint8))
        for to in targets:
            for number in range(6):
                index.append([*source, *to, number, data.tell()])
                data.write(image.tobytes())
                data.write(image.resize(to, number).tobytes())
    (OUT / "resize.json").write_text(json.dumps(index))
    (OUT / "resize.bin").write_bytes(data.getvalue())


def main():
    (OUT / "images").mkdir()
    made = list(files.every_kind())
    made += [("sample-" + path.suffix[1:], path.suffix, path.read_bytes())
             for path in sorted((SAMPLE / "images").glob("*"))[:60]]
    made += list(damage(made))
    for folder in sys.argv[2:]:
        made += corpus(Path(folder))
    names = []
    for number, (kind, suffix, data) in enumerate(made):
        name = f"{number:04}-{kind}{suffix}"
        (OUT / "images" / name).write_bytes(data)
        names.append((kind, name))
    index = []
    for config, keys in CONFIGS.items():
        folder = OUT / "configs" / config
        folder.mkdir(parents=True)
        (folder / "preprocessor_config.json").write_text(json.dumps(keys))
        processor = CLIPImageProcessorPil(**keys)
        with open(folder / "expected.bin", "wb") as out:
            for number, (kind, name) in enumerate(names):
                odd = kind.startswith(("cut-", "flip-", "corpus-"))
                # The default for all, EXIF for what is whole; the rest share the whole files out.
                if config != "clip" and (odd or config != "exif" and number % 2):
                    continue
                try:
                    pixels = expected(OUT / "images" / name, config, processor)
                    index.append([config, kind, name, "ok", out.tell()])
                    out.write(pixels)
                except Exception as error:
                    index.append([config, kind, name, f"{type(error).__name__}: {error}", 0])
    (OUT / "index.json").write_text(json.dumps(index))
    resizes()


main()

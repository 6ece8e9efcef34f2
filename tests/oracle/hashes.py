"""Compares a run's image_sha256 and image_phash with hashlib and ImageHash.

    hashes.py make DIR        writes images of many modes and shapes, and a table of them
    hashes.py check OUT ROOT  compares; fails with the first difference
"""

import hashlib
import sys
from pathlib import Path

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.fftpack
from PIL import Image
from transformers.image_transforms import convert_to_rgb



def make(root):
    rng = np.random.default_rng(4)
    names = []
    sizes = [(1, 1), (31, 33), (32, 32), (7, 300), (640, 111), (225, 224), (500, 375)]
    kinds = [("RGB", "png"), ("RGB", "jpg"), ("L", "jpg"), ("L", "png"), ("CMYK", "jpg"),
             ("P", "gif"), ("1", "png"), ("RGBA", "png"), ("LA", "png"), ("RGB", "webp"),
             ("RGB", "bmp"), ("RGB", "tiff")]
    for width, height in sizes:
        # Soft shapes, as photos have, and noise.
        coarse = rng.integers(0, 256, size=(5, 5, 4), dtype=np.uint8)
        soft = Image.fromarray(coarse, "RGBA").resize((width, height), Image.Resampling.BICUBIC)
        noise = rng.integers(0, 256, size=(height, width, 4), dtype=np.uint8)
        for look, image in [("soft", soft), ("noise", Image.fromarray(noise, "RGBA"))]:
            for mode, kind in kinds:
                name = f"{look}-{mode}-{width}x{height}.{kind}"
                image.convert("RGB").convert(mode).save(root / name) if mode in ("CMYK", "P") \
                    else image.convert(mode).save(root / name)
                names.append(name)
    pq.write_table(pa.table({"image_path": names, "caption": names}), root / "table.parquet")


def is_above(image):
    """The hash's bits as ImageHash computes them; NaN where rounding decides."""
    pixels = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS))
    low = scipy.fftpack.dct(scipy.fftpack.dct(pixels, axis=0), axis=1)[:8, :8]
    median = np.median(low)
    return np.where(np.abs(low - median) < 2e-6, np.nan, low > median).flatten()


def on_white(image):
    """As transformers' CLIPImageProcessor makes RGB of it."""
    return convert_to_rgb(image)


def check(out, root):
    seen, equal, opaque = set(), 0, 0
    parts = sorted(map(str, out.glob("part-*.parquet")))
    for row in pq.read_table(parts, columns=["image_path", "status", "image_sha256",
                                             "image_phash"]).to_pylist():
        path = root / row["image_path"] if row["image_path"] else None
        if path is None or not path.is_file() or path.stat().st_size == 0:
            assert row["image_sha256"] is None and row["image_phash"] is None, row
            continue
        assert row["image_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest(), row
        if row["status"].startswith("image_"):
            assert row["image_phash"] is None, row
            continue
        if path in seen:
            continue
        seen.add(path)
        image = Image.open(path)
        image.load()
        rgb = on_white(image)
        reference = int(str(imagehash.phash(rgb)), 16)
        equal += reference == row["image_phash"]
        ours = np.array([int(bit) for bit in f"{row['image_phash']:064b}"])
        theirs = is_above(rgb)
        sure = ~np.isnan(theirs)
        assert (ours[sure] == theirs[sure]).all(), (row, f"{reference:016x}")
        assert (ours[~sure] == 0).all(), row
        if image.mode in ("RGB", "L"):
            opaque += 1
            assert int(str(imagehash.phash(image)), 16) == row["image_phash"] or not sure.all(), row
    print(f"{len(seen)} images, {equal} with all bits of ImageHash, {opaque} opaque")
    assert len(seen) > 100 and equal >= 0.9 * len(seen), (equal, len(seen))


command, *paths = sys.argv[1:]
{"make": make, "check": check}[command](*map(Path, paths))

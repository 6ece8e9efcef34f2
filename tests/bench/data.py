"""What the benches read: photos of web size, their captions in a table, and a ViT-B/32.

The photos are crops of those that scikit-image and scikit-learn ship, mirrored, toned and scaled
by a seeded generator, so that every image is another one. The weights are random: speed does not
depend on them. Nothing is measured here.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "bench"
MODEL = WORK / "model"
SAMPLE = ROOT / "sample_data" / "model"
SHARES = {"baseline": 0.86, "full chroma": 0.06, "progressive": 0.05, "gray": 0.03}
WORDS = "red green small apple moon cactus tower sailing on a hill near the old city at night".split()


def photos():
    """The packages' colour photographs, as RGB images."""
    import skimage
    import sklearn
    from PIL import Image

    skimage_dir = Path(skimage.__file__).parent / "data"
    sklearn_dir = Path(sklearn.__file__).parent / "datasets" / "images"
    names = ["astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg",
             "motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "rocket.jpg"]
    paths = [skimage_dir / name for name in names]
    paths += [sklearn_dir / name for name in ["china.jpg", "flower.jpg"]]
    return [Image.open(path).convert("RGB") for path in paths]


def make_photo(rng, originals, path):
    """One JPEG; returns its number of pixels. Areas are log-normal around 0.2 megapixels."""
    from PIL import Image, ImageEnhance

    photo = originals[rng.integers(len(originals))]
    area = float(np.clip(rng.lognormal(np.log(0.2e6), 0.5), 0.05e6, 0.9e6))
    aspect = float(rng.choice([4 / 3, 3 / 2, 1.0, 3 / 4, 2 / 3, 16 / 9]))
    size = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
    share = rng.uniform(0.6, 1.0) * min(photo.width / size[0], photo.height / size[1])
    crop = size[0] * share, size[1] * share
    left = rng.uniform(0, photo.width - crop[0])
    top = rng.uniform(0, photo.height - crop[1])
    box = (left, top, left + crop[0], top + crop[1])
    image = photo.resize(size, Image.LANCZOS, box=box)
    if rng.random() < 0.5:
        image = image.transpose(Image.FLIP_LEFT_RIGHT)
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.7, 1.2))
    # Upscaled crops are smoother than photos are: a little grain makes up for it.
    grain = rng.normal(0, rng.uniform(1, 4), (size[1], size[0], 1))
    image = Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
    kind = rng.choice(list(SHARES), p=list(SHARES.values()))
    image = image.convert("L") if kind == "gray" else image
    image.save(path, quality=int(rng.integers(75, 94)), progressive=kind == "progressive",
               subsampling=0 if kind == "full chroma" else 2)
    return size[0] * size[1]


def make_captions(rng, n):
    """Captions whose lengths spread as those of the web do: most short, some long."""
    lengths = np.clip(rng.lognormal(np.log(9.5), 0.5, n), 2, 60).astype(int)
    return [" ".join(rng.choice(WORDS, length)) for length in lengths]


def make_data(rows):
    """The folder of `rows` photos and their table, made once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = WORK / f"photos-{rows}"
    if (data / "table.parquet").exists():
        return data
    rng = np.random.default_rng(7)
    (data / "images").mkdir(parents=True, exist_ok=True)
    names = [f"images/{i:05}.jpg" for i in range(rows)]
    originals = photos()
    pixels = [make_photo(rng, originals, data / name) for name in names]
    size = sum((data / name).stat().st_size for name in names)
    table = {"id": range(rows), "image_path": names, "caption": make_captions(rng, rows)}
    about = {"megapixels": np.mean(pixels) / 1e6, "kilobytes": size / rows / 1e3}
    (data / "about.json").write_text(json.dumps(about))
    pq.write_table(pa.table(table), data / "table.parquet")
    return data


def make_model():
    """A `CLIPModel` folder of ViT-B/32's shape with random weights and the sample's tokenizer."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    if (MODEL / "config.json").exists():
        return
    torch.manual_seed(7)
    config = CLIPConfig()
    config.text_config.eos_token_id = 3071
    CLIPModel(config).save_pretrained(MODEL)
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]:
        shutil.copy(SAMPLE / name, MODEL)
    sample = json.loads((SAMPLE / "preprocessor_config.json").read_text())
    sample |= {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    (MODEL / "preprocessor_config.json").write_text(json.dumps(sample))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    WORK.mkdir(parents=True, exist_ok=True)
    make_model()
    folder = make_data(512)
    print(folder, (folder / "about.json").read_text())

"""End-to-end speed of clipmill and of transformers behind a DataLoader, in one run.

Both read the same Parquet table, decode the same photo-sized JPEGs, run the same ViT-B/32 and
write embeddings and similarity; they alternate, and what counts is the ratio within a round,
because machines drift. `make bench` builds first. The second peer is clipmill without the model:
how fast rows are read, decoded, tokenized and written.

Options: --rows N --rounds N --precisions f32,bf16
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "bench"
CLIPMILL = ROOT / "target" / "release" / "clipmill"
WORDS = "red green small apple moon cactus tower sailing on a hill near the old city at night".split()


def make_photo(rng, path):
    """A JPEG of web size: smooth shapes, edges and grain, 0.235 megapixels on average."""
    from PIL import Image

    width, height = int(rng.integers(420, 721)), int(rng.integers(300, 541))
    small = rng.normal(128, 60, (int(rng.integers(6, 24)), int(rng.integers(6, 24)), 3))
    image = Image.fromarray(np.clip(small, 0, 255).astype(np.uint8))
    pixels = np.asarray(image.resize((width, height), Image.BICUBIC)).astype(np.int16)
    pixels = pixels + rng.normal(0, 9, pixels.shape).astype(np.int16)
    for _ in range(12):
        x, y = rng.integers(0, width - 40), rng.integers(0, height - 40)
        pixels[y:y + rng.integers(20, 200), x:x + rng.integers(20, 200)] += rng.integers(-60, 60, 3)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    image.save(path, quality=int(rng.integers(75, 93)))
    return width * height


def make_data(rows):
    """The table, the photos and a ViT-B/32 of random weights with the sample's tokenizer."""
    data = WORK / f"data-{rows}"
    if (data / "table.parquet").exists():
        return data
    rng = np.random.default_rng(7)
    (data / "images").mkdir(parents=True, exist_ok=True)
    names = [f"images/{i:05}.jpg" for i in range(rows)]
    pixels = [make_photo(rng, data / name) for name in names]
    captions = [" ".join(rng.choice(WORDS, int(rng.integers(6, 20)))) for _ in names]
    table = pa.table({"id": range(rows), "image_path": names, "caption": captions})
    size = sum((data / name).stat().st_size for name in names)
    print(f"{rows} photos, {np.mean(pixels) / 1e6:.3f} megapixels and {size / rows / 1e3:.0f} kB "
          "on average")
    make_model(WORK / "model")
    pq.write_table(table, data / "table.parquet")
    return data


def make_model(folder):
    import torch
    from transformers import CLIPConfig, CLIPModel

    if (folder / "config.json").exists():
        return
    torch.manual_seed(7)
    config = CLIPConfig()
    config.text_config.eos_token_id = 3071
    CLIPModel(config).save_pretrained(folder)
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]:
        shutil.copy(ROOT / "sample_data" / "model" / name, folder)
    sample = json.loads((ROOT / "sample_data" / "model" / "preprocessor_config.json").read_text())
    sample |= {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    (folder / "preprocessor_config.json").write_text(json.dumps(sample))


def pipeline(data, columns, precision):
    text = f"""version = 1
[source.parquet]
path = "{data}/table.parquet"
image = "image_path"
caption = "caption"
[image.path]
root = "{data}"
[model.clip]
dir = "{WORK}/model"
precision = "{precision}"
[columns]
{columns}
[sink.parquet]
path = "{WORK}/out"
"""
    path = WORK / "bench.toml"
    path.write_text(text)
    return path


ALL = 'image_embedding = "image_embedding"\ntext_embedding = "text_embedding"\nscore = "cosine"'
FEED = 'width = "image_width"\ntokens = "caption_tokens"'


def run_clipmill(data, columns, precision):
    """Seconds of the whole process, and its report."""
    shutil.rmtree(WORK / "out", ignore_errors=True)
    command = [CLIPMILL, "run", pipeline(data, columns, precision), "--quiet"]
    started = time.perf_counter()
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - started
    return seconds, json.loads((WORK / "out" / "run_report.json").read_text())


class Rows:
    """Rows as a torch DataLoader wants them."""

    def __init__(self, data, table):
        from transformers import CLIPImageProcessorPil

        self.data, self.paths = data, table["image_path"].to_pylist()
        self.processor = CLIPImageProcessorPil.from_pretrained(WORK / "model")

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        from PIL import Image

        image = Image.open(self.data / self.paths[index])
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]


def run_transformers(data, precision):
    """The script that people write, in this process and with the model already loaded. Returns
    the seconds from reading the table to the written file."""
    import torch

    model, tokenizer = loaded(precision)
    started = time.perf_counter()
    table = pq.read_table(data / "table.parquet")
    captions = table["caption"].to_pylist()
    loader = torch.utils.data.DataLoader(Rows(data, table), batch_size=64, num_workers=2)
    columns = {"image_embedding": [], "text_embedding": [], "score": []}
    with torch.inference_mode():
        for index, pixels in enumerate(loader):
            batch = captions[index * 64:(index + 1) * 64]
            ids = tokenizer(batch, truncation=True, max_length=77, padding=True,
                            return_tensors="pt")
            image = model.get_image_features(pixel_values=pixels.to(model.dtype)).pooler_output
            text = model.get_text_features(**ids).pooler_output
            image, text = [torch.nn.functional.normalize(x.float(), dim=-1) for x in (image, text)]
            columns["image_embedding"].extend(image.numpy())
            columns["text_embedding"].extend(text.numpy())
            columns["score"].extend((image * text).sum(-1).tolist())
    for name, values in columns.items():
        table = table.append_column(name, pa.array(list(values)))
    pq.write_table(table, WORK / "transformers.parquet")
    return time.perf_counter() - started


MODELS = {}


def loaded(precision):
    import torch
    from transformers import AutoTokenizer, CLIPModel

    if precision not in MODELS:
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
        model = CLIPModel.from_pretrained(WORK / "model", dtype=dtype).eval()
        MODELS[precision] = model, AutoTokenizer.from_pretrained(WORK / "model")
    return MODELS[precision]


def compare(args, data, precision):
    ratios, ours, theirs, report = [], [], [], None
    for _ in range(args.rounds):
        seconds, report = run_clipmill(data, ALL, precision)
        ours.append(args.rows / seconds)
        theirs.append(args.rows / run_transformers(data, precision))
        ratios.append(ours[-1] / theirs[-1])
    stages = {s["stage"]: s["rows_per_second"] for s in report["this_run"]["stages"]}
    middle = statistics.median
    print(f"| end to end, {precision} | {middle(ours):.1f} | {middle(theirs):.1f} "
          f"| {middle(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} "
          f"| encode alone {stages['encode']:.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", default="f32,bf16")
    args = parser.parse_args()
    if not CLIPMILL.exists():
        sys.exit(f"{CLIPMILL} is not there: run `make bench`")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    WORK.mkdir(parents=True, exist_ok=True)
    data = make_data(args.rows)
    print(f"\n{args.rows} rows, {len(os.sched_getaffinity(0))} cores, ViT-B/32, whole process "
          "against a loaded model\n")
    print("| what | clipmill rows/s | transformers rows/s | ratio, median | ratios | |")
    print("|---|---|---|---|---|---|")
    for precision in args.precisions.split(","):
        compare(args, data, precision)
    feed = [args.rows / run_clipmill(data, FEED, "f32")[1]["this_run"]["seconds"]
            for _ in range(args.rounds)]
    print(f"| read, decode, tokenize, write, no model | {statistics.median(feed):.0f} | | | | |")


if __name__ == "__main__":
    main()

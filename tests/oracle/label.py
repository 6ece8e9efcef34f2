"""Zero-shot classes by transformers, to hold `clipmill label`'s columns against.

Usage: label.py LABELLED LABELS TEMPLATES NAME TOP

LABELLED is the output for the sample's run, LABELS and TEMPLATES text files of one a line. Prints
the share of rows whose group, or else whose name, is among the first TOP labels, clipmill's and
transformers', where the labels are the sample's groups or its names.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizerFast

out, labels, templates, name, top = sys.argv[1:]
out, top = Path(out), int(top)
labels, templates = [[line for line in Path(path).read_text().splitlines() if line.strip()]
                     for path in (labels, templates)]
root = Path(__file__).resolve().parents[2] / "sample_data"
model = CLIPModel.from_pretrained(root / "model", dtype=torch.float32).eval()
tokenizer = CLIPTokenizerFast.from_pretrained(root / "model")
processor = CLIPImageProcessorPil.from_pretrained(root / "model")


def normalised(tensor):
    return tensor / tensor.norm(dim=-1, keepdim=True)


@torch.no_grad()
def class_vector(label):
    texts = [template.replace("{}", label) for template in templates]
    ids = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    return normalised(normalised(model.get_text_features(**ids).pooler_output).mean(dim=0))


@torch.no_grad()
def image_vector(path):
    pixels = processor(Image.open(path), return_tensors="pt")["pixel_values"]
    return normalised(model.get_image_features(pixels).pooler_output[0])


table = pa.concat_tables([pq.read_table(part) for part in sorted(out.glob("part-*.parquet"))])
rows = table.to_pylist()
classes = torch.stack([class_vector(label) for label in labels])
truth = {row["id"]: [row["group"].replace("-", " and "), row["shown"]]
         for row in csv.DictReader(open(root / "truth.csv"))}
ours = theirs = scored = 0
for row in rows:
    names = [name, f"{name}_probability", f"{name}s", f"{name}_probabilities"]
    found = [row.get(column) for column in names]
    # A row whose caption alone is bad has an image.
    if row["status"].startswith(("image", "decoder")):
        assert found == [None] * 4, (row["id"], found)
        continue
    cosines = classes @ image_vector(root / row["image_path"])
    wanted = torch.softmax(model.logit_scale.exp().detach() * cosines, dim=0).numpy()
    order = np.argsort(-wanted, kind="stable")
    n = min(top, len(labels))
    assert abs(found[1] - wanted[order[0]]) <= 1e-3, (found, wanted)
    # The same class, unless two are as likely as each other.
    of_found = wanted[labels.index(found[0])]
    assert found[0] == labels[order[0]] or wanted[order[0]] - of_found < 1e-5, (found, wanted)
    if n > 1:
        assert found[2][0] == found[0] and len(found[2]) == len(found[3]) == n
        assert abs(found[3][0] - found[1]) == 0
        for label, probability in zip(found[2], found[3]):
            assert abs(probability - wanted[labels.index(label)]) <= 1e-3, (label, found)
        assert found[3] == sorted(found[3], reverse=True)
        assert abs(min(wanted[labels.index(label)] for label in found[2])
                   - wanted[order[n - 1]]) < 1e-3
        kept = found[2]
    else:
        assert found[2] is None and found[3] is None
        kept = [found[0]]
    right = next((word for word in truth[row["id"]] if word in labels), None)
    if right is not None:
        scored += 1
        ours += right in kept
        theirs += right in [labels[index] for index in order[:n]]
if scored:
    print(f"{ours / scored:.4f} {theirs / scored:.4f} {scored}")

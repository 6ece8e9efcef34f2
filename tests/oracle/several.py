"""A second model beside the sample's, and a run of both held against transformers.

Usage: several.py make DIR SAMPLE_MODEL SIDE [plain]
           a random CLIPModel with the sample's tokenizer that takes images of SIDE pixels; with
           "plain", normalised by 0.5 instead of CLIP's numbers
       several.py check OUT IMAGE_ROOT NAME=MODEL...
           the columns NAME_image, NAME_text and NAME_score of OUT are those of each model
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

TOKENIZER = ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
             "special_tokens_map.json"]


def make(out, sample, side, *how):
    sample_config = json.loads((sample / "config.json").read_text())
    text = dict(sample_config["text_config"], hidden_size=40, intermediate_size=80,
                num_hidden_layers=2, num_attention_heads=4)
    vision = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2,
                  num_attention_heads=4, image_size=side, patch_size=8)
    torch.manual_seed(side)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    for name, weight in model.named_parameters():
        if name != "logit_scale" and weight.dim() > 1:
            weight.data = torch.randn(weight.shape) * weight.shape[-1] ** -0.5
    model.save_pretrained(out)
    for name in TOKENIZER:
        shutil.copyfile(sample / name, out / name)
    processor = json.loads((sample / "preprocessor_config.json").read_text())
    processor |= dict(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    if how:
        processor |= dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    (out / "preprocessor_config.json").write_text(json.dumps(processor))


def unit(x):
    x = getattr(x, "pooler_output", x)
    return (x / x.norm(dim=-1, keepdim=True)).numpy()


def check(out, root, *models):
    parts = sorted(Path(out).glob("part-*.parquet"))
    table = pa.concat_tables([pq.read_table(part) for part in parts])
    rows = table.filter(pa.compute.equal(table["status"], "ok"))
    assert rows.num_rows > 20
    images = [Image.open(Path(root) / path) for path in rows["image_path"].to_pylist()]
    captions = rows["caption"].to_pylist()
    for name, folder in (model.split("=", 1) for model in models):
        model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        processor = CLIPImageProcessorPil.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        context = model.config.text_config.max_position_embeddings
        with torch.no_grad():
            pixels = processor(images, return_tensors="pt")["pixel_values"]
            ids = tokenizer(captions, padding="max_length", truncation=True, max_length=context,
                            return_tensors="pt")
            image = unit(model.get_image_features(pixel_values=pixels))
            text = unit(model.get_text_features(**ids))
        found = {kind: np.stack(rows[f"{name}_{kind}"].to_numpy(zero_copy_only=False))
                 for kind in ["image", "text"]}
        worst = max(np.abs(found["image"] - image).max(), np.abs(found["text"] - text).max(),
                    np.abs(rows[f"{name}_score"].to_numpy() - (image * text).sum(1)).max())
        assert worst < 1e-5, (name, worst)
        print(name, "differs by at most", worst)
    said = json.loads(pq.read_metadata(parts[0]).metadata[b"clipmill.models"])
    assert list(said) == [model.split("=")[0] for model in models], said
    for name, about in said.items():
        assert about["columns"] == [f"{name}_{kind}" for kind in ["image", "text", "score"]], about
        assert len(about["weights_sha256"]) == 64 and about["preprocessing"], about


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "make":
        make(Path(arguments[0]), Path(arguments[1]), int(arguments[2]), *arguments[3:])
    else:
        check(*arguments)

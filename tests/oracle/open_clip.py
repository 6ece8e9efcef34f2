"""Makes random OpenCLIP folders and what open_clip computes with them, for tests/open_clip.rs.

Usage: open_clip.py OUT_DIR

Each folder of CASES is as open_clip's `push_to_hf_hub` writes one, with CLIP's own vocabulary as
vocab.json and merges.txt beside it, and `case.json` (captions with ids, names of images),
`pixels.u8` (NHWC), `image.f32` and `text.f32` (unit length), computed in f32 on the CPU by
`open_clip.create_model_and_transforms("local-dir:...")` and `open_clip.get_tokenizer`.
"""

import gzip
import json
import random
import sys
import unicodedata
from pathlib import Path

import ftfy
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

# This script has the package's name.
sys.path.append(sys.path.pop(0))
import open_clip  # noqa: E402
from open_clip.tokenizer import default_bpe  # noqa: E402

from pictures import write_images  # noqa: E402
from tokens import made  # noqa: E402

VISION = dict(image_size=32, layers=3, width=48, head_width=12, patch_size=8)
TEXT = dict(context_length=77, vocab_size=49408, width=32, heads=4, layers=3)

# NAME -> model_cfg beside the towers, vision_cfg, text_cfg, preprocess_cfg
CASES = {
    "quick_gelu": (dict(quick_gelu=True), {}, {}, dict(interpolation="bicubic", resize_mode="shortest")),
    "custom_text": (dict(custom_text=True, init_logit_bias=-10.0, nonscalar_logit_scale=True),
                    dict(mlp_ratio=2.5, no_ln_pre=True, norm_kwargs=dict(eps=1e-6)),
                    dict(proj_bias=True, act_kwargs=dict(approximate="tanh"), pool_type="eos", eos_id=49407,
                         tokenizer_kwargs=dict(clean="canonicalize")),
                    dict(mean=[0.5] * 3, std=[0.25] * 3, interpolation="bilinear", resize_mode="squash")),
    "longest": ({}, dict(image_size=30, patch_size=7), dict(context_length=20), dict(resize_mode="longest")),
}


def write_vocabulary(out):
    tokenizer = open_clip.SimpleTokenizer()
    vocab = dict(tokenizer.encoder)
    vocab["<|startoftext|>"] = vocab.pop("<start_of_text>")
    vocab["<|endoftext|>"] = vocab.pop("<end_of_text>")
    (out / "vocab.json").write_text(json.dumps(vocab))
    lines = gzip.open(default_bpe()).read().decode("utf-8").split("\n")[1:49152 - 256 - 2 + 1]
    (out / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n", encoding="utf-8")


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if name in ("logit_scale", "logit_bias"):
            continue
        values = torch.randn(weight.shape, generator=generator)
        if ".ln_" in f".{name}" and name.endswith("weight"):
            weight.data = 1 + 0.2 * values
        elif name.endswith("bias"):
            weight.data = 0.3 * values
        elif "embedding" in name:
            weight.data = 0.5 * values
        elif name.endswith("proj") or name.endswith("text_projection"):
            weight.data = values * (1.4 / weight.shape[0] ** 0.5)
        else:
            weight.data = values * (1.4 / weight[0].numel() ** 0.5)


@torch.no_grad()
def make(out, name, seed):
    extra, vision, text, preprocess = CASES[name]
    model_cfg = dict(embed_dim=24, vision_cfg=VISION | vision, text_cfg=TEXT | text, **extra)
    out.mkdir(parents=True)
    (out / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=model_cfg, preprocess_cfg=preprocess)))
    write_vocabulary(out)
    cls = open_clip.CustomTextCLIP if extra.get("custom_text") else open_clip.CLIP
    built = cls(**{key: value for key, value in model_cfg.items() if key != "custom_text"})
    randomise(built, seed)
    weights = "open_clip_pytorch_model.safetensors" if name == "longest" else "open_clip_model.safetensors"
    save_file({key: value.contiguous() for key, value in built.state_dict().items()}, out / weights)

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{out}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{out}")
    rng = np.random.default_rng(seed)
    images = write_images(out, rng)
    opened = [Image.open(out / each) for each in images]
    # All steps but the last two: `ToTensor` and `Normalize`.
    def pixels(image):
        for step in transform.transforms[:-2]:
            image = step(image)
        return np.asarray(image)
    np.stack([pixels(image) for image in opened]).astype(np.uint8).tofile(out / "pixels.u8")
    image = model.encode_image(torch.stack([transform(image) for image in opened]), normalize=True)

    captions = [c for c in made(random.Random(seed)) if not mended(c)]
    captions += ["a &amp; b &lt;tag&gt; &#39;x&#39;", "“ﬁne” ’tis", "A\x1b[31mB", "Ｗｉｄｅ　text", "<b>&eacute;</b>"]
    captions = list(dict.fromkeys(captions))
    ids, whole = [], []
    for caption in captions:
        words = tokenizer.encode(caption)
        row = tokenizer([caption])[0].tolist()
        ids.append(row[:min(len(words) + 2, len(row))])
        whole.append(len(words) + 2)
    padded = tokenizer(captions)
    features = model.encode_text(padded, normalize=True)
    for key, tensor in (("image", image), ("text", features)):
        tensor.numpy().astype("<f4").tofile(out / f"{key}.f32")
    written = [dict(caption=c, ids=i, all=n) for c, i, n in zip(captions, ids, whole)]
    bias = None if model.logit_bias is None else model.logit_bias.item()
    case = dict(captions=written, images=images, logit_scale=model.logit_scale.exp().item(), logit_bias=bias)
    (out / "case.json").write_text(json.dumps(case))


def mended(caption):
    """What ftfy takes for wrongly decoded, and control tokens, which are text for us. And U+0345, a mark that the
    tokenizer's pattern takes for a letter and for none, as it ignores case, and drops. And what is a letter in one
    version of Unicode only."""
    if any(unicodedata.category(c) == "Cn" for c in caption):
        return True
    others = ["<start_of_text>", "<end_of_text>", "\u0345"]
    return ftfy.fix_encoding(caption) != caption or any(other in caption.lower() for other in others)


def main():
    for seed, name in enumerate(CASES):
        make(Path(sys.argv[1]) / name, name, seed)


if __name__ == "__main__":
    main()

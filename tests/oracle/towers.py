"""Makes random CLIPModel folders and what transformers computes with them, for tests/towers.rs.

Usage: towers.py OUT_DIR NAME... with a name of CASES or a model folder

Each case is a folder `OUT_DIR/NAME` with the model as `save_pretrained` writes it (its layout or
type changed where the case is about that) and, computed in f32 on the CPU, `case.json` (token ids
and sizes), `pixels.u8` (NHWC), `image.f32`, `text.f32` (unit length) and `similarity.f32`.
Weights are not expected values: only what is computed with them is.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


def config(text=None, vision=None, projection_dim=192):
    text = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
                vocab_size=99, max_position_embeddings=16, bos_token_id=97, eos_token_id=98,
                pad_token_id=98) | (text or {})
    vision = dict(hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
                  image_size=32, patch_size=8) | (vision or {})
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection_dim)


# NAME -> (configuration, number of images, number of captions, how the folder is written)
CASES = {
    "quick_gelu": (config(), 7, 23, {}),
    "gelu": (config(dict(hidden_act="gelu"), dict(hidden_act="gelu")), 7, 23, {}),
    # transformers 4.30 and older wrote 2 and read the position of the highest id.
    "legacy_eos": (config(dict(eos_token_id=2)), 5, 23, dict(buffers=True)),
    "sharded": (config(), 3, 5, dict(max_shard_size="60KB")),
    "f16": (config(), 5, 9, dict(dtype=torch.float16)),
    "bf16": (config(), 5, 9, dict(dtype=torch.bfloat16)),
    # Patches of 14 do not divide 60; widths, depths and head counts differ between the towers.
    "odd": (config(dict(hidden_size=40, num_attention_heads=2, num_hidden_layers=1,
                        max_position_embeddings=77),
                   dict(hidden_size=56, num_attention_heads=7, image_size=60, patch_size=14,
                        num_hidden_layers=2, layer_norm_eps=1e-6), 177), 7, 40, {}),
    "vit_b_32": (CLIPConfig(), 6, 12, {}),
}


def randomise(model, seed):
    """Weights with which embeddings differ from each other and every term counts."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        values = torch.randn(weight.shape, generator=generator)
        if name == "logit_scale":
            continue
        if "norm.weight" in name or "norm1.weight" in name or "norm2.weight" in name:
            weight.data = 1 + 0.2 * values
        elif name.endswith("bias"):
            weight.data = 0.3 * values
        elif "norm" in name and name.endswith("weight"):
            weight.data = 1 + 0.2 * values
        elif "embedding" in name and "patch" not in name:
            weight.data = 0.5 * values
        else:
            fan_in = weight[0].numel()
            weight.data = values * (1.4 / fan_in**0.5)


def captions(model, n, rng):
    text = model.config.text_config
    # The tokenizer's end of text is the highest id, whatever a legacy configuration says.
    end = text.vocab_size - 1
    start = text.vocab_size - 2
    rows = []
    for i in range(n):
        length = int(rng.integers(3, text.max_position_embeddings + 1))
        rows.append([start, *rng.integers(3, start, length - 2).tolist(), end])
    rows[1] = rows[0]
    rows[2] = [start, end]
    rows[3] = [start, *rng.integers(3, start, text.max_position_embeddings - 2).tolist(), end]
    # A control token inside: what follows it is not read.
    rows[4] = [start, 5, end, 6, end]
    return rows


@torch.no_grad()
def expect(model, out, images, n_captions, seed):
    rng = np.random.default_rng(seed)
    side = model.config.vision_config.image_size
    pixels = rng.integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    # Smooth half of them: a photo is not noise.
    pixels[::2] = np.linspace(0, 255, side, dtype=np.uint8)[None, :, None, None] // 2
    pixels[::2] += rng.integers(0, 100, (len(pixels[::2]), 1, side, 3), dtype=np.uint8)
    values = (pixels.astype(np.float32) * np.float32(1 / 255) - MEAN) / STD
    values = torch.from_numpy(values).permute(0, 3, 1, 2).contiguous()
    ids = captions(model, n_captions, rng)
    end = model.config.text_config.vocab_size - 1
    most = max(map(len, ids))
    padded = torch.tensor([row + [end] * (most - len(row)) for row in ids])
    image = model.get_image_features(values).pooler_output
    text = model.get_text_features(padded).pooler_output
    image = image / image.norm(dim=-1, keepdim=True)
    text = text / text.norm(dim=-1, keepdim=True)
    out.mkdir(parents=True, exist_ok=True)
    pixels.tofile(out / "pixels.u8")
    for name, tensor in (("image", image), ("text", text), ("similarity", image @ text.T)):
        tensor.numpy().astype("<f4").tofile(out / f"{name}.f32")
    case = dict(ids=ids, images=images, side=side, dim=model.config.projection_dim,
                logit_scale=model.logit_scale.exp().item())
    (out / "case.json").write_text(json.dumps(case))


def make(name, out, seed):
    config, images, n_captions, how = CASES[name]
    model = CLIPModel(config).eval()
    randomise(model, seed)
    dtype = how.get("dtype", torch.float32)
    model = model.to(dtype)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out, max_shard_size=how.get("max_shard_size", "50GB"))
    if how.get("buffers"):
        path = out / "model.safetensors"
        tensors = load_file(path)
        context = config.text_config.max_position_embeddings
        tensors["text_model.embeddings.position_ids"] = torch.arange(context)[None]
        tokens = model.vision_model.embeddings.num_positions
        tensors["vision_model.embeddings.position_ids"] = torch.arange(tokens)[None]
        save_file(tensors, path, {"format": "pt"})
    expect(model.float(), out, images, n_captions, seed)


def main():
    out = Path(sys.argv[1])
    for name in sys.argv[2:]:
        if name in CASES:
            make(name, out / name, seed=list(CASES).index(name))
            continue
        model = CLIPModel.from_pretrained(name, dtype=torch.float32).eval()
        expect(model, out / Path(name).name, images=9, n_captions=23, seed=99)


if __name__ == "__main__":
    main()

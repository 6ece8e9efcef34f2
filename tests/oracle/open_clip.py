"""Makes random OpenCLIP folders and what open_clip computes with them, for tests/open_clip.rs.

Usage: open_clip.py OUT_DIR

Each folder of CASES is as open_clip's `push_to_hf_hub` writes one, with CLIP's own vocabulary as
vocab.json and merges.txt beside it, or a tokenizer of Hugging Face, and `case.json` (captions with
ids, names of images), `pixels.u8` (NHWC), `image.f32` and `text.f32` (unit length), computed in f32
on the CPU by `open_clip.create_model_and_transforms("local-dir:...")` and `open_clip.get_tokenizer`.
Towers of timm are timm's own under their names, but smaller in what TIMM says.
"""

import gzip
import json
import random
import shutil
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import ftfy
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

# This script has the package's name.
sys.path.append(sys.path.pop(0))
import open_clip  # noqa: E402
from open_clip.tokenizer import default_bpe  # noqa: E402

from timm.models import _registry as registry, vision_transformer_hybrid as hybrid  # noqa: E402
from timm.utils.model import reparameterize_model  # noqa: E402
from transformers import GemmaTokenizer, T5Tokenizer, XLMRobertaConfig, XLMRobertaTokenizer  # noqa: E402

from pictures import write_images  # noqa: E402
from siglip import SENTENCES, gemma_tokenizer, trained_sentencepiece, usable  # noqa: E402
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

SIGLIP_TEXT = dict(context_length=16, no_causal_mask=True, proj_bias=True, pool_type="last",
                   norm_kwargs=dict(eps=1e-6), hf_tokenizer_name="x", tokenizer_kwargs=dict(clean="canonicalize"))
SQUASH = dict(mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic", resize_mode="squash")
CUSTOM = dict(custom_text=True)
VOCAB = 190  # of XLM-RoBERTa; more than the tokenizer has

# The same with an image tower of timm.
CASES |= {
    "siglip": (dict(custom_text=True, init_logit_bias=-10, embed_dim=48),
               dict(timm_model_name="vit_base_patch16_siglip_224", timm_pool="map", timm_proj="none"),
               SIGLIP_TEXT, SQUASH),
    "siglip2": (dict(custom_text=True, init_logit_bias=-10),
                dict(timm_model_name="vit_so400m_patch16_siglip_256", timm_pool="map", timm_proj="linear",
                     timm_proj_bias=True),
                SIGLIP_TEXT | dict(act_kwargs=dict(approximate="tanh"), tokenizer_kwargs=dict(clean="whitespace")),
                SQUASH),
    "pe": (CUSTOM, dict(timm_model_name="vit_pe_core_tiny_patch16_384", timm_pool="map", timm_proj=None),
           dict(context_length=32), SQUASH | dict(interpolation="bilinear")),
    "pe_bare": (CUSTOM, dict(timm_model_name="vit_pe_core_gigantic_patch14_448", timm_pool="map", timm_proj=None),
                {}, SQUASH),
    "eva02": (CUSTOM, dict(timm_model_name="eva02_base_patch16_clip_224", timm_pool="token", timm_proj=None), {},
              dict(interpolation="bicubic")),
    "mobile": (CUSTOM, dict(timm_model_name="vit_base_mci_224", timm_pool="token", timm_proj=None), {},
               dict(mean=[0.0] * 3, std=[1.0] * 3, interpolation="bilinear")),
    "mobile2": (CUSTOM, dict(timm_model_name="vit_large_patch14_clip_224", timm_pool="token", timm_proj=None),
                dict(no_causal_mask=True), dict(interpolation="bicubic")),
    # Sides of maps are odd in one and even in the other, and only one has pixels whose zero is not black.
    "mci0": (CUSTOM, dict(timm_model_name="fastvit_mci0", timm_pool="avg", timm_proj=None, image_size=90),
             dict(no_causal_mask=True), dict(mean=[0.0] * 3, std=[1.0] * 3, interpolation="bilinear")),
    "mci3": (CUSTOM, dict(timm_model_name="fastvit_mci3", timm_pool="avg", timm_proj="linear", image_size=96),
             {}, dict(interpolation="bilinear")),
}

# The same with a text tower of Hugging Face, of the image towers above.
CASES |= {
    "xlm": ({}, {}, dict(hf_model_name="xlm-roberta-base", hf_tokenizer_name="x", hf_pooler_type="mean_pooler"), {}),
    "xlm_cls": (CUSTOM, dict(timm_model_name="eva02_base_patch16_clip_224", timm_pool="token", timm_proj=None),
                dict(context_length=16, hf_model_name="xlm-roberta-large", hf_tokenizer_name="x",
                     hf_pooler_type="cls_pooler", hf_proj_type="linear", tokenizer_kwargs=dict(clean="lower")), SQUASH),
}
HF_TEXT = {"xlm-roberta-base": dict(hidden_size=48, num_attention_heads=12),
           "xlm-roberta-large": dict(hidden_size=64, num_attention_heads=16)}

# Name -> what of it is smaller. Heads are the name's.
TIMM = {
    "vit_base_patch16_siglip_224": dict(embed_dim=48, patch_size=8, mlp_ratio=2.5),
    "vit_so400m_patch16_siglip_256": dict(embed_dim=64, patch_size=8),
    "vit_pe_core_tiny_patch16_384": dict(embed_dim=48, patch_size=8),
    "vit_pe_core_gigantic_patch14_448": dict(embed_dim=128, patch_size=7, mlp_ratio=2),
    "eva02_base_patch16_clip_224": dict(embed_dim=96, patch_size=8),
    "vit_base_mci_224": dict(embed_dim=48),
    "vit_large_patch14_clip_224": dict(embed_dim=64, patch_size=8),
    "fastvit_mci0": dict(layers=(1, 2, 1, 2), embed_dims=(16, 32, 32, 64)),
    "fastvit_mci3": dict(layers=(1, 1, 1, 1, 2), embed_dims=(16, 16, 32, 32, 96)),
}
STEM = hybrid.ConvStem


def shrink(name, sizes):
    whole = registry._model_entrypoints[name]
    sizes = sizes if name.startswith("fastvit") else dict(img_size=32, depth=3, **sizes)
    registry._model_entrypoints[name] = lambda pretrained=False, **kwargs: whole(pretrained, **sizes | kwargs)



def write_vocabulary(out):
    tokenizer = open_clip.SimpleTokenizer()
    vocab = dict(tokenizer.encoder)
    vocab["<|startoftext|>"] = vocab.pop("<start_of_text>")
    vocab["<|endoftext|>"] = vocab.pop("<end_of_text>")
    (out / "vocab.json").write_text(json.dumps(vocab))
    lines = gzip.open(default_bpe()).read().decode("utf-8").split("\n")[1:49152 - 256 - 2 + 1]
    (out / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n", encoding="utf-8")


def shrunk_text(name):
    """The facts of config.json of XLM-RoBERTa, and smaller sizes."""
    return XLMRobertaConfig(vocab_size=VOCAB, num_hidden_layers=3, intermediate_size=72, max_position_embeddings=90,
                            type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1, **HF_TEXT[name])


def write_tokenizer(out, name):
    """The tokenizer of a folder of Hugging Face, and the size of its vocabulary."""
    if name.startswith("xlm"):
        proto = trained_sentencepiece(bos_id=0, pad_id=1, eos_id=2, unk_id=3)
        XLMRobertaTokenizer(vocab=[(p.piece, p.score) for p in proto.pieces],
                            _spm_precompiled_charsmap=proto.normalizer_spec.precompiled_charsmap).save_pretrained(out)
        return VOCAB
    if name == "siglip2":
        return gemma_tokenizer(out, GemmaTokenizer)[1]
    proto = trained_sentencepiece(pad_id=0)
    T5Tokenizer(vocab=[(p.piece, p.score) for p in proto.pieces], extra_ids=0, pad_token="</s>",
                _spm_precompiled_charsmap=proto.normalizer_spec.precompiled_charsmap).save_pretrained(out)
    return len(proto.pieces)


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if name in ("logit_scale", "logit_bias"):
            continue
        values = torch.randn(weight.shape, generator=generator)
        if any(part.startswith(("ln_", "norm", "LayerNorm", "bn", "identity")) for part in name.split(".")) and name.endswith("weight"):
            weight.data = 1 + 0.2 * values
        elif name.endswith("bias"):
            weight.data = 0.3 * values
        elif name.endswith("gamma"):
            weight.data = 0.5 * values
        elif "embedding" in name or name.endswith(("pos_embed", "cls_token", "latent")):
            weight.data = 0.5 * values
        elif name.endswith("proj") or name.endswith("text_projection"):
            weight.data = values * (1.4 / weight.shape[0] ** 0.5)
        else:
            weight.data = values * (1.4 / weight[0].numel() ** 0.5)


    for name, buffer in model.named_buffers():
        if "running" in name:
            values = torch.randn(buffer.shape, generator=generator)
            buffer.copy_(0.3 * values if name.endswith("mean") else 0.5 + values.abs())


def settle(tower, side):
    """Gives batch norms the statistics of what they see: without them what is large grows from block to block."""
    for module in tower.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    tower.train()(torch.rand(16, 3, side, side, generator=torch.Generator().manual_seed(side)))


def save(model, path):
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)


def write_folded(model, out):
    """The same folder with weights whose branches timm has folded, which open_clip does not load."""
    folded = Path(f"{out}_folded")
    shutil.copytree(out, folded)
    model.visual.trunk = reparameterize_model(model.visual.trunk)
    save(model, folded / "open_clip_model.safetensors")
    try:
        open_clip.create_model(f"local-dir:{folded}")
    except RuntimeError as error:
        assert "reparam_conv" in str(error), error
    else:
        raise AssertionError("open_clip loads folded weights")


@torch.no_grad()
def make(out, name, seed):
    extra, vision, text, preprocess = CASES[name]
    of_timm = "timm_model_name" in vision
    vision = (dict(image_size=32) if of_timm else VISION) | vision
    model_cfg = dict(embed_dim=24, vision_cfg=vision, text_cfg=TEXT | text) | extra
    out.mkdir(parents=True)
    if "hf_tokenizer_name" in text:
        model_cfg["text_cfg"]["vocab_size"] = write_tokenizer(out, name)
    else:
        write_vocabulary(out)
    (out / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=model_cfg, preprocess_cfg=preprocess)))
    hugging_face = "hf_model_name" in text
    model_cfg["text_cfg"]["hf_model_pretrained"] = False
    cls = open_clip.CustomTextCLIP if extra.get("custom_text") or hugging_face else open_clip.CLIP
    built = cls(**{key: value for key, value in model_cfg.items() if key != "custom_text"})
    randomise(built, seed)
    if "fastvit" in vision.get("timm_model_name", ""):
        settle(built.visual.trunk, vision["image_size"])
    weights = "open_clip_pytorch_model.safetensors" if name == "longest" else "open_clip_model.safetensors"
    save(built, out / weights)
    if name == "mci0":
        write_folded(built.eval(), out)

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
    if of_timm:
        # Their tokenizers are those of other cases, or know few words.
        captions = captions[::4]
    ids, whole = [], []
    if "hf_tokenizer_name" in text:
        captions = [caption for caption in captions if usable(caption)] + SENTENCES[:5]
        ids = tokenizer(captions).tolist()
        if hugging_face:
            # The rest is padding, which the tower is told to look away from.
            ids = [[each for each in row if each != tokenizer.tokenizer.pad_token_id] for row in ids]
        clean = [tokenizer.clean_fn(caption) for caption in captions]
        whole = [len(each) for each in tokenizer.tokenizer(clean)["input_ids"]]
    else:
        for caption in captions:
            words = tokenizer.encode(caption)
            row = tokenizer([caption])[0].tolist()
            ids.append(row if text.get("no_causal_mask") else row[:min(len(words) + 2, len(row))])
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
    wrong = ftfy.fix_text(caption) != ftfy.fix_text(caption, fix_encoding=False)
    return wrong or any(other in caption.lower() for other in others)


def main():
    hybrid.ConvStem = lambda channels, **kwargs: STEM(channels=(12, 12, 48), **kwargs)
    open_clip.hf_model.AutoConfig = SimpleNamespace(from_pretrained=shrunk_text)
    for name, sizes in TIMM.items():
        shrink(name, sizes)
    for seed, name in enumerate(CASES):
        make(Path(sys.argv[1]) / name, name, seed)


if __name__ == "__main__":
    main()

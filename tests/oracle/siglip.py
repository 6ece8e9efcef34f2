"""Makes random SiglipModel, Siglip2Model and ChineseCLIPModel folders and what transformers computes with them, for
tests/siglip.rs.

Usage: siglip.py OUT_DIR

OUT_DIR/siglip has SigLIP's tokenizer (SentencePiece, `SiglipTokenizer`), OUT_DIR/siglip2 that of
SigLIP 2 (`Siglip2Tokenizer`) and OUT_DIR/gemma the one that the first folders of SigLIP 2 name
(`GemmaTokenizer`); OUT_DIR/naflex is a Siglip2Model; OUT_DIR/chinese_clip has `BertTokenizer`. Each
has `case.json` (captions with their ids, names of images), `pixels.u8` (NHWC), `image.f32` and
`text.f32` (unit length, of those pixels and ids), computed in f32 on the CPU. The tokenizers are
trained here on a few made-up sentences.

OUT_DIR/naflex has its pixels as patches, and besides: `aliased.f32`, `seen.f32` and `pooled.f32`,
what its image tower gives if something is wrong about it, and `grids.json`.
"""

import io
import json
import random
import sys
import unicodedata
from pathlib import Path
from unittest.mock import patch

import numpy as np
import sentencepiece
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (BertTokenizer, ChineseCLIPConfig, ChineseCLIPModel, GemmaTokenizer, Siglip2Config,
                          Siglip2Model, Siglip2Tokenizer, SiglipConfig, SiglipModel, SiglipTokenizer)
from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import (Siglip2ImageProcessorPil,
                                                                      get_image_size_for_max_num_patches)

from pictures import SIZES, write_images
from tokens import made

CONTEXT = 16
SENTENCES = [
    "a photo of the cat and a red dog in the street",
    "two dogs play with a blue ball near the river",
    "the quick brown fox jumps over the lazy dog",
    "naïve café straße привет мир 你好世界 isnt were 1234567890",
    "an old house, a new car & (some) people: it's sunny! http://a.b/c?d=e",
] * 20


def trained_sentencepiece(pad_id=-1, bos_id=-1, eos_id=1, unk_id=2):
    """SentencePiece's own description of a model of the sentences."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, vocab_size=180, model_type="unigram",
        hard_vocab_limit=False, bos_id=bos_id, pad_id=pad_id, eos_id=eos_id, unk_id=unk_id, minloglevel=2)
    from transformers.convert_slow_tokenizer import import_protobuf
    proto = import_protobuf().ModelProto()
    proto.ParseFromString(model.getvalue())
    return proto


def siglip_tokenizer(out):
    """spiece.model for `SiglipTokenizer`, and the same as tokenizer.json, as the hub's folders have both."""
    proto = trained_sentencepiece()
    (out / "spiece.model").write_bytes(proto.SerializeToString())
    fast = Tokenizer(models.Unigram([(p.piece, p.score) for p in proto.pieces], unk_id=2))
    # As transformers' `SpmConverter` has it.
    fast.normalizer = normalizers.Sequence([normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
                                            normalizers.Strip(left=False, right=True),
                                            normalizers.Replace(Regex(" {2,}"), "▁")])
    fast.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    fast.decoder = decoders.Metaspace()
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast.add_special_tokens(["</s>", "<unk>"])
    slow = SiglipTokenizer(str(out / "spiece.model"))
    slow.save_pretrained(out)
    fast.save(str(out / "tokenizer.json"))
    return slow, len(proto.pieces)


def gemma_tokenizer(out, cls):
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    text = [s.capitalize() if i % 2 else s for i, s in enumerate(SENTENCES)]
    made.train_from_iterator(text, trainers.BpeTrainer(vocab_size=560, special_tokens=special + byte_tokens,
                                                       show_progress=False))
    model = json.loads(made.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = cls(vocab=model["vocab"], merges=merges, add_bos_token=False, add_eos_token=True,
                    padding_side="right" if cls is GemmaTokenizer else "left")
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.save_pretrained(out)
    return cls.from_pretrained(out), len(model["vocab"])


def bert_tokenizer(out):
    """The characters of the sentences, their words, and the ends of words."""
    words = sorted({word.lower() for sentence in SENTENCES for word in sentence.split()})
    letters = sorted(set("".join(words)) | set("abcdefghijklmnopqrstuvwxyz0123456789.,!?'"))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *words,
              "##ing", "##ed", "A", "##O", "É", "二"]
    pieces = list(dict.fromkeys(pieces))
    tokenizer = BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})
    tokenizer.save_pretrained(out)
    return BertTokenizer.from_pretrained(out), len(pieces)


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        values = torch.randn(weight.shape, generator=generator)
        if name == "logit_scale":
            weight.data = torch.full_like(weight, 2.3)
        elif name == "logit_bias":
            weight.data = torch.tensor([-7.5])
        elif "norm" in name.lower() and name.endswith("weight"):
            weight.data = 1 + 0.2 * values
        elif name.endswith("bias"):
            weight.data = 0.3 * values
        elif "embedding" in name and "patch" not in name or name.endswith("probe"):
            weight.data = 0.5 * values
        else:
            weight.data = values * (1.4 / weight[0].numel() ** 0.5)


@torch.no_grad()
def make(out, tokenizer, vocab, seed):
    text = dict(hidden_size=40, intermediate_size=72, num_hidden_layers=3, num_attention_heads=2, vocab_size=vocab,
                max_position_embeddings=CONTEXT, projection_size=48)
    vision = dict(hidden_size=48, intermediate_size=88, num_hidden_layers=3, num_attention_heads=4, image_size=32,
                  patch_size=8)
    if out.name == "chinese_clip":
        model = ChineseCLIPModel(ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
        processor = ChineseCLIPImageProcessorPil(size=dict(shortest_edge=32), crop_size=dict(height=32, width=32))
    elif out.name == "naflex":
        # 4 x 4 positions, and grids of up to 20 patches: larger and smaller ones along each side.
        vision.update(num_patches=16)
        del vision["image_size"]
        model = Siglip2Model(Siglip2Config(text_config=text, vision_config=vision))
        processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=20, do_convert_rgb=True)
    else:
        model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        processor = SiglipImageProcessorPil(size=dict(height=32, width=32), resample=3 if seed == 0 else 2)
    randomise(model.eval(), seed)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    path = out / "preprocessor_config.json"
    saved = json.loads(path.read_text())
    saved["image_processor_type"] = type(processor).__name__.removesuffix("Pil")
    path.write_text(json.dumps(saved))

    rng = np.random.default_rng(seed)
    images = write_images(out, rng, SIZES + LONG if out.name == "naflex" else SIZES)
    if out.name == "naflex":
        images += write_plain(out)
    opened = [Image.open(out / name) for name in images]
    pixels = processor(images=opened, do_rescale=False, do_normalize=False, return_tensors="np")
    pixels, grids = np.stack(list(pixels["pixel_values"])), pixels.get("spatial_shapes", np.zeros((0, 2))).tolist()
    assert pixels.dtype == np.uint8
    (pixels.transpose(0, 2, 3, 1) if pixels.ndim == 4 else pixels).tofile(out / "pixels.u8")
    values = processor(images=opened, return_tensors="pt")

    captions = list(dict.fromkeys(SENTENCES)) + [c for c in made(random.Random(seed)) if usable(c)]
    captions = list(dict.fromkeys(captions))[:400]
    # Ten without a letter are enough.
    bare = [caption for caption in captions if not any(map(str.isalnum, caption))]
    captions = [caption for caption in captions if caption not in bare[10:]]
    # One by one: `AutoProcessor` pads and truncates like this.
    padded = tokenizer(captions, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt")
    ids = padded["input_ids"].tolist()
    whole = [len(each) for each in tokenizer(captions)["input_ids"]]
    image = model.get_image_features(**values).pooler_output
    if out.name == "naflex":
        write_wrong(out, model, values)
        (out / "grids.json").write_text(json.dumps(made_grids(rng)))
    if isinstance(model, ChineseCLIPModel):
        features = model.get_text_features(**padded).pooler_output
        ids = [row[:sum(seen)] for row, seen in zip(ids, padded["attention_mask"].tolist())]
    else:
        features = model.get_text_features(input_ids=padded["input_ids"]).pooler_output
    for name, tensor in (("image", image), ("text", features)):
        write_unit(out / f"{name}.f32", tensor)
    written = [dict(caption=c, ids=i, all=n) for c, i, n in zip(captions, ids, whole)]
    bias = model.logit_bias.item() if hasattr(model, "logit_bias") else None
    scale = model.logit_scale.exp().item()
    case = dict(captions=written, images=images, grids=grids, logit_scale=scale, logit_bias=bias)
    (out / "case.json").write_text(json.dumps(case))


LONG = [(400, 6), (7, 300), (1, 1), (48, 12), (6, 48), (160, 32)]


def write_plain(out):
    """Images of which all patches are the same: 18 on two grids, and 20."""
    names = []
    for width, height in [(64, 32), (32, 64), (8, 160)]:
        names.append(f"plain-{width}.png")
        Image.new("RGB", (width, height), (90, 120, 30)).save(out / names[-1])
    return names


def write_unit(path, tensor):
    (tensor / tensor.norm(dim=-1, keepdim=True)).numpy().astype("<f4").tofile(path)


def write_wrong(out, model, values):
    """Embeddings of a tower that resizes positions without antialiasing, of one that sees padding in its blocks and in
    its pooling, and of one that sees it in its pooling alone."""
    features = lambda **changed: model.get_image_features(**{**values, **changed}).pooler_output
    interpolate = torch.nn.functional.interpolate
    aliased = lambda *args, **how: interpolate(*args, **{**how, "antialias": False})
    with patch.object(torch.nn.functional, "interpolate", aliased):
        write_unit(out / "aliased.f32", features())
    write_unit(out / "seen.f32", features(pixel_attention_mask=torch.ones_like(values["pixel_attention_mask"])))
    head = model.vision_model.head
    with patch.object(head, "forward", lambda state, mask: type(head).forward(head, state)):
        write_unit(out / "pooled.f32", features())


def made_grids(rng):
    """Of images of many sizes: width, height, side of a patch, most patches; rows and columns of patches."""
    found = []
    for side, most in [(16, 256), (16, 1024), (14, 729), (32, 1)]:
        sizes = np.exp(rng.uniform(0, np.log(20_000), (400, 2))).astype(int).tolist()
        sizes += [(side * x, side * y) for x in (1, 2, 16, 17, 64) for y in (1, 3, 15, 16, 63)]
        for width, height in sizes:
            size = get_image_size_for_max_num_patches(height, width, side, most)
            found.append([width, height, side, most, *(length // side for length in size)])
    return found


def usable(caption):
    """Without what `caption.special_tokens = "text"` reads as text and transformers as control tokens; and without
    letters that a mark follows and NFKC changes, which `tokenizers` normalises together and SentencePiece one by one."""
    if any(token in caption for token in ["</s>", "<unk>", "<pad>", "<eos>", "<bos>", "<mask>"]):
        return False
    pairs = zip(caption, caption[1:])
    return not any(unicodedata.combining(mark) and changes(letter, mark) for letter, mark in pairs)


def changes(letter, mark):
    twice = unicodedata.combining(letter) or unicodedata.normalize("NFD", letter) != letter
    return twice or unicodedata.normalize("NFKC", letter) != letter


def main():
    out = Path(sys.argv[1])
    for seed, name in enumerate(["siglip", "siglip2", "gemma", "chinese_clip", "naflex"]):
        folder = out / name
        folder.mkdir(parents=True)
        if name == "siglip":
            tokenizer, vocab = siglip_tokenizer(folder)
        elif name == "chinese_clip":
            tokenizer, vocab = bert_tokenizer(folder)
        else:
            tokenizer, vocab = gemma_tokenizer(folder, GemmaTokenizer if name == "gemma" else Siglip2Tokenizer)
        make(folder, tokenizer, vocab, seed)


if __name__ == "__main__":
    main()

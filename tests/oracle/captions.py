"""Several captions an image: makes a table of them, and checks what a run says of it.

`captions.py make TABLE TO` adds to the sample's table: `alt`, the caption of the next row (null in
every seventh), and `human`, the caption in other words. `captions.py check OUT MODEL ROOT PREFIX`
compares the columns of a run over it with transformers; CLIPScore and RefCLIPScore as
`clipscore.py` (Hessel et al. 2021) computes them, 2.5 times the clipped cosine and the harmonic
mean with the greatest cosine to a reference.
"""
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if sys.argv[1] == "make":
    table = pq.read_table(sys.argv[2])
    captions = table["caption"].to_pylist()
    alt = [None if row % 7 == 3 else captions[(row + 1) % len(captions)]
           for row in range(len(captions))]
    human = [f"the picture of a {caption}" if caption else caption for caption in captions]
    table = table.append_column("alt", pa.array(alt)).append_column("human", pa.array(human))
    pq.write_table(table, sys.argv[3])
    sys.exit(0)

import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

out, model_dir, root, prefix = Path(sys.argv[2]), *map(Path, sys.argv[3:5]), sys.argv[5]
table = pa.concat_tables([pq.read_table(part) for part in sorted(out.glob("part-*.parquet"))])
model = CLIPModel.from_pretrained(model_dir, dtype=torch.float32).eval()
processor = CLIPImageProcessorPil.from_pretrained(model_dir)
tokenizer = AutoTokenizer.from_pretrained(model_dir)
context = model.config.text_config.max_position_embeddings


def unit(found):
    found = getattr(found, "pooler_output", found)
    return (found / found.norm(dim=-1, keepdim=True)).numpy()[0].astype(np.float64)


def image_of(path):
    image = Image.open(root / path)
    image.load()
    with torch.no_grad():
        return unit(model.get_image_features(**processor(images=image, return_tensors="pt")))


def text_of(caption):
    ids = tokenizer(prefix + caption, truncation=True, max_length=context, return_tensors="pt")
    with torch.no_grad():
        return unit(model.get_text_features(**ids))


names = ["caption", "alt", "human"]
worst, scored, best_of = 0.0, 0, {name: 0 for name in names}
for row in table.to_pylist():
    # What the run calls good is compared; that it calls the right rows so is other tests' affair.
    if row["status"] not in ("ok", "caption_empty"):
        assert row["image_embedding"] is None and row["best_caption"] is None, row
        continue
    image = image_of(row["image_path"])
    texts = {name: text_of(row[name]) if row[name] else None for name in names}
    cosines = {name: image @ text for name, text in texts.items() if text is not None}
    wanted = {f"similarity_{name}": cosines.get(name) for name in names}
    # Several may be the same words: any of the best will do.
    if cosines:
        best = max(cosines.values())
        wanted["best_similarity"] = best
        assert abs(cosines[row["best_column"]] - best) < 2e-6, row
        assert row["best_caption"] == row[row["best_column"]]
        best_of[row["best_column"]] += 1
    else:
        assert row["best_caption"] is None and row["best_similarity"] is None
    candidate, references = texts["caption"], [texts["alt"], texts["human"]]
    references = [text for text in references if text is not None]
    wanted["clip_score"] = wanted["ref_clip_score"] = None
    if candidate is not None:
        score = 2.5 * np.clip(image @ candidate, 0, None)
        nearest = max(candidate @ text for text in references)
        wanted["clip_score"] = score
        wanted["ref_clip_score"] = 2 * score * nearest / (score + nearest)
    both = candidate is not None and texts["alt"] is not None
    wanted["agreement"] = candidate @ texts["alt"] if both else None
    for name, value in wanted.items():
        assert (row[name] is None) == (value is None), (name, row[name], value)
        if value is not None:
            worst, scored = max(worst, abs(row[name] - value)), scored + 1
assert worst < 1e-5, worst
assert scored > 1500 and min(best_of.values()) > 20, (scored, best_of)
print(f"{scored} scores within {worst:.1e}; best captions by column: {best_of}")

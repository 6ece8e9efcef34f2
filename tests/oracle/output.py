"""Compares a run's output with its input and with transformers, read by three Parquet readers.

Arguments: input file or folder, output folder, image root, model folder, and the precision's
tolerance on a similarity ("none" leaves the model out). Fails with the first difference.
"""

import sys
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

given, out, root, model_dir, tolerance = [*map(Path, sys.argv[1:5]), sys.argv[5]]
files = [given] if given.is_file() else sorted(given.glob("*.parquet"))
table_in = pa.concat_tables([pq.read_table(file, coerce_int96_timestamp_unit="us")
                              for file in files], promote_options="default")
parts = sorted(out.glob("part-*.parquet"))
table_out = pa.concat_tables([pq.read_table(part) for part in parts],
                             promote_options="default")

# Every input column: same name, type, values and order, and the table's own metadata.
names = table_in.column_names
assert table_out.column_names[: len(names)] == names, table_out.column_names
assert table_out.num_rows == table_in.num_rows, (table_out.num_rows, table_in.num_rows)
for name in names:
    kept = table_in.schema.field(name).type
    # Parquet has no date64: its days come back as date32.
    kept = pa.date32() if kept == pa.date64() else kept
    assert table_out.schema.field(name).type == kept, (name, table_out.schema.field(name).type)
    assert table_out[name].to_pylist() == table_in[name].to_pylist(), name
# DuckDB reads both sides by their Parquet types, without what Arrow adds.
columns = ", ".join(f'"{name}"' for name in names)
read = "select {} from read_parquet({!r})"
sides = [duckdb.sql(read.format(columns, side)) for side in
         [[str(file) for file in files], [str(part) for part in parts]]]
types = [[str(kind) for kind in side.types] for side in sides]
lossless = {("TIMESTAMP_NS", "TIMESTAMP")}
assert all(a == b or (a, b) in lossless for a, b in zip(*types)), types
assert sides[0].fetchall() == sides[1].fetchall()
# One input file's own metadata is in the parts cut from it: the first of each agree.
for file, part in [(files[0], parts[0]), (files[-1], parts[-1])]:
    for key, value in (pq.read_metadata(file).metadata or {}).items():
        if key != b"ARROW:schema":
            assert pq.read_metadata(part).metadata.get(key) == value, (part, key)
for part in parts:
    metadata = pq.read_metadata(part)
    for key in [b"clipmill.version", b"clipmill.pipeline", b"clipmill.model"]:
        assert metadata.metadata.get(key), (part, key)
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            assert chunk.compression == "ZSTD", chunk.path_in_schema
            assert chunk.has_offset_index, chunk.path_in_schema
            if "embedding" in chunk.path_in_schema:
                assert not chunk.has_dictionary_page, chunk.path_in_schema

# polars and DuckDB see the same rows.
glob = str(out / "part-*.parquet")
simple = ["id", "similarity", "status", "error_message"]
expected = table_out.select(simple).to_pylist()
assert pl.read_parquet(glob).select(simple).to_dicts() == expected
duckdb.sql("set preserve_insertion_order = true")
rows = duckdb.sql(f"select {', '.join(simple)} from read_parquet('{glob}')")
assert [dict(zip(simple, row)) for row in rows.fetchall()] == expected
lengths = pl.read_parquet(glob).select(
    pl.col("image_embedding").drop_nulls().cast(pl.List(pl.Float32)).list.eval(
        pl.element() ** 2).list.sum())
assert np.allclose(lengths["image_embedding"].to_numpy(), 1.0, atol=2e-3)

if tolerance == "none":
    sys.exit(0)

import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

model = CLIPModel.from_pretrained(model_dir, dtype=torch.float32).eval()
processor = CLIPImageProcessorPil.from_pretrained(model_dir)
tokenizer = AutoTokenizer.from_pretrained(model_dir)
context = model.config.text_config.max_position_embeddings


def unit(x):
    return (x / x.norm(dim=-1, keepdim=True)).numpy()


def as_tensor(found):
    return found if isinstance(found, torch.Tensor) else found.pooler_output


# Each distinct image and caption once, in one forward pass each.
rows = table_out.to_pylist()
pixels = {}
for path in {row["image_path"] for row in rows}:
    try:
        opened = Image.open(root / path)
        opened.load()
        pixels[path] = processor(images=opened, return_tensors="pt")["pixel_values"][0]
    except Exception:
        pass
captions = sorted({row["caption"] for row in rows if row["caption"]})
with torch.no_grad():
    images = unit(as_tensor(model.get_image_features(torch.stack(list(pixels.values())))))
    images = dict(zip(pixels, images))
    ids = tokenizer(captions, truncation=True, max_length=context, padding=True,
                    return_tensors="pt")
    texts = dict(zip(captions, unit(as_tensor(model.get_text_features(**ids)))))

worst = {"image": 0.0, "text": 0.0, "similarity": 0.0}
for row in rows:
    image, text = images.get(row["image_path"]), texts.get(row["caption"])
    if image is None:
        assert row["image_embedding"] is None and row["status"].startswith("image_"), row["id"]
    if text is None:
        assert row["text_embedding"] is None, row["id"]
    if image is not None:
        error = np.abs(image - row["image_embedding"]).max()
        if error > 0.01:
            print(row["image_path"], "differs by", error)
        worst["image"] = max(worst["image"], error)
    if text is not None:
        worst["text"] = max(worst["text"], np.abs(text - row["text_embedding"]).max())
    if image is None or text is None:
        assert row["similarity"] is None and row["status"] != "ok" and row["error_message"]
    else:
        assert row["status"] == "ok" and row["error_message"] is None, row["id"]
        worst["similarity"] = max(worst["similarity"], abs(float(image @ text) - row["similarity"]))
print(worst)
assert worst["similarity"] <= float(tolerance), worst
if float(tolerance) <= 1e-5:
    assert max(worst.values()) <= 1e-5, worst

"""Tables to search, and numpy's brute force and transformers' embeddings to hold results against.

Usage:
  search.py make OUT_DIR            random tables with bad rows in them, odd tables
  search.py check TABLE RESULT.json column of the table searched by --like, TOP results each
  search.py export TABLE RESULT.json INDEX  an exported index, as usearch reads it
  search.py sample OUT RESULT.json  the sample's run searched by texts and images
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DIM, ROWS = 64, 100_000


def vectors(rng):
    """Of many lengths; some twice, some at twice the length, so that there are ties."""
    values = rng.standard_normal((ROWS, DIM)) * rng.lognormal(0, 1, (ROWS, 1))
    values[500:600] = values[:100]
    values[900:1000] = values[:100] * 2
    values[77_000:77_020] = values[7]
    return values


def lists(values, dtype, kind):
    flat = pa.array(values.astype(dtype).reshape(-1))
    dim = values.shape[1]
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(flat, dim)
    if kind == "large":
        return pa.LargeListArray.from_arrays(np.arange(len(values) + 1) * dim, flat)
    return pa.ListArray.from_arrays(np.arange(len(values) + 1, dtype=np.int32) * dim, flat)


def make(out):
    rng = np.random.default_rng(5)
    for name, dtype, kind in [("f16", np.float16, "fixed"), ("f32", np.float32, "list"),
                              ("f64", np.float64, "large")]:
        values = vectors(rng)
        values[10] = np.nan
        values[11, 3] = np.inf
        values[12] = 0
        array = lists(values, dtype, kind)
        missing = np.zeros(ROWS, bool)
        missing[[0, 13, ROWS - 1]] = True
        array = pa.array([None if gone else value for gone, value in
                          zip(missing[:20], array[:20].to_pylist())], array.type)
        array = pa.chunked_array([array, lists(values[20:], dtype, kind)]).combine_chunks()
        table = pa.table({"id": range(ROWS), "vector": array})
        (out / name).mkdir()
        half = ROWS // 2 + 7
        for index, part in enumerate([table.slice(0, half), table.slice(half)]):
            pq.write_table(part, out / name / f"{index}.parquet", row_group_size=9_999)
    small = pa.float32()
    odd = {
        "empty": pa.array([], pa.list_(small)),
        "nulls": pa.array([None, None], pa.list_(small)),
        "one": pa.array([[1, 0]], pa.list_(small)),
        "mixed": pa.array([[1, 0], [1, 0, 0]], pa.list_(small)),
        "none_good": pa.array([[float("nan"), 1], None, [0, 0]], pa.list_(small, 2)),
        "numbers": pa.array([1.0]),
        "hostile": pa.array([[1, 0], [1, 0.1], [0, 1]], pa.list_(small, 2)),
    }
    for name, array in odd.items():
        table = pa.table({"image_embedding": array})
        if name == "none_good":
            table = table.append_column("status", pa.array(["ok", "image_missing", "ok"]))
        if name == "hostile":
            table = table.append_column("image_path", pa.array(["a\x1b[2J.png", "../b", None]))
            bad = pa.array([b"<script>alert(1)</script>\n", b"\xff\xfe&", None]).view(pa.binary())
            bad = pa.Array.from_buffers(pa.string(), 3, bad.buffers())
            table = table.append_column("caption", bad)
        pq.write_table(table, out / f"{name}.parquet")


def unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def check_hits(scores, hits, top, tolerance):
    """Every hit has its score; nothing better was left out; best first, lower rows first."""
    wanted = np.sort(scores[np.isfinite(scores)])[::-1][:top]
    assert len(hits) == len(wanted), (len(hits), len(wanted))
    assert len({hit["row"] for hit in hits}) == len(hits)
    found = np.array([hit["score"] for hit in hits])
    of_rows = np.array([scores[hit["row"]] for hit in hits])
    assert np.abs(found - of_rows).max(initial=0) <= tolerance, (found, of_rows)
    assert np.abs(found - wanted).max(initial=0) <= tolerance, (found, wanted)
    keys = [(-hit["score"], hit["row"]) for hit in hits]
    assert keys == sorted(keys), keys
    if tolerance < 1e-6 and len(hits):
        # Up to numpy's own ties, the sets are equal.
        sure = set(np.flatnonzero(scores > wanted[-1] + tolerance).tolist())
        assert sure <= {hit["row"] for hit in hits}


def unit_vectors(table):
    """The column's vectors at unit length, NaN where there is none; and which are not null."""
    files = sorted(Path(table).glob("*.parquet"))
    array = pa.concat_tables([pq.read_table(file) for file in files])["vector"].combine_chunks()
    values = np.full((len(array), DIM), np.nan)
    good = np.array(array.is_valid())
    values[good] = array.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, DIM)
    with np.errstate(all="ignore"):
        return unit(values), good


def check(table, result):
    values, good = unit_vectors(table)
    bad = ~np.isfinite(values).all(axis=1)
    assert result["rows"] == len(values) and result["searched"] == int((~bad).sum()), result
    # The null rows, the NaN and the infinity, the zeros.
    counts = {"no vector": int((~good).sum()), "not a finite number": 2, "a vector of zeros": 1}
    assert result["without_vector"] == counts, (result["without_vector"], counts)
    top = result["top"]
    for query in result["queries"]:
        scores = values @ values[query["like"]]
        scores[bad] = np.nan
        scores[query["like"]] = np.nan
        check_hits(scores, query["hits"], top, 2e-7)


def export(table, result, path):
    """The index has every vector that there is, and finds the nearest as often as was said."""
    from usearch.index import Index

    values = unit_vectors(table)[0]
    there = np.flatnonzero(np.isfinite(values).all(axis=1))
    index, said = Index.restore(path), result["export"]
    assert len(index) == len(there) == said["vectors"], (len(index), said)
    assert index.ndim == said["dim"] == DIM and said["bytes"] == Path(path).stat().st_size
    assert "cos" in str(index.metric).lower(), index.metric
    asked = np.random.default_rng(3).choice(there, 200, replace=False)
    found, usable = 0, np.where(np.isfinite(values), values, 0)
    for row in asked:
        scores = usable @ values[row]
        scores[row] = -np.inf
        least = np.partition(scores, -10)[-10]
        keys = index.search(values[row].astype(np.float32), 11).keys
        near = [int(key) for key in keys if int(key) != row][:10]
        # Of equally near rows any will do.
        found += sum(values[key] @ values[row] >= least - 1e-9 for key in near)
    recall = found / (10 * len(asked))
    print("recall", recall, "said", said["recall_at_10"])
    # Two samples of 2,000 neighbours each.
    assert abs(recall - said["recall_at_10"]) < 0.05, (recall, said)
    assert recall > 0.7, recall


def sample(out, result):
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizerFast

    root = Path(__file__).resolve().parents[2] / "sample_data"
    model = CLIPModel.from_pretrained(root / "model", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizerFast.from_pretrained(root / "model")
    processor = CLIPImageProcessorPil.from_pretrained(root / "model")

    @torch.no_grad()
    def image(path):
        pixels = processor(Image.open(path), return_tensors="pt")["pixel_values"]
        return unit(model.get_image_features(pixels).pooler_output[0].numpy())

    @torch.no_grad()
    def text(text):
        ids = tokenizer([text], truncation=True, return_tensors="pt")
        return unit(model.get_text_features(**ids).pooler_output[0].numpy())

    table = pa.concat_tables([pq.read_table(part) for part in sorted(out.glob("part-*.parquet"))])
    rows = table.select(["image_path", "caption", "status"]).to_pylist()
    values = np.full((len(rows), model.config.projection_dim), np.nan, np.float32)
    for index, row in enumerate(rows):
        # A row whose caption alone is bad has an image.
        if not row["status"].startswith(("image", "decoder")):
            values[index] = image(root / row["image_path"])
    statuses = {}
    for index, row in enumerate(rows):
        if not np.isfinite(values[index]).all():
            statuses[row["status"]] = statuses.get(row["status"], 0) + 1
    assert result["without_vector"] == statuses, (result["without_vector"], statuses)
    for query in result["queries"]:
        vector = text(query["text"]) if "text" in query else image(query["image"])
        check_hits(values @ vector, query["hits"], result["top"], 2e-5)
        for hit in query["hits"]:
            row = rows[hit["row"]]
            assert hit["image_path"] == row["image_path"] and hit["caption"] == row["caption"]
    first = result["queries"][0]["hits"][0]
    print(first)


def main():
    what, path = sys.argv[1], Path(sys.argv[2])
    if what == "make":
        return make(path)
    result = json.loads(Path(sys.argv[3]).read_text())
    if what == "export":
        return export(path, result, sys.argv[4])
    result["top"] = int(sys.argv[4])
    check(path, result) if what == "check" else sample(path, result)


if __name__ == "__main__":
    main()

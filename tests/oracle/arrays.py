"""NumPy files against the table that they were made of, read by numpy and pyarrow.

usage: arrays.py SCORED NPY NPZ NAN

SCORED is read by pandas and `datasets` too.

SCORED is a run's output in several parts; NPY and NPZ are what `clipmill export` made of it, and NAN
what it made of a table in which a vector is not finite.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

scored, npy, npz, odd = map(Path, sys.argv[1:])
parts = [pq.read_table(part) for part in sorted(scored.glob("part-*.parquet"))]
whole = pa.concat_tables(parts)
image, text = whole["image_embedding"].to_pylist(), whole["text_embedding"].to_pylist()
both = [row for row in range(len(whole)) if image[row] is not None and text[row] is not None]
assert 0 < len(both) < len(whole)
rest = [name for name in whole.column_names if name not in ("image_embedding", "text_embedding")]
kind = whole.schema.field("image_embedding").type.value_type.to_pandas_dtype()


def check(images, texts, beside, rows):
    assert images.dtype == texts.dtype == kind and images.flags.c_contiguous
    assert beside.column_names == ["row", *rest], beside.column_names
    assert beside["row"].to_pylist() == rows
    # To the bit: rows of the arrays, of the table and of what is beside them are one another's.
    assert np.array_equal(images, np.array([image[row] for row in rows], kind))
    assert np.array_equal(texts, np.array([text[row] for row in rows], kind))
    wanted = whole.select(rest).take(rows)
    assert beside.select(rest).to_pylist() == wanted.to_pylist()
    assert [field.type for field in beside.select(rest).schema] == [field.type for field in wanted.schema]


first = 0
for number, part in enumerate(parts):
    rows = [row for row in both if first <= row < first + len(part)]
    first += len(part)
    check(np.load(npy / f"img_emb/img_emb_{number}.npy"), np.load(npy / f"text_emb/text_emb_{number}.npy"),
          pq.read_table(npy / f"metadata/metadata_{number}.parquet"), rows)
    with np.load(npz / f"{number:08}.npz") as arrays:
        assert arrays.files == ["image_embedding", "text_embedding"], arrays.files
        check(arrays["image_embedding"], arrays["text_embedding"], pq.read_table(npz / f"{number:08}.parquet"), rows)
for folder, wanted in [(npy, ["_SUCCESS", "_lock", "_made.json", "img_emb", "metadata", "text_emb"]),
                       (npy / "img_emb", [f"img_emb_{n}.npy" for n in range(len(parts))])]:
    assert sorted(path.name for path in folder.iterdir()) == wanted, sorted(folder.iterdir())
hidden = [path for path in npz.iterdir() if path.name.startswith(".")]
assert not hidden, hidden

# The parts themselves, as other libraries of the field read them; embeddings without a copy.
import datasets  # noqa: E402
import pandas as pd  # noqa: E402

names = sorted(map(str, scored.glob("part-*.parquet")))
theirs = datasets.Dataset.from_parquet(names, cache_dir=str(odd / "cache"))
assert theirs.num_rows == len(whole) and theirs["caption"][:] == whole["caption"].to_pylist()
vectors = theirs.with_format("numpy")["image_embedding"][both[0]]
assert np.array_equal(vectors, np.array(image[both[0]], kind)), vectors
frame = pd.concat(map(pd.read_parquet, names), ignore_index=True)
assert np.array_equal(np.stack(frame["image_embedding"][both]), np.array([image[row] for row in both], kind))
chunk = parts[0]["image_embedding"].chunk(0)
flat = chunk.values.to_numpy(zero_copy_only=True).reshape(len(chunk), -1)
assert np.array_equal(flat[both[0]], np.array(image[both[0]], kind))

# np.save of the same numbers is the same bytes.
saved = Path(odd) / "saved.npy"
np.save(saved, np.load(npy / "img_emb/img_emb_0.npy"))
assert saved.read_bytes() == (npy / "img_emb/img_emb_0.npy").read_bytes()

vectors = np.load(odd / "export/img_emb/img_emb_0.npy")
assert vectors.shape == (2, 3) and vectors.dtype == np.float32, vectors
assert np.array_equal(vectors, [[1, 2, 3], [10, 11, 12]])
assert pq.read_table(odd / "export/metadata/metadata_0.parquet")["place"].to_pylist() == [0, 3]

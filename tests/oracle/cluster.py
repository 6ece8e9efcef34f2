"""Tables for `clipmill cluster`, and what scikit-learn and numpy say of its outputs.

    cluster.py make DIR                 writes the tables
    cluster.py check TABLE OUT [K]      compares an output with numpy, and its inertia with
                                        scikit-learn's KMeans where K is given
    cluster.py names TABLE OUT WORDS MODEL N   compares names with transformers' text tower
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file


def vectors(rows, dim=None):
    kind = pa.list_(pa.float32(), dim) if dim else pa.list_(pa.float32())
    return pa.array([None if row is None else list(row) for row in rows], kind)


def write(path, table, rows=5000):
    pq.write_table(table, path, row_group_size=rows)


def make(out):
    rng = np.random.default_rng(5)
    # 60 overlapping clusters of different sizes and widths, sorted by cluster, as tables that were
    # made source by source are.
    centres = rng.normal(size=(60, 64))
    sizes = rng.multinomial(50_000, rng.dirichlet(np.full(60, 2.0)))
    rows = np.concatenate([centre + rng.normal(scale=rng.uniform(0.5, 1.5), size=(size, 64))
                           for centre, size in zip(centres, sizes)]).astype(np.float32)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 64)
    write(out / "big.parquet", pa.table({"id": np.arange(50_000), "image_embedding": flat}))
    some = [[1, 0, 0], None, [0, 1, 0.1], [float("nan"), 1, 0], [0, 0, 0], [0, 0.9, 0.2],
            [float("inf"), 0, 1], [0.9, 0.1, 0]]
    status = ["ok", "image_missing", "ok", "ok", "ok", "ok", "ok", "caption_missing"]
    write(out / "odd.parquet", pa.table({"image_embedding": vectors(some, 3), "status": status}))
    write(out / "lists.parquet", pa.table({"image_embedding": vectors(some), "status": status}), 3)
    write(out / "one.parquet", pa.table({"image_embedding": vectors([[3.0, 4.0]], 2)}))
    same = vectors([[1.0, 2.0]] * 10, 2)
    write(out / "same.parquet", pa.table({"image_embedding": same}))
    write(out / "failed.parquet", pa.table({"image_embedding": vectors([None] * 5, 3)}))
    write(out / "empty.parquet", pa.table({"image_embedding": vectors([], 3)}))
    mixed = vectors([[1.0, 2.0], [1.0, 2.0, 3.0]])
    write(out / "mixed.parquet", pa.table({"image_embedding": mixed}))
    write(out / "words.parquet", pa.table({"image_embedding": ["no", "vectors"]}))


def read(path):
    parts = sorted(map(str, path.glob("part-*.parquet"))) if path.is_dir() else [str(path)]
    return pa.concat_tables([pq.read_table(part) for part in parts])


def unit_rows(table):
    """Rows with a usable vector, and their vectors at unit length."""
    rows, found = [], []
    for row, vector in enumerate(table["image_embedding"].to_pylist()):
        if vector is not None and np.isfinite(vector).all() and np.any(vector):
            vector = np.asarray(vector, np.float64)
            rows.append(row)
            found.append(vector / np.linalg.norm(vector))
    return rows, np.array(found)


def check(path, out, k):
    table, made = read(path), read(out)
    columns = table.column_names
    assert made.column_names == [*columns, "cluster", "cluster_distance"]
    assert made.schema.field("cluster").type == pa.int32()
    assert made.schema.field("cluster_distance").type == pa.float32()
    assert made.select(columns).to_pylist() == table.to_pylist() or "nan" in str(table.to_pylist())
    rows, x = unit_rows(table)
    others = sorted(set(range(table.num_rows)) - set(rows))
    labels, distances = made["cluster"].to_pylist(), made["cluster_distance"].to_pylist()
    assert all(labels[row] is None and distances[row] is None for row in others)
    if not rows:
        return
    labels = np.array([labels[row] for row in rows])
    distances = np.array([distances[row] for row in rows])
    centroids = load_file(out / "_centroids.safetensors")["centroids"].astype(np.float64)
    squared = ((x ** 2).sum(1)[:, None] + (centroids ** 2).sum(1) - 2 * x @ centroids.T).clip(0)
    assert (squared[np.arange(len(x)), labels] <= squared.min(1) + 1e-5).all()
    exact = np.linalg.norm(x - centroids[labels], axis=1)
    assert np.allclose(distances, exact, atol=1e-5), np.abs(distances - exact).max()
    summary = json.loads((out / "_made.json").read_text())["summary"]
    sizes = np.bincount(labels, minlength=len(centroids))
    assert [cluster["rows"] for cluster in summary["clusters"]] == sizes.tolist()
    assert sum(summary["missing"].values()) == len(others) and summary["rows"] == len(rows)
    inertia = (exact ** 2).sum()
    assert np.isclose(summary["inertia"], inertia, rtol=1e-5), (summary["inertia"], inertia)
    for cluster, size in zip(summary["clusters"], sizes):
        if size:
            best = exact[labels == cluster["cluster"]].min()
            assert abs(distances[rows.index(cluster["nearest_row"])] - best) < 1e-6
    if k:
        # Several outputs are compared with one reference.
        cache = path.with_name(f"{path.name}.{k}.inertia")
        if not cache.exists():
            from sklearn.cluster import KMeans
            cache.write_text(str(KMeans(k, n_init=3, random_state=0).fit(x).inertia_))
        reference = float(cache.read_text())
        print(f"inertia {inertia:.4f}, scikit-learn {reference:.4f}")
        assert inertia <= 1.02 * reference + 1e-9, (inertia, reference)


def names(path, out, words, model_dir, n):
    import torch
    from transformers import AutoTokenizer, CLIPModel
    model = CLIPModel.from_pretrained(model_dir, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    words = words.read_text().split("\n")
    with torch.no_grad():
        ids = tokenizer(words, padding=True, return_tensors="pt")
        found = model.get_text_features(**ids)
        found = found if isinstance(found, torch.Tensor) else found.pooler_output
    texts = (found / found.norm(dim=-1, keepdim=True)).numpy()
    centroids = load_file(out / "_centroids.safetensors")["centroids"]
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    cosines = centroids @ texts.T
    lead = cosines - cosines.mean(0)
    clusters = json.loads((out / "_made.json").read_text())["summary"]["clusters"]
    for cluster in clusters:
        at = cluster["cluster"]
        assert len(cluster["names"]) == n
        chosen = [words.index(name["word"]) for name in cluster["names"]]
        best = np.sort(lead[at])[::-1][:n]
        assert np.allclose(lead[at][chosen], best, atol=1e-4), (cluster, best)
        ours = [name["cosine"] for name in cluster["names"]]
        assert np.allclose(ours, cosines[at][chosen], atol=1e-4)
    firsts = {cluster["names"][0]["word"] for cluster in clusters}
    print(len(firsts), "first names of", len(clusters))
    assert len(firsts) > len(clusters) / 2


command, *args = sys.argv[1:]
if command == "make":
    make(Path(args[0]))
elif command == "check":
    check(Path(args[0]), Path(args[1]), int(args[2]) if len(args) > 2 else None)
else:
    names(*map(Path, args[:4]), int(args[4]))

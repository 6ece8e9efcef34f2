"""A table for `clipmill dedup`, and what polars and numpy say of its outputs.

    dedup.py make FILE                      writes the table
    dedup.py million FILE ROWS              writes hashes alone, many
    dedup.py check TABLE OUT KINDS          KINDS: exact,perceptual:4,semantic:0.95,mark,score:name
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq


def million(path, rows):
    rng = np.random.default_rng(2)
    hashes = rng.integers(0, 2**64, size=rows, dtype=np.uint64)
    copies = rng.integers(0, rows, size=rows // 5)
    of = rng.integers(0, rows, size=rows // 5)
    turned = np.uint64(1) << rng.integers(0, 64, size=rows // 5, dtype=np.uint64)
    hashes[copies] = hashes[of] ^ turned
    content = rng.integers(0, rows * 4, size=rows)
    table = pa.table({
        "image_phash": hashes,
        "image_sha256": pa.array([f"{value:064x}" for value in content]),
        "similarity": rng.random(rows, dtype=np.float32),
    })
    pq.write_table(table, path, row_group_size=100_000)


def make(path):
    rng = np.random.default_rng(11)
    n = 3000
    phash = rng.integers(0, 2**64, size=n, dtype=np.uint64)
    embeddings = rng.normal(size=(n, 24))
    for row in range(500, n):
        kind = rng.integers(6)
        of = rng.integers(row)
        if kind == 0:
            for bit in rng.integers(0, 64, size=rng.integers(0, 8)):
                phash[row] = phash[of] ^ (np.uint64(1) << np.uint64(bit))
        elif kind == 1:
            embeddings[row] = embeddings[of] * rng.uniform(0.5, 2) \
                + rng.normal(size=24) * rng.uniform(0, 0.6)
    # Few scores, so that there are ties; some are missing or no number.
    score = [None if at % 17 == 0 else float("nan") if at % 19 == 0 else float(value)
             for at, value in enumerate(rng.integers(0, 6, size=n) / 8)]
    missing = rng.random(n) < 0.05
    table = pa.table({
        "id": np.arange(n),
        "image_sha256": pa.array([None if at % 23 == 0 else "" if at % 29 == 0
                                  else f"{value:064x}"
                                  for at, value in enumerate(rng.integers(0, 2500, size=n))]),
        "bytes": pa.array([bytes([value % 256, value // 256])
                           for value in rng.integers(0, 2500, size=n)], pa.binary()),
        "image_phash": pa.array(phash, mask=rng.random(n) < 0.05),
        "image_embedding": pa.array([None if gone else list(map(float, row))
                                     for gone, row in zip(missing, embeddings)],
                                    pa.list_(pa.float32(), 24)),
        "similarity": pa.array(score, pa.float64()),
        "status": pa.array(["image_missing" if gone else "ok" for gone in missing]),
    })
    pq.write_table(table, path, row_group_size=700)


def read(path):
    parts = sorted(map(str, path.glob("part-*.parquet"))) if path.is_dir() else [str(path)]
    return pa.concat_tables([pq.read_table(part) for part in parts])


class Groups:
    def __init__(self, n):
        self.parent = list(range(n))

    def root(self, row):
        while self.parent[row] != row:
            row = self.parent[row]
        return row

    def join(self, a, b):
        a, b = sorted((self.root(a), self.root(b)))
        self.parent[b] = a


def exact(table, column, groups):
    frame = pl.DataFrame({"key": table[column].to_pylist()}).with_row_index("row")
    frame = frame.filter(pl.col("key").is_not_null() & (pl.col("key").cast(pl.Binary) != b""))
    for rows in frame.group_by("key").agg("row")["row"].to_list():
        for row in rows[1:]:
            groups.join(rows[0], row)
    return set(frame["row"].to_list())


def perceptual(table, distance, groups):
    hashes = table["image_phash"].to_pylist()
    rows = [row for row, value in enumerate(hashes) if value is not None]
    values = np.array([hashes[row] for row in rows], np.uint64)
    for at, value in enumerate(values):
        for other in np.nonzero(np.bitwise_count(values[at + 1:] ^ value) <= distance)[0]:
            groups.join(rows[at], rows[at + 1 + int(other)])
    return set(rows)


def semantic(table, out, threshold, groups):
    from safetensors.numpy import load_file
    centroids = load_file(out / "_centroids.safetensors")["centroids"].astype(np.float64)
    found = table["image_embedding"].to_pylist()
    rows = [row for row, value in enumerate(found) if value is not None]
    x = np.array([found[row] for row in rows])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    squared = (centroids ** 2).sum(1) - 2 * x @ centroids.T
    cells = squared.argmin(1)
    second = np.sort(squared, axis=1)
    if squared.shape[1] > 1:
        assert ((second[:, 1] - second[:, 0]) > 1e-6).all(), "a row between two cells"
    cosines = x @ x.T
    assert (np.abs(cosines - threshold) > 1e-6).all(), "a pair at the threshold"
    near = (cosines >= threshold) & (cells[:, None] == cells)
    pairs = np.argwhere(np.triu(near, 1))
    for a, b in pairs:
        groups.join(rows[a], rows[b])
    print(len(centroids), "cells,", len(pairs), "pairs,",
          int((np.triu(cosines >= threshold, 1)).sum()), "with those across cells")
    assert len(pairs) > 20
    return set(rows)


def check(path, out, kinds):
    table, made = read(path), read(out)
    n = table.num_rows
    groups, keys, score, mark = Groups(n), set(), None, False
    for kind in kinds.split(","):
        name, _, value = kind.partition(":")
        if name == "exact":
            keys |= exact(table, value or "image_sha256", groups)
        elif name == "perceptual":
            keys |= perceptual(table, int(value), groups)
        elif name == "semantic":
            keys |= semantic(table, out, float(value), groups)
        elif name == "score":
            score = table[value].to_pylist()
        else:
            mark = True
    best = {}
    for row in range(n):
        root = groups.root(row)
        value = score[row] if score else None
        value = -np.inf if value is None or np.isnan(value) else value
        if root not in best or value > best[root][0]:
            best[root] = (value, row)
    kept = [best[groups.root(row)][1] for row in range(n)]
    columns = table.column_names
    expected = [kept[row] if row in keys else None for row in range(n)]
    twice = [kept[row] != row for row in range(n)]
    print(sum(twice), "duplicates of", n)
    assert 0 < sum(twice) < n
    if mark:
        assert made.column_names == [*columns, "duplicate_group", "is_duplicate"]
        assert made["duplicate_group"].to_pylist() == expected
        assert made["is_duplicate"].to_pylist() == twice
        assert made["id"].to_pylist() == table["id"].to_pylist()
    else:
        assert made.column_names == [*columns, "duplicate_group"]
        left = [row for row in range(n) if not twice[row]]
        assert made["id"].to_pylist() == [table["id"][row].as_py() for row in left]
        assert made["duplicate_group"].to_pylist() == [expected[row] for row in left]


command, *args = sys.argv[1:]
if command == "make":
    make(Path(args[0]))
elif command == "million":
    million(Path(args[0]), int(args[1]))
else:
    check(Path(args[0]), Path(args[1]), args[2])

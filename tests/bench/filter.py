"""`clipmill filter` beside polars and DuckDB: a scored table, and what each does with it.

Each contender is a process that reads the same files, keeps the best-scored rows and writes all
their columns, zstd of level 3 (what clipmill writes). Scores are read first and rows afterwards, as
clipmill does it. Called by `bench.py --only filter`; as a script it makes the table or is a peer.
"""

import math
import sys
from pathlib import Path

KEEP = 0.3
DIM = 512
GROUP = 32_768
GROUPS_A_FILE = 8


def make_table(folder, rows):
    """`rows` rows with f16 embeddings in files of some row groups, made once: 1 kB a row."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = folder / "_done"
    if done.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    # Every group takes the rows of one pool in another order: what is new is slow to make, and
    # no codec looks back that far.
    pool = rng.standard_normal((2 * GROUP, DIM), dtype=np.float32)
    pool = (pool / np.linalg.norm(pool, axis=1, keepdims=True)).astype(np.float16)
    words = np.array("red green small apple moon cactus tower on a hill near the old city".split())
    writer, group = None, 0
    for start in range(0, rows, GROUP):
        n = min(GROUP, rows - start)
        if group % GROUPS_A_FILE == 0:
            if writer:
                writer.close()
            writer = None
        table = one_group(pa, np, rng, pool, words, n)
        if writer is None:
            path = folder / f"{group // GROUPS_A_FILE:05}.parquet"
            writer = pq.ParquetWriter(path, table.schema, compression="zstd",
                                      compression_level=3, use_dictionary=["status"])
        writer.write_table(table, row_group_size=GROUP)
        group += 1
    writer.close()
    done.touch()
    return folder


def one_group(pa, np, rng, pool, words, n):
    embedding = pool[rng.permutation(len(pool))[:n]]
    failed = rng.random(n) < 0.01
    score = np.clip(rng.normal(0.27, 0.05, n), -1, 1).astype(np.float32)
    uids = rng.integers(0, 2**63, (n, 2), dtype=np.int64)
    captions = words[rng.integers(0, len(words), (n, 9))]
    item = pa.array(embedding.reshape(-1))
    return pa.table({
        "uid": [f"{a:016x}{b:016x}" for a, b in uids.tolist()],
        "caption": [" ".join(row) for row in captions],
        "image_width": rng.integers(100, 2000, n, dtype=np.int32),
        "image_height": rng.integers(100, 2000, n, dtype=np.int32),
        "similarity": pa.array(score, mask=failed),
        "status": np.where(failed, "image_missing", "ok"),
        "image_embedding": pa.FixedSizeListArray.from_arrays(item, DIM),
    })


def with_polars(table, out):
    """The highest scores of the usable rows, then the rows, streaming."""
    import polars as pl

    rows = pl.scan_parquet(table / "*.parquet")
    usable = (pl.col("status") == "ok") & pl.col("similarity").is_not_null()
    scores = rows.filter(usable).select("similarity").collect(engine="streaming")["similarity"]
    n = math.ceil(len(scores) * KEEP)
    threshold = scores.sort(descending=True)[n - 1]
    kept = rows.filter(usable & (pl.col("similarity") >= threshold))
    kept.sink_parquet(out, compression="zstd", compression_level=3, engine="streaming")


def with_duckdb(table, out):
    """The same. DuckDB has no f16: it reads them as f32 and writes those."""
    import duckdb

    rows = f"read_parquet('{table}/*.parquet')"
    usable = "status = 'ok' and similarity is not null"
    [(n,)] = duckdb.sql(f"select count(*) from {rows} where {usable}").fetchall()
    [(threshold,)] = duckdb.sql(
        f"select similarity from {rows} where {usable} order by similarity desc "
        f"limit 1 offset {math.ceil(n * KEEP) - 1}").fetchall()
    duckdb.sql(f"copy (select * from {rows} where {usable} and similarity >= {threshold!r}::float) "
               f"to '{out}' (format parquet, compression zstd, compression_level 3)")


if __name__ == "__main__":
    _, peer, table, out = sys.argv
    if peer == "make":
        make_table(Path(table), int(out))
    else:
        {"polars": with_polars, "duckdb": with_duckdb}[peer](Path(table), out)

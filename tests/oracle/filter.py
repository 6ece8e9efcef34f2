"""What `clipmill filter` should keep, said by DataComp's own functions, numpy, polars and DuckDB.

`make DIR` writes tables; the other commands compare an output with what its table should give and
fail with the first difference:

  datacomp TABLE OUT NPY MODE...   DataComp's script (MODE: basic, or laion2b, or ARCH threshold T,
                                   or ARCH fraction F)
  where TABLE OUT SQL              polars and DuckDB
  top TABLE OUT F | quantile TABLE OUT Q      numpy
  rows TABLE OUT                   rows of TABLE whose `keep` is true, every column and type
  rejected TABLE KEPT REJECTED     the two are the table, with why
"""

import sys
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROWS = 100_000
WORDS = ["red", "ä", "apple", "猫", "x", "on", "the\u00a0hill", "a\u2028b", "c\x1cd", "e\u200bf",
         "\n", "  ", "tower", "of", "ⅷ"]


def read(path):
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files], promote_options="default")


def make(out):
    rng = np.random.default_rng(11)
    rows = rng.integers(0, len(WORDS), (ROWS, 6))
    counts = rng.integers(0, 7, ROWS)
    # Each caption is another one, so that a detector can be told its language.
    captions = [" ".join(WORDS[w] for w in row[:n]) for row, n in zip(rows.tolist(), counts)]
    tag = rng.permutation(ROWS)
    captions = [f"{caption} {number:x}" if number % 3 else f"{caption}{number:x}"
                for caption, number in zip(captions, tag)]
    # Two decimals give ties by the thousand.
    b32 = np.round(rng.normal(0.27, 0.06, ROWS), 2).astype(np.float32)
    l14 = np.round(rng.normal(0.2, 0.06, ROWS), 3)
    b32[rng.random(ROWS) < 0.02] = np.nan
    l14[rng.random(ROWS) < 0.02] = np.nan
    uids = rng.integers(0, 2**64, (ROWS, 2), dtype=np.uint64)
    table = pa.table({
        "uid": [f"{a:016x}{b:016x}" for a, b in uids.tolist()],
        "text": captions,
        "original_width": rng.choice([0, 100, 199, 200, 201, 599, 600, 601, 1000], ROWS),
        "original_height": rng.choice([0, 199, 200, 201, 600, 603], ROWS).astype(np.int32),
        "clip_b32_similarity_score": pa.array(b32, mask=rng.random(ROWS) < 0.02),
        "clip_l14_similarity_score": pa.array(l14, mask=rng.random(ROWS) < 0.02),
        "language": rng.choice(["en", "de", "zh"], ROWS, p=[0.7, 0.2, 0.1]),
        "flag": pa.array(rng.random(ROWS) < 0.5, mask=rng.random(ROWS) < 0.1),
        "seen": pa.array(rng.integers(0, 2**31, ROWS), pa.timestamp("s")),
    })
    (out / "datacomp").mkdir()
    for index, (start, length) in enumerate([(0, 40_000), (40_000, 1), (40_001, ROWS)]):
        pq.write_table(table.slice(start, length), out / "datacomp" / f"{index}.parquet",
                       row_group_size=7_777)
    (out / "half").mkdir()
    half = table["clip_b32_similarity_score"].cast(pa.float16())
    pq.write_table(table.set_column(4, "clip_b32_similarity_score", half).drop(["language"]),
                   out / "half" / "0.parquet")
    statuses = rng.choice(["ok", "image_missing", "caption_empty"], ROWS, p=[0.9, 0.06, 0.04])
    scored = table.rename_columns({"clip_b32_similarity_score": "similarity"})
    scored = scored.drop(["clip_l14_similarity_score"]).append_column("status", pa.array(statuses))
    pq.write_table(scored, out / "scored.parquet", row_group_size=10_000)
    small(out, scored)
    lists(out, rng)


def small(out, scored):
    """Tables of few rows and odd ones."""
    tables = {
        "empty": scored.slice(0, 0),
        "one": scored.filter(pc.equal(scored["status"], "ok")).slice(0, 1),
        "failed": scored.filter(pc.not_equal(scored["status"], "ok")),
        "nan": scored.slice(0, 50).set_column(
            scored.schema.get_field_index("similarity"), "similarity",
            pa.array([float("nan")] * 50, pa.float32())),
    }
    for name, table in tables.items():
        pq.write_table(table, out / f"{name}.parquet")


def lists(out, rng):
    """Embeddings of every list type, float and page layout, with nulls where a table has them."""
    n, dim = 5_000, 96
    for kind in ["halffloat", "float", "double"]:
        values = pa.array(rng.normal(size=n * dim).astype(
            {"halffloat": np.float16, "float": np.float32, "double": np.float64}[kind]))
        fixed = pa.FixedSizeListArray.from_arrays(values, dim)
        gone = pa.array(rng.random(n) < 0.1)
        lengths = rng.integers(0, 9, n)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        holes = pa.array(rng.random(len(values)) < 0.2)
        holed = pc.if_else(holes, pa.scalar(None, values.type), values)
        columns = {
            "id": pa.array(range(n)),
            "keep": pa.array(rng.random(n) < 0.3, mask=rng.random(n) < 0.05),
            "vector": fixed,
            "maybe": pc.if_else(gone, pa.scalar(None, fixed.type), fixed),
            "ragged": pa.ListArray.from_arrays(pa.array(offsets), holed.slice(0, offsets[-1])),
            "large": pa.LargeListArray.from_arrays(pa.array(offsets.astype(np.int64)),
                                                   values.slice(0, offsets[-1])),
            "tags": pa.array([["a", None, "ö"][: i % 4] or None for i in range(n)]),
            "kind": pa.array([f"kind {i % 7}" for i in range(n)]).dictionary_encode(),
        }
        table = pa.table(columns)
        strict = table.schema.field("vector").with_nullable(False)
        table = table.set_column(2, strict, fixed)
        layouts = {
            "plain": dict(use_dictionary=["kind"], compression="zstd"),
            # Pages end in the middle of rows.
            "small": dict(use_dictionary=["kind"], data_page_size=333, write_batch_size=7),
            "v2": dict(use_dictionary=["kind"], data_page_version="2.0", compression="none",
                       data_page_size=2_000),
            "groups": dict(use_dictionary=["kind"], row_group_size=77),
            "dictionary": dict(use_dictionary=True),
            "split": dict(use_byte_stream_split=["vector.list.element"],
                          use_dictionary=["kind"]),
        }
        for name, options in layouts.items():
            pq.write_table(table, out / f"lists-{name}-{kind}.parquet", **options)


def same_rows(wanted, found):
    assert found.column_names[: wanted.num_columns] == wanted.column_names, found.column_names
    assert found.num_rows == wanted.num_rows, (found.num_rows, wanted.num_rows)
    for name in wanted.column_names:
        a, b = wanted[name], found[name]
        assert a.type == b.type, (name, a.type, b.type)
        if not a.combine_chunks().equals(b.combine_chunks()):
            # NaN is not equal to itself.
            assert repr(a.to_pylist()) == repr(b.to_pylist()), name


def datacomp(table, out, npy, *mode):
    sys.path.insert(0, str(Path(__file__).parent / "datacomp"))
    import apply_filter as reference

    rows = read(table)
    captions = [text.replace("\n", " ") for text in rows["text"].to_pylist()]
    known = "language" in rows.column_names
    languages = rows["language"].to_pylist() if known else ["en"] * len(captions)
    language = dict(zip(captions, languages))
    reference.fasttext = reference.gcld3 = reference.download = Detector(language)
    key = {"b32": "clip_b32_similarity_score", "l14": "clip_l14_similarity_score"}
    if mode == ("basic",):
        uids = reference.load_uids_with_basic_filter(str(table), 2)
    elif mode == ("laion2b",):
        uids = reference.load_uids_with_clip_score(str(table), "b32", 0.28, None, 2, known)
    else:
        arch, how, number = mode
        number = float(number)
        threshold, fraction = (number, None) if how == "threshold" else (None, number)
        uids = reference.load_uids_with_clip_score(str(table), arch, threshold, fraction, 2)
    uids.sort()
    own = out / "reference.npy"
    np.save(own, uids)
    assert own.read_bytes() == Path(npy).read_bytes(), (len(uids), len(np.load(npy)))
    own.unlink()
    kept = {f"{a:016x}{b:016x}" for a, b in uids.tolist()}
    print(mode, len(kept), "of", rows.num_rows)
    same_rows(rows.filter(pa.array([uid in kept for uid in rows["uid"].to_pylist()])), read(out))


class Detector:
    """Says what it was told, in the words of fasttext and of gcld3."""

    def __init__(self, language):
        self.language = language

    def __call__(self, *_):
        return None

    def load_model(self, _):
        return self

    def predict(self, text):
        return [f"__label__{self.language[text]}"], None

    def NNetLanguageIdentifier(self, **_):
        return self

    def FindLanguage(self, text):
        found = type("Found", (), {})
        found.language = self.language[text]
        return found


def where(table, out, sql):
    rows = read(table)
    if "status" in rows.column_names:
        rows = rows.filter(pc.equal(rows["status"], "ok"))
    wanted = pl.from_arrow(rows).filter(pl.sql_expr(sql))["uid"].to_list()
    ducks = duckdb.sql(f"select uid from rows where {sql}").fetchall()
    assert set(wanted) == {uid for (uid,) in ducks}, (len(wanted), len(ducks))
    kept = set(wanted)
    print(sql, len(kept), "of", rows.num_rows)
    assert 0 < len(kept) < rows.num_rows, "the condition tells nothing apart"
    same_rows(rows.filter(pa.array([uid in kept for uid in rows["uid"].to_pylist()])), read(out))


def usable(table):
    rows = read(table)
    ok = pc.equal(rows["status"], "ok")
    scores = rows["similarity"].to_numpy().astype(np.float64)
    return rows, ok.to_numpy(zero_copy_only=False) & ~np.isnan(scores), scores


def top(table, out, share):
    rows, ok, scores = usable(table)
    n = int(np.ceil(round(ok.sum() * float(share), 6)))
    least = np.sort(scores[ok])[::-1][n - 1]
    kept = ok & (scores >= least)
    assert kept.sum() >= n and (scores[kept] > least).sum() < n
    same_rows(rows.filter(pa.array(kept)), read(out))


def quantile(table, out, q):
    rows, ok, scores = usable(table)
    kept = ok & (scores >= np.quantile(scores[ok], float(q)))
    same_rows(rows.filter(pa.array(kept)), read(out))


def rows(table, out):
    given = read(table)
    same_rows(given.filter(given["keep"]), read(out))
    for part in sorted(out.glob("*.parquet")):
        # Other readers than Arrow's.
        mine, theirs = pl.read_parquet(part), pl.from_arrow(pq.read_table(part))
        assert mine["id"].equals(theirs["id"]) and mine.height == theirs.height
        vectors = duckdb.sql(f"select id, len(vector), len(maybe) from '{part}'").fetchall()
        assert all(length == 96 for _, length, _ in vectors) and len(vectors) == mine.height
        footer = pq.read_metadata(part)
        for group in range(footer.num_row_groups):
            for column in range(footer.num_columns):
                chunk = footer.row_group(group).column(column)
                assert chunk.compression == "ZSTD" and chunk.has_offset_index, chunk


def rejected(table, kept, other):
    rows, kept, other = read(table), read(kept), read(other)
    assert kept.num_rows + other.num_rows == rows.num_rows
    gone = set(other["uid"].to_pylist())
    assert not gone & set(kept["uid"].to_pylist())
    mask = pa.array([uid in gone for uid in rows["uid"].to_pylist()])
    same_rows(rows.filter(mask), other)
    for row in other.to_pylist():
        score = row["similarity"]
        if row["status"] != "ok":
            why = "status"
        elif not row["original_width"] >= 200:
            why = "where"
        else:
            why = "no_score" if score is None or score != score else "keep_top"
        assert row["rejected_by"] == why, (row, why)


if __name__ == "__main__":
    command, *args = sys.argv[1:]
    paths = {"make": 1, "rejected": 3}.get(command, 2)
    globals()[command](*map(Path, args[:paths]), *args[paths:])

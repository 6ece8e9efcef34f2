"""Inputs of several files, and what other programs read from them.

`hive CAPTIONS TO` writes the sample's first rows as a partitioned folder, with pyarrow.
`check-hive TO OUT` compares a run's rows and columns with pyarrow's and DuckDB's reading.
`shards CAPTIONS IMAGES TO` writes them as tar shards. `check-shards OUT SHARD...` compares a run's
rows with what `webdataset` gives: keys, order, bytes, captions.
"""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read(out):
    return pa.concat_tables([pq.read_table(part) for part in sorted(Path(out).glob("part-*.parquet"))])


def hive(captions, to):
    import pyarrow.dataset as ds

    table = pq.read_table(captions).slice(0, 30)
    n = table.num_rows
    table = table.append_column("year", pa.array([2023 + row % 2 for row in range(n)]))
    table = table.append_column("month", pa.array([f"{1 + row % 3:02}" for row in range(n)]))
    words = ["plain", "a b/c=d%", None]
    table = table.append_column("word", pa.array([words[row % 3] for row in range(n)]))
    fields = pa.schema([table.schema.field(name) for name in ["year", "month", "word"]])
    ds.write_dataset(table, Path(to) / "hive", format="parquet",
                     partitioning=ds.partitioning(fields, flavor="hive"))


def check_hive(to, out):
    import duckdb
    import pyarrow.dataset as ds

    ours = read(out)
    names = ["id", "image_path", "caption", "year", "month", "word"]
    assert ours.column_names[: len(names)] == names, ours.column_names
    assert [str(ours.schema.field(name).type) for name in names[3:]] == ["int64", "int64", "string"]
    files = sorted(str(path) for path in Path(to).glob("hive/**/*.parquet"))
    given = ds.dataset(str(Path(to) / "hive"), format="parquet", partitioning="hive")
    theirs = {row["id"]: row for row in given.to_table().to_pylist()}
    rows = ours.select(names).to_pylist()
    assert len(rows) == len(theirs) == 30
    for row in rows:
        assert row == theirs[row["id"]], (row, theirs[row["id"]])
    # Files in the order of their names, rows in that of their file.
    in_order = [id for file in files for id in pq.read_table(file, partitioning=None)["id"].to_pylist()]
    assert [row["id"] for row in rows] == in_order
    columns = ", ".join(names)
    read_them = f"select {columns} from read_parquet({files!r}, hive_partitioning=true)"
    found = duckdb.sql(read_them)
    # A month with its zero is a string there, and a number for pyarrow and us.
    assert [str(kind) for kind in found.types[3:]] == ["BIGINT", "VARCHAR", "VARCHAR"], found.types
    null = "__HIVE_DEFAULT_PARTITION__"
    duck = [(*row[:4], int(row[4]), None if row[5] == null else row[5]) for row in found.fetchall()]
    assert duck == [tuple(row.values()) for row in rows]


def add(tar, name, data, **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def shards(captions, images, to):
    rows = [row for row in pq.read_table(captions).to_pylist()
            if row["image_path"] and (Path(images) / row["image_path"]).is_file()][:24]
    kinds = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
    for shard, kind in enumerate(kinds):
        # Names that no plain header holds, and whose headers differ.
        folder = "" if kind == tarfile.USTAR_FORMAT else "a.folder/" + "long" * 40 + "é/"
        with tarfile.open(Path(to) / f"{shard:05}.tar", "w", format=kind) as tar:
            add(tar, "__meta__/notes.txt", b"of nobody")
            add(tar, "README", b"no sample")
            info = tarfile.TarInfo("folder")
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
            for at, row in enumerate(rows[shard * 8: shard * 8 + 8]):
                key = f"{folder}{shard:05}{at:04}"
                image = (Path(images) / row["image_path"]).read_bytes()
                suffix = Path(row["image_path"]).suffix
                if at != 3:
                    add(tar, key + (suffix.upper() if at == 1 else suffix), image)
                info = tarfile.TarInfo(key + ".link")
                info.type, info.linkname = tarfile.SYMTYPE, key
                tar.addfile(info)
                if at != 4:
                    add(tar, key + ".txt", (row["caption"] or "").encode())
                about = {"caption": row["caption"], "width": at}
                add(tar, key + ".json", b"{" if at == 5 else json.dumps(about).encode())
                add(tar, key + ".seg.png", b"a member of no use")


def check_shards(out, *paths):
    import webdataset

    ours = read(out).to_pylist()
    theirs = list(webdataset.WebDataset(list(paths), shardshuffle=False, empty_check=False))
    assert len(ours) == len(theirs) == 24, (len(ours), len(theirs))
    for row, sample in zip(ours, theirs):
        assert row["__key__"] == sample["__key__"], (row, sample["__key__"])
        assert row["__shard__"] == sample["__url__"], (row, sample["__url__"])
        image = next((sample[kind] for kind in ["jpg", "jpeg", "png", "webp"] if kind in sample), None)
        sha256 = image and hashlib.sha256(image).hexdigest()
        assert row["image_sha256"] == sha256, (row, sha256)
        assert row["txt"] == (sample["txt"].decode() if "txt" in sample else None), row
        assert row["json"] == sample["json"].decode(), row
        try:
            caption = json.loads(sample["json"])["caption"]
        except ValueError:
            caption = None
        assert row["json.caption"] == caption, row
    statuses = [row["status"] for row in ours]
    assert statuses.count("image_missing") == statuses.count("caption_missing") == 3, statuses
    assert "\0image" not in ours[0]


if __name__ == "__main__":
    what = {"hive": hive, "check-hive": check_hive, "shards": shards, "check-shards": check_shards}
    what[sys.argv[1]](*sys.argv[2:])

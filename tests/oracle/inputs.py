"""Inputs of several files, and what other programs read from them.

`hive CAPTIONS TO` writes the sample's first rows as a partitioned folder, with pyarrow.
`check-hive TO OUT` compares a run's rows and columns with pyarrow's and DuckDB's reading.
`shards CAPTIONS IMAGES TO` writes them as tar shards. `check-shards OUT SHARD...` compares a run's
rows with what `webdataset` gives: keys, order, bytes, captions.
`folder`, `img2dataset` and `lists` write them as their names say; `check-` compares a run with what
pathlib, `webdataset` and a table with a row an element have.
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


def folder(captions, images, to):
    """Images in folders, with captions beside them as trainers and img2dataset's `files` have them."""
    rows = [row for row in pq.read_table(captions).to_pylist()
            if row["image_path"] and (Path(images) / row["image_path"]).is_file()][:12]
    for at, row in enumerate(rows):
        place = Path(to) / ["", "b", "a.b/c"][at % 3] / f"{at:03}.x"
        place.parent.mkdir(parents=True, exist_ok=True)
        suffix = Path(row["image_path"]).suffix
        image = (Path(images) / row["image_path"]).read_bytes()
        Path(f"{place}{suffix.upper() if at == 1 else suffix}").write_bytes(image)
        if at != 2:
            Path(f"{place}.txt").write_text(row["caption"])
        if at == 3:
            Path(f"{place}.bmp").write_bytes(b"no image")
        if at % 2:
            about = {"caption": row["caption"], "at": at}
            Path(f"{place}.json").write_text("{" if at == 5 else json.dumps(about))
    (Path(to) / "alone.txt").write_text("a caption without an image")
    (Path(to) / "about.json").write_text("{}")
    (Path(to) / "field.json").write_text('{"caption": "a caption without an image"}')
    (Path(to) / "linked").symlink_to("b")
    (Path(to) / ".hidden.png").write_bytes(b"")
    (Path(to) / "README").write_text("no row")


def check_folder(out, folder):
    folder, extensions = Path(folder), [".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"]
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    files += [folder / "linked" / path.name for path in (folder / "b").iterdir()]
    images = [path for path in files if path.suffix.lower() in extensions]
    stems = {path.with_suffix("") for path in images}
    alone = [folder / "alone.txt", folder / "field.json"]
    assert len(images) == 17
    ours = read(out).to_pylist()
    found = [row["image_path"] or ("alone.txt" if row["txt"] else "field.json") for row in ours]
    assert sorted(found) == sorted(str(path.relative_to(folder)) for path in images + alone), found
    assert found == sorted(found, key=lambda name: (str(Path(name).with_suffix("")), name)), found
    for row, name in zip(ours, found):
        def beside(suffix):
            path = (folder / name).with_suffix(suffix)
            return path.read_text() if path.exists() else None
        assert row["txt"] == beside(".txt") and row["json"] == beside(".json"), row
        try:
            caption = json.loads(row["json"] or "")["caption"]
        except (ValueError, KeyError):
            caption = None
        assert row["json.caption"] == caption, row
        if row["image_path"]:
            assert row["image_sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
        status = {"alone.txt": "image_path_missing", "field.json": "image_path_missing", "003.x.bmp": "image_undecodable"}.get(Path(name).name)
        status = status or ("ok" if row["txt"] is not None else "caption_missing")
        assert row["status"] == status, row


def img2dataset(captions, images, to):
    """Shards and the tables beside them as img2dataset writes both: failed rows are in the table alone."""
    from webdataset import TarWriter

    rows = pq.read_table(captions).to_pylist()[36:60]
    for shard in range(2):
        table, own = [], rows[shard * 12: shard * 12 + 12]
        with TarWriter(str(Path(to) / f"{shard:05}.tar"), encoder=False) as tar:
            for at, row in enumerate(own):
                key, path = f"{shard:05}{at:04}", Path(images) / (row["image_path"] or "none")
                good = path.is_file() and at != 5
                table.append({"url": f"https://example.org/{row['id']}", "caption": row["caption"], "key": key,
                              "status": "success" if good else "failed_to_download",
                              "error_message": None if good else "HTTP Error 404"})
                if good:
                    tar.write({"__key__": key, path.suffix[1:]: path.read_bytes(),
                               "txt": row["caption"].encode(), "json": b"{}"})
        pq.write_table(pa.Table.from_pylist(table), Path(to) / f"{shard:05}.parquet")


def check_img2dataset(out, folder):
    import webdataset

    ours, shards = read(out).to_pylist(), sorted(map(str, Path(folder).glob("*.tar")))
    theirs = {sample["__key__"]: sample for sample in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)}
    table = pa.concat_tables(pq.read_table(path) for path in sorted(Path(folder).glob("*.parquet"))).to_pylist()
    assert len(ours) == len(table) == 24 > len(theirs) > 16
    for row, given in zip(ours, table):
        assert {name: row[name] for name in given} == given
        sample = theirs.get(row["key"])
        assert (sample is not None) == (given["status"] == "success")
        image = sample and next(sample[kind] for kind in ["jpg", "jpeg", "png", "webp"] if kind in sample)
        assert row["image_sha256"] == (image and hashlib.sha256(image).hexdigest()), row
        assert (row["clip_status"] == "image_missing") == (sample is None), row
    assert "\0image" not in ours[0]


def lists(captions, to):
    """Rows of several captions, of several images and of both; and the same with a row an element."""
    rows = [row for row in pq.read_table(captions).to_pylist() if row["image_path"]][:30]
    images, texts = [row["image_path"] for row in rows], [row["caption"] for row in rows]
    table = pa.table({
        "id": [f"r{at}" for at in range(6)],
        "image": images[:6],
        "text": texts[:6],
        "texts": pa.array([texts[:3], [], None, [texts[4], None, texts[5]], [texts[6]], texts[:20]],
                          pa.large_list(pa.string())),
        "images": pa.array([images[:2], None, [], ["none.png", images[3]], [images[4]] * 3, images[6:7]],
                           pa.list_(pa.string())),
        "pair": pa.array([list(pair) for pair in zip(texts[:6], texts[6:12])], pa.list_(pa.string(), 2)),
    })
    pq.write_table(table, Path(to) / "lists.parquet")
    long = pa.table({"image": images[:1], "pair": pa.array([texts[:1] * 1025], pa.list_(pa.string()))})
    pq.write_table(long, Path(to) / "long.parquet")
    for name, columns in LISTED.items():
        flat = []
        for row in table.to_pylist():
            many = {key: row[key] for key in columns if isinstance(row[key], list) or row[key] is None}
            n = max([len(values or []) for values in many.values()] + [1])
            for at in range(n):
                element = {key: (values or [])[at] if at < len(values or []) else None for key, values in many.items()}
                flat.append({"id": row["id"], **{key: row[key] for key in columns}, **element})
        pq.write_table(pa.Table.from_pylist(flat), Path(to) / f"flat_{name}.parquet")


# The image column and the caption's, of each run.
LISTED = {"texts": ["image", "texts"], "images": ["images", "text"], "both": ["images", "texts"],
          "pair": ["image", "pair"]}


def check_lists(to):
    given = pq.read_table(Path(to) / "lists.parquet").to_pylist()
    for name, (image, text) in LISTED.items():
        ours, flat = read(Path(to) / f"out_{name}").to_pylist(), read(Path(to) / f"out_flat_{name}").to_pylist()
        many = {"image_embedding": [image], "image_width": [image], "text_embedding": [text], "caption_tokens": [text],
                "similarity": [image, text]}
        for row, was in zip(ours, given):
            assert {key: row[key] for key in was} == was
            elements = [other for other in flat if other["id"] == row["id"]]
            failed = [other for other in elements if other["status"] != "ok"]
            assert row["status"] == (failed[0]["status"] if failed else "ok"), (name, row["status"])
            assert (row["error_message"] is None) == (not failed)
            for column, columns in many.items():
                columns = [key for key in columns if key in ("images", "texts", "pair")]
                values = [other[column] for other in elements]
                if not columns:
                    assert same(row[column], values[0]), (name, column, row[column], values)
                elif all(was[key] is None for key in columns):
                    assert row[column] is None, (name, column)
                else:
                    n = max(len(was[key]) for key in columns if was[key] is not None)
                    assert len(row[column]) == n, (name, column, row[column], n)
                    assert all(same(a, b) for a, b in zip(row[column], values[:n])), (name, column)
    assert {row["status"] for row in ours} == {"ok"}


def same(a, b):
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(*pair) for pair in zip(a, b))
    # Other batches move the last digits.
    return abs(a - b) < 1e-6 if isinstance(a, float) and isinstance(b, float) else a == b


if __name__ == "__main__":
    what = {"lists": lists, "check-lists": check_lists,
            "hive": hive, "check-hive": check_hive, "shards": shards, "check-shards": check_shards,
            "folder": folder, "check-folder": check_folder,
            "img2dataset": img2dataset, "check-img2dataset": check_img2dataset}
    what[sys.argv[1]](*sys.argv[2:])

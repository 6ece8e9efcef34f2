"""Tables whose images lie in them, made by `datasets` and pyarrow, and what a run made of them.

`make CAPTIONS IMAGES TO` writes, of the sample's rows:
- TO/hf.parquet: an `Image()` column, as `datasets` embeds it, beside `image_path`;
- TO/types.parquet: three rows, a column for each way in which Arrow has strings and bytes.

`check PATHS BYTES` compares the output of a run over the paths with that of one over the bytes,
and reads the latter with `datasets`. `types OUT COLUMN...` makes sure that columns are equal.
"""

import io
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read(out):
    return pa.concat_tables([pq.read_table(part) for part in sorted(Path(out).glob("part-*.parquet"))])


def make(captions, images, to):
    import datasets

    table = pq.read_table(captions)
    paths = [images / path if path else None for path in table["image_path"].to_pylist()]
    is_there = [path is not None and path.is_file() for path in paths]
    rows = {name: table[name].to_pylist() for name in table.column_names}
    rows["image"] = [str(path) if there else None for path, there in zip(paths, is_there)]
    rows = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    # What `push_to_hub` does: files become bytes.
    embed = datasets.table.embed_table_storage
    rows = rows.with_format("arrow").map(embed, batched=True).with_format(None)
    rows.to_parquet(to / "hf.parquet")
    stored = pq.read_table(to / "hf.parquet")
    assert stored.schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert b"huggingface" in stored.schema.metadata
    assert stored["image"].combine_chunks().field("bytes").null_count == is_there.count(False)

    chosen = [row for row, there in enumerate(is_there) if there and table["caption"][row].as_py()][:3]
    names = [table["image_path"][row].as_py() for row in chosen]
    data = [(images / name).read_bytes() for name in names]
    # One length, as a FixedSizeBinary wants: what follows a PNG's end is not read.
    data[0] = data[1] = data[2]
    names[0] = names[1] = names[2]
    texts = [table["caption"][row].as_py() for row in chosen]
    raw = [text.encode() for text in texts]
    string_types = {"string": pa.string(), "large_string": pa.large_string(),
                    "string_view": pa.string_view(),
                    "dictionary": pa.dictionary(pa.int32(), pa.string()),
                    "small_dictionary": pa.dictionary(pa.int8(), pa.large_string())}
    binary_types = {"binary": pa.binary(), "large_binary": pa.large_binary(),
                    "binary_view": pa.binary_view(),
                    "binary_dictionary": pa.dictionary(pa.int16(), pa.binary())}
    columns = {}
    for name, kind in string_types.items():
        columns[f"caption_{name}"] = cast(texts, pa.string(), kind)
        columns[f"path_{name}"] = cast(names, pa.string(), kind)
    for name, kind in binary_types.items():
        columns[f"caption_{name}"] = cast(raw, pa.binary(), kind)
        columns[f"bytes_{name}"] = cast(data, pa.binary(), kind)
    columns["bytes_fixed"] = pa.array(data, pa.binary(len(data[0])))
    columns["caption_bad"] = pa.array([b"\xff" + text for text in raw], pa.binary())
    columns["number"] = pa.array([1, 2, 3])
    pq.write_table(pa.table(columns), to / "types.parquet")


def cast(values, plain, kind):
    array = pa.array(values, plain)
    if pa.types.is_dictionary(kind):
        encoded = array.cast(kind.value_type).dictionary_encode()
        return pa.DictionaryArray.from_arrays(encoded.indices.cast(kind.index_type), encoded.dictionary)
    return array.cast(kind)


def check(paths, embedded):
    import datasets
    from PIL import Image

    a, b = read(paths), read(embedded)
    assert a.num_rows == b.num_rows == 269
    for name in ["id", "image_path", "caption", "similarity", "image_width", "image_format",
                 "image_sha256", "image_embedding"]:
        assert a[name].equals(b[name]), name
    for (was, now) in zip(a["status"].to_pylist(), b["status"].to_pylist()):
        assert was == now, (was, now)
    assert b["status"].to_pylist().count("ok") == 264
    # datasets finds its features in the output, and decodes its images.
    parts = [str(part) for part in sorted(Path(embedded).glob("part-*.parquet"))]
    metadata = pq.read_schema(parts[0]).metadata
    assert b"huggingface" in metadata, metadata
    import tempfile
    with tempfile.TemporaryDirectory() as cache:
        rows = datasets.Dataset.from_parquet(parts, cache_dir=cache, columns=["id", "image"])
        assert isinstance(rows.features["image"], datasets.Image), rows.features
        picture = rows[3]["image"]
        given = b["image"][3].as_py()["bytes"]
        assert picture.convert("RGB").tobytes() == Image.open(io.BytesIO(given)).convert("RGB").tobytes()
    given = pq.read_table(Path(embedded).parent / "hf.parquet")
    assert given["image"].equals(b["image"]) and given.schema.field("image") == b.schema.field("image")


def types(out, *columns):
    table = read(out)
    given = pq.read_table(Path(out).parent / "types.parquet")
    for name in given.column_names:
        assert table.schema.field(name).type == given.schema.field(name).type, name
        assert table[name].to_pylist() == given[name].to_pylist(), name
    first = table[columns[0]].to_pylist()
    assert None not in first
    for name in columns:
        assert table[name].to_pylist() == first, (name, table[name], first)


if __name__ == "__main__":
    what, args = sys.argv[1], sys.argv[2:]
    {"make": lambda *a: make(*map(Path, a)), "check": check, "types": types}[what](*args)

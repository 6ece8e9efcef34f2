"""Writes Parquet tables of odd column types, row groups and metadata with pyarrow.

The images are the sample's; `caption` and `image_path` come in every string type. Arguments:
sample folder, output folder.
"""

import datetime
import decimal
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

sample, out = Path(sys.argv[1]), Path(sys.argv[2])
rows = pq.read_table(sample / "captions.parquet").to_pylist()
n = len(rows)
paths = [row["image_path"] for row in rows]
captions = [row["caption"] for row in rows]
# A null path, a null caption, and both in one row.
paths[3] = captions[5] = paths[7] = captions[7] = None

typed = pa.table(
    {
        "id": pa.array([row["id"] for row in rows]),
        "image_path": pa.array(paths, pa.large_string()),
        "caption": pa.array(captions).dictionary_encode(),
        "nested": pa.array([[{"x": i, "y": [None, "é"]}] if i % 3 else None for i in range(n)]),
        "tags": pa.array([{"a": i} if i % 5 else {} for i in range(n)],
                         pa.map_(pa.string(), pa.int64())),
        "raw": pa.array([bytes([i % 256]) * (i % 4) if i % 7 else None for i in range(n)]),
        "price": pa.array([decimal.Decimal(i) / 100 for i in range(n)], pa.decimal128(12, 2)),
        "seen": pa.array([datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=i)
                          for i in range(n)], pa.timestamp("us", "Europe/Zurich")),
        "flag": pa.array([None if i % 11 == 0 else i % 2 == 0 for i in range(n)]),
        "small": pa.array([i % 127 for i in range(n)], pa.int8()),
        "half": pa.array([float(i) for i in range(n)], pa.float32()).cast(pa.float16()),
        "vector": pa.array([[i, i + 1] for i in range(n)], pa.list_(pa.int32(), 2)),
        "empty": pa.nulls(n),
    }
).replace_schema_metadata({"owner": "somebody", "pandas": '{"index_columns": []}'})

pq.write_table(typed, out / "typed.parquet", row_group_size=37, version="2.6")
# What other writers make: Spark's INT96, date64, DuckDB's UUID and JSON, files that differ in
# nullability and in their own metadata.
odd = typed.select(["id", "image_path", "caption"])
days = [datetime.date(1900 + i, 1, 1) for i in range(n)]
odd = odd.append_column("day", pa.array(days, pa.date64()))
far = [datetime.datetime(1000 + 20 * i, 6, 1) for i in range(n)]
odd = odd.append_column("far", pa.array(far, pa.timestamp("us")))
pq.write_table(odd, out / "odd.parquet", use_deprecated_int96_timestamps=True)
duckdb.sql(f"""copy (select *, uuid() as key, '{{"a": 1}}'::json as doc
    from '{sample}/captions.parquet') to '{out}/duck.parquet'""")
(out / "mixed").mkdir()
for index, nullable in enumerate([False, True]):
    part = typed.select(["id", "image_path", "caption", "small"]).slice(index * 9, 9)
    schema = part.schema.set(3, pa.field("small", pa.int8(), nullable))
    schema = schema.with_metadata({"which": str(index)})
    small = part["small"] if not nullable else pa.array([None] * 9, pa.int8())
    part = pa.table([*part.columns[:3], small], schema=schema)
    pq.write_table(part, out / "mixed" / f"{index}.parquet")

views = typed.set_column(1, "image_path", typed["image_path"].cast(pa.string_view()))
views = views.set_column(2, "caption", pa.array(captions, pa.string_view()))
pq.write_table(views, out / "views.parquet", row_group_size=50)
(out / "many").mkdir()
for index, start in enumerate(range(0, n, 100)):
    pq.write_table(typed.slice(start, 100), out / "many" / f"{index:03}.parquet", row_group_size=33)
pq.write_table(typed.slice(0, 0), out / "empty.parquet")
big = pa.concat_tables([typed.select(["id", "image_path", "caption"])] * 20)
pq.write_table(big, out / "big.parquet", row_group_size=1700)

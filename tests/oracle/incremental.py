"""Whether an output has the rows of all its inputs, each once and in their order within an input, as
pyarrow reads both. Arguments: the folder of inputs, the output."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

inputs, output = map(Path, sys.argv[1:])
given = {str(path.resolve()): pq.read_table(path) for path in inputs.glob("*.parquet")}
found = {}
for path in sorted(output.glob("part-*.parquet")):
    part = pq.read_table(path)
    about = json.loads(pq.read_metadata(path).metadata[b"clipmill.part"])
    found.setdefault(about["input"], []).append((about["start"], part))
assert found.keys() == given.keys(), (sorted(found), sorted(given))
for name, table in given.items():
    pieces = [part for _, part in sorted(found[name], key=lambda piece: piece[0])]
    rows = pa.concat_tables(piece.select(table.column_names) for piece in pieces)
    assert rows.to_pylist() == table.to_pylist(), name
print(len(found), "inputs")

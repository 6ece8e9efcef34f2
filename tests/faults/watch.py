"""Watches output folders while runs are killed in them: an independent check of what is promised.

Arguments: the input file, the output folder of an undisturbed run, and a folder whose sub-folders
are the outputs to watch. Looks again and again until stdin ends, then once more, and prints how
often it looked at what. Exits with 1, saying what it saw, when

- a part under its final name does not open in pyarrow, or is not the undisturbed run's;
- a manifest names a part that is not there, or has another digest;
- `_SUCCESS` is there and a part is not;
- in the end, an output does not have the input's rows in their order, every input column as it
  was, and a status for each row.
"""
import hashlib
import json
import select
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

given, reference, root = map(Path, sys.argv[1:4])
wanted = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
          for path in sorted(reference.glob("*.parquet"))}
assert wanted, "the undisturbed run has parts"
seen = Counter()
# How often an output was looked at and found complete. One that is done with is left for the end.
done = Counter()
ENOUGH = 100


def look(out):
    # In this order: what comes first is a promise about what is looked at next.
    complete = (out / "_SUCCESS").exists()
    try:
        recorded = json.loads((out / "_manifest.json").read_bytes())["manifest"]["parts"]
    except FileNotFoundError:
        recorded = {}
    for name in recorded.keys() | (wanted.keys() if complete else set()):
        assert (out / name).exists(), f"{out / name} is promised and not there"
    for path in out.glob("*.parquet"):
        found = path.read_bytes()
        digest = hashlib.sha256(found).hexdigest()
        assert digest == wanted.get(path.name), f"{path} is not the undisturbed run's"
        assert recorded.get(path.name, {"sha256": digest})["sha256"] == digest, path
        pq.read_table(pa.BufferReader(found))
        seen["parts"] += 1
    seen["manifests"] += bool(recorded)
    seen["complete"] += complete
    done[out] += complete


def outputs():
    return [path for path in root.iterdir() if path.is_dir()]


while not select.select([sys.stdin], [], [], 0.02)[0]:
    for out in outputs():
        if done[out] < ENOUGH:
            look(out)
table_in = pq.read_table(given)
for out in outputs():
    look(out)
    parts = sorted(out.glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(part) for part in parts])
    assert table.num_rows <= table_in.num_rows
    names = table_in.column_names
    expected = table_in.slice(0, table.num_rows)
    assert table.select(names).equals(expected.select(names)), out
    assert table["status"].null_count == 0, out
    assert {part.name for part in parts} == wanted.keys(), out
print(dict(seen), "outputs:", len(outputs()))

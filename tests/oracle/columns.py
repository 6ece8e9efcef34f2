"""Keeps of a run's output what a next run would not make again. Arguments: its folder, a new one.

The parts' own metadata is kept, with what clipmill says there of the model.
"""
import sys
from pathlib import Path

import pyarrow.parquet as pq

out, to = map(Path, sys.argv[1:3])
to.mkdir()
for part in sorted(out.glob("part-*.parquet")):
    table = pq.read_table(part)
    names = table.column_names
    # What was declared first comes after the input's.
    kept = table.select(names[: names.index("image_embedding") + 1])
    pq.write_table(kept.replace_schema_metadata(pq.read_metadata(part).metadata), to / part.name)

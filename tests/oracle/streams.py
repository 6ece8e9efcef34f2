"""Arrow IPC streams through the program's stdin and stdout, as other engines write and read them.

usage: streams.py PROGRAM PIPELINE TABLE SCORED OUT

SCORED is what the pipeline makes of the first rows of TABLE in the ordinary way; what comes through
pipes must be that, batch for batch. Streams are written and read by pyarrow, polars and DuckDB.
"""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq

program, pipeline, table, scored, out = sys.argv[1:]
out = Path(out)
wanted = pa.concat_tables(pq.read_table(part) for part in sorted(Path(scored).glob("part-*.parquet")))

n = len(wanted)
given = pq.read_table(table).slice(0, n)


def command(*more):
    return [program, "run", pipeline, *more]


def run(data, *more, code=0):
    done = subprocess.run(command(*more), input=data, capture_output=True, check=False)
    assert done.returncode == code, (done.returncode, done.stderr.decode())
    return done.stdout, done.stderr.decode()


def stream(table, sizes, options=None):
    sink, at = io.BytesIO(), 0
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        for size in sizes:
            rows = table.slice(at, size).combine_chunks().to_batches() or [empty(table.schema)]
            assert len(rows) == 1
            writer.write_batch(rows[0])
            at += size
    assert at == len(table)
    return sink.getvalue()


def empty(schema):
    return pa.RecordBatch.from_pylist([], schema=schema)


def read(data):
    assert data.endswith(b"\xff\xff\xff\xff\0\0\0\0"), "no end marker"
    reader = pa.ipc.open_stream(data)
    return reader.schema, list(reader)


def same(batches, expected, what, exact=False):
    found = pa.Table.from_batches(batches)
    assert found.column_names == expected.column_names, (what, found.column_names)
    for name in expected.column_names:
        column = found[name]
        if column.type != expected[name].type:
            column = column.cast(expected[name].type)
        a, b = column.combine_chunks(), expected[name].combine_chunks()
        if exact or not (pa.types.is_floating(a.type) or pa.types.is_fixed_size_list(a.type)):
            assert a.equals(b), (what, name)
            continue
        # Batches that are cut elsewhere move the towers' last digits.
        assert a.is_null().equals(b.is_null()), (what, name)
        a, b = (np.stack(values.drop_null().to_numpy(zero_copy_only=False)) for values in (a, b))
        assert np.abs(a - b).max() < 1e-6, (what, name, np.abs(a - b).max())


def damaged(folder):
    """The sample's model with a weight that is not finite, which is found when it is loaded."""
    from safetensors.torch import load_file, save_file

    shutil.copytree("sample_data/model", folder)
    weights = load_file(folder / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, folder / "model.safetensors")


def through_both(sizes):
    data, said = run(stream(given, sizes), "--input", "-", "--output", "-")
    schema, batches = read(data)
    assert [batch.num_rows for batch in batches] == sizes, [batch.num_rows for batch in batches]
    same(batches, wanted, sizes, exact=len(sizes) == 1)
    assert schema.field("similarity").type == pa.float32()
    kinds = {name: schema.field(name).type for name in given.column_names}
    assert kinds == {name: given.schema.field(name).type for name in given.column_names}, kinds
    assert "weights_sha256" in schema.metadata[b"clipmill.model"].decode(), schema.metadata
    assert "ok" in said and "failed: image_missing" in said, said


through_both([n])
through_both([1, 0, 50, n - 51])

# A table on disk, on stdout, for another engine.
data, _ = run(None, "--output", "-", "--limit", str(n))
schema, batches = read(data)
same(batches, wanted, "from disk", exact=True)
frame = polars.read_ipc_stream(io.BytesIO(data))
assert frame["similarity"].to_list() == wanted["similarity"].to_pylist()
reader = pa.ipc.open_stream(data)
ok = duckdb.sql("SELECT count(*), max(similarity) FROM reader WHERE status = 'ok'").fetchall()[0]
good = [row for row in wanted.select(["similarity", "status"]).to_pylist() if row["status"] == "ok"]
assert ok == (len(good), max(row["similarity"] for row in good)), ok

# What polars writes has views for strings, and those of DuckDB what DuckDB likes.
frame = polars.read_parquet(table).head(n)
sink = io.BytesIO()
frame.write_ipc_stream(sink)
data, _ = run(sink.getvalue(), "--input", "-", "--output", "-")
same(read(data)[1], wanted, "polars")
assert read(data)[0].field("caption").type == pa.string_view()
rows = duckdb.sql(f"SELECT * FROM '{table}' LIMIT {n}").to_arrow_reader(50)
sink = io.BytesIO()
with pa.ipc.new_stream(sink, rows.schema) as writer:
    for batch in rows:
        writer.write_batch(batch)
data, _ = run(sink.getvalue(), "--input", "-", "--output", "-", "--quiet")
same(read(data)[1], wanted, "DuckDB")

# Words of a dictionary, nulls alone, numbers: what is not used goes through.
odd = given.slice(0, 5)
odd = odd.set_column(odd.column_names.index("caption"), "caption", odd["caption"].dictionary_encode())
odd = odd.append_column("none", pa.nulls(5)).append_column("list", pa.array([["a"], [], None, ["b"], ["c"]]))
data, said = run(stream(odd, [3, 2]), "--input", "-", "--output", "-", "--quiet")
schema, batches = read(data)
assert said == "", said
assert schema.field("caption").type == odd.schema.field("caption").type
found = pa.Table.from_batches(batches)
assert found["list"].to_pylist() == odd["list"].to_pylist() and found["none"].null_count == 5
same(found.select(["id", "similarity"]).to_batches(), wanted.select(["id", "similarity"]).slice(0, 5), "odd")

# One batch goes out before the next one comes in.
process = subprocess.Popen(command("--input", "-", "--output", "-", "--quiet"),
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
writer = pa.ipc.new_stream(process.stdin, given.schema)
writer.write_batch(given.slice(0, 3).combine_chunks().to_batches()[0])
process.stdin.flush()
reader = pa.ipc.open_stream(process.stdout)
assert reader.read_next_batch().num_rows == 3
writer.write_batch(given.slice(3, 2).combine_chunks().to_batches()[0])
process.stdin.flush()
second = reader.read_next_batch().select(["similarity"])
same([second], wanted.select(["similarity"]).slice(3, 2), "one by one")
writer.close()
process.stdin.close()
try:
    reader.read_next_batch()
    raise AssertionError("a third batch")
except StopIteration:
    pass
assert process.wait() == 0

# Into part files: as from a table on disk; the same stream again does nothing, another is refused.
folder = out / "parts"
whole = stream(given, [50, n - 50])
run(whole, "--input", "-", "--output", str(folder))
parts = [pq.read_table(part) for part in sorted(folder.glob("part-*.parquet"))]
same(pa.concat_tables(parts).to_batches(), wanted, "parts", exact=True)
assert {path.name for path in out.iterdir()} == {"parts"}, "what stdin gave is left"
stamp = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix == ".parquet"}
_, said = run(whole, "--input", "-", "--output", str(folder))
assert all(path.stat().st_mtime_ns == then for path, then in stamp.items())
_, said = run(stream(given.slice(1), [n - 1]), "--input", "-", "--output", str(folder), code=2)
assert "input stdin" in said and "--redo-changed" in said, said
# As many bytes, and the same least and greatest values: only the content tells.
order = list(range(n))
order[10:12] = [11, 10]
_, said = run(stream(given.take(order), [50, n - 50]), "--input", "-", "--output", str(folder), code=2)
assert "input stdin" in said, said
run(whole, "--input", "-", "--output", str(out / "few"), "--limit", "7", "--quiet")
assert sum(pq.read_metadata(part).num_rows for part in (out / "few").glob("part-*.parquet")) == 7
schema, batches = read(run(whole, "--input", "-", "--output", "-", "--limit", "53")[0])
assert [batch.num_rows for batch in batches] == [50, 3]

# What is wrong is said, and never with an end marker.
for data, code, why in [
    (whole[:-8], 1, "end marker"),
    (whole[: len(whole) // 2], 1, "Arrow IPC stream"),
    (b"PAR1 is no stream", 1, "Arrow IPC stream"),
    (b"", 1, "Arrow IPC stream"),
    (stream(given.rename_columns([f"x_{name}" for name in given.column_names]), [n]), 2, "did you mean"),
    (stream(given, [n], pa.ipc.IpcWriteOptions(compression="zstd")), 1, "compress"),
]:
    for more in [("--output", "-"), ("--output", str(out / "wrong"))]:
        got, said = run(data, "--input", "-", *more, code=code)
        assert why in said, (why, said)
        assert not got.endswith(b"\xff\xff\xff\xff\0\0\0\0"), why
        assert not (out / "wrong").exists()
_, said = run(whole, "--input", "-", "--output", "-", "--max-failed", "0", code=3)
failed = sum(status != "ok" for status in wanted["status"].to_pylist())
assert failed and f"{failed} of {n}" in said, said
for more, why in [(("--parts", "0"), "--parts"), (("--redo-changed",), "--redo-changed"),
                  (("--set", "filter.path=x"), "[filter]")]:
    _, said = run(whole, "--input", "-", "--output", "-", *more, code=2)
    assert why in said, said

# The last bytes of a batch are no end marker, whatever they are.
marked = given.slice(0, 4).append_column("number", pa.array([1, 2, 3, 0xFFFFFFFF], pa.int64()))
cut = stream(marked, [4])[:-8]
assert cut.endswith(b"\xff\xff\xff\xff\0\0\0\0")
_, said = run(cut, "--input", "-", "--output", "-", code=1)
assert "end marker" in said, said

# Text that is none is null in a stream, and its row has a status.
offsets, data = pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"a\xff\xfe")
texts = pa.Array.from_buffers(pa.string(), 2, [None, offsets, data])
bad = given.slice(0, 2)
bad = bad.set_column(bad.column_names.index("caption"), "caption", texts)
pq.write_table(bad, out / "bad.parquet")
data, said = run(None, "--input", str(out / "bad.parquet"), "--output", "-")
found = pa.Table.from_batches(read(data)[1])
assert found["caption"].to_pylist() == ["a", None] and found["status"].to_pylist() == ["ok", "caption_invalid"]
assert "1 value of text that is not UTF-8" in said, said

# An error ends a run whose stdin is still open: nobody waits for the other.
for more, why in [(("--set", "sink.parquet.on_row_error=fail"), "on_row_error"), (("--set", "model.clip.dir=" + str(out / "model")), "holds a NaN")]:
    if "model" in more[1]:
        damaged(out / "model")
    process = subprocess.Popen(command("--input", "-", "--output", "-", "--quiet", *more), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    writer = pa.ipc.new_stream(process.stdin, given.schema)
    if why == "on_row_error":
        writer.write_batch(given.slice(40, 10).combine_chunks().to_batches()[0])
    else:
        # The schema goes out with the first batch.
        writer.write_batch(empty(given.schema))
    process.stdin.flush()
    said = process.stderr.read().decode()
    assert process.wait(60) == 1 and why in said, said

# A reader that goes away is no panic.
process = subprocess.Popen(command("--output", "-", "--quiet", "--limit", "10"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
process.stdout.close()
said = process.stderr.read().decode()
assert process.wait() in (1, 141, -13) and "panic" not in said, said

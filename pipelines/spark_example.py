"""CLIP scores as columns of a Spark DataFrame (`mapInArrow`): an example to copy, not a program.

Each task pipes its partition's Arrow batches through a `clipmill transform` of its own, which loads its
model once a task: give a task some ten thousand rows. A task whose clipmill dies fails, and Spark runs
it again. Every executor needs clipmill, the model and the images under the same names.

usage: spark-submit spark_example.py PIPELINE.toml INPUT.parquet OUTPUT_FOLDER
"""

import subprocess
import sys
from collections.abc import Callable, Iterator

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

# Spark has neither unsigned numbers nor lists of a fixed size.
SIGNED = {pa.uint32(): pa.int64(), pa.uint64(): pa.decimal128(20)}


def clipmill(command: list[str]) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """What `mapInArrow` calls in each task."""

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        process, writer, reader = None, None, None
        for batch in batches:
            if process is None:
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                writer = pa.ipc.new_stream(process.stdin, batch.schema)
            # In lock-step: this batch is out, as one batch, before the next one has to be there.
            writer.write_batch(batch)
            process.stdin.flush()
            reader = reader or pa.ipc.open_stream(process.stdout)
            yield for_spark(reader.read_next_batch())
        if process is not None:
            # Arrow's end marker, then the exit code: without both the task has failed.
            writer.close()
            process.stdin.close()
            if process.wait() != 0:
                raise RuntimeError(f"clipmill ended with {process.returncode}, see the executor's log")

    return score


def scored(frame: DataFrame, command: list[str]) -> DataFrame:
    """The frame with the pipeline's columns. Which these are, clipmill says of a table without rows."""
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, to_arrow_schema(frame.schema)).close()
    empty = subprocess.run(command, input=sink.getvalue(), stdout=subprocess.PIPE, check=True).stdout
    schema = pa.ipc.open_stream(empty).schema
    schema = pa.schema([pa.field(column.name, spark_type(column.type)) for column in schema])
    return frame.mapInArrow(clipmill(command), from_arrow_schema(schema))


def for_spark(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = [column.cast(spark_type(column.type)) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def spark_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        return pa.list_(spark_type(kind.value_type))
    return SIGNED.get(kind, kind)


def main(pipeline: str, table: str, output: str, program: str = "clipmill") -> None:
    spark = SparkSession.builder.getOrCreate()
    # One thread a task, as Spark counts (spark.task.cpus). With GPUs: --device cuda:N by
    # TaskContext.get().resources()["gpu"].
    command = [program, "transform", pipeline, "--threads", "1", "--quiet"]
    scored(spark.read.parquet(table), command).write.parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""CLIP scores as a step of a Ray Data pipeline: an example to copy, not a program.

`map_batches` keeps some actors; each pipes Arrow batches through one `clipmill transform`, which has
loaded its model once. The rows travel through Ray's object store. Where a table is on a disk or in a
store and its scores go there too, `ray_run.py` is faster, and goes on after a crash.

usage: ray_data_example.py PIPELINE.toml INPUT.parquet OUTPUT_FOLDER
"""

import subprocess
import sys

import pyarrow as pa
import ray


class Clipmill:
    """One long-lived clipmill: a batch goes in, the same rows with the pipeline's columns come out."""

    def __init__(self, pipeline: str, program: str = "clipmill", threads: int = 1) -> None:
        self.command = [program, "transform", pipeline, "--threads", str(threads)]
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self, table: pa.Table) -> pa.Table:
        # A batch of no rows comes out as one, with the new columns.
        batches = table.combine_chunks().to_batches()
        batch = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
        try:
            return self.exchange(batch)
        except (OSError, pa.ArrowInvalid, StopIteration):
            # The process is gone. The next one, of which nothing is known, is tried once.
            print(f"clipmill ended with {self.process.wait()}; starting it again", file=sys.stderr)
            self.process = None
            return self.exchange(batch)

    def exchange(self, batch: pa.RecordBatch) -> pa.Table:
        if self.process is None:
            # Its stderr is the actor's. The process ends when the actor does: its stdin is closed then.
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.writer, self.reader = pa.ipc.new_stream(self.process.stdin, batch.schema), None
        self.writer.write_batch(batch)
        self.process.stdin.flush()
        # In lock-step: this batch is out, as one batch, before the next one has to be there. The
        # stream's schema comes with the first.
        self.reader = self.reader or pa.ipc.open_stream(self.process.stdout)
        return pa.Table.from_batches([self.reader.read_next_batch()])


def main(pipeline: str, table: str, output: str, program: str = "clipmill") -> None:
    scored = ray.data.read_parquet(table).map_batches(
        Clipmill,
        fn_constructor_args=(pipeline, program),
        batch_format="pyarrow",
        # Larger batches keep a GPU busier; all of one is held in memory, so some thousand at the most.
        batch_size=512,
        # Actors. With GPUs add num_gpus=1, which also chooses each actor's CUDA_VISIBLE_DEVICES.
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=1,
    )
    scored.write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])

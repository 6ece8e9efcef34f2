"""clipmill under the engines of others: Ray, Ray Data, Spark. `make test-cluster`.

A Ray cluster of three nodes on this machine does the sample's rows, repeated, in parts of 200, while a
worker is killed, a node is taken away, the driver is killed, and stopped by Ctrl-C. What comes of it has
to be, byte for byte, what one `clipmill run` makes on one machine. What comes through Ray Data and
Spark, whose clipmill is killed once, has to have the same values. It is the files of `pipelines/` that
run, as users run them.

Options: --full (50 repetitions in place of 6), --only SECTION,... (refused, nodes, driver, data, spark,
overhead).
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
CLIPMILL = ROOT / "target" / "release" / "clipmill"
EXAMPLES = ROOT / "pipelines"
# Files that two runs of one job need not agree in: times, and who held what.
OWN = ("run_report.json", "_lock")
PATIENCE_S = 300.0
SECTIONS = ("refused", "nodes", "driver", "data", "spark")


class Bench:
    """The table, the pipeline and the undisturbed output, in a scratch folder."""

    def __init__(self, work: Path, times: int) -> None:
        self.work, self.table = work, work / "table"
        self.pipeline = work / "job.toml"
        sample = pq.read_table(ROOT / "sample_data" / "captions.parquet")
        table = pa.concat_tables([sample] * times)
        table = table.add_column(0, "row", pa.array(range(len(table)), pa.int64())).combine_chunks()
        self.table.mkdir()
        half = len(table) // 2
        pq.write_table(table.slice(0, half), self.table / "0.parquet", row_group_size=200)
        pq.write_table(table.slice(half), self.table / "1.parquet", row_group_size=200)
        text = (EXAMPLES / "sample.toml").read_text()
        for old, new in (
            ("sample_data/captions.parquet", str(self.table)),
            ('"auto"', '"f32"'),
            ("out/sample", str(work / "one_machine")),
        ):
            assert old in text, old
            text = text.replace(old, new)
        self.pipeline.write_text(text + "rows_per_part = 200\n")
        # As the workers are told: their nodes have one CPU each.
        subprocess.run([CLIPMILL, "run", self.pipeline, "--threads", "1", "--quiet"], check=True)
        self.wanted = content(work / "one_machine")
        parts = sorted((work / "one_machine").glob("part-*.parquet"))
        self.n_parts = len(parts)
        self.scored = pa.concat_tables(map(pq.read_table, parts))
        assert len(self.scored) == len(table)


def content(output: Path) -> dict[str, bytes]:
    """Everything that two runs of one job must agree in, by file name."""
    return {path.name: path.read_bytes() for path in output.iterdir() if not path.name.startswith(OWN)}


def assert_same(output: Path, wanted: dict[str, bytes]) -> None:
    found = content(output)
    assert found.keys() == wanted.keys(), (sorted(found), sorted(wanted))
    for name, bytes_ in wanted.items():
        assert found[name] == bytes_, f"{output / name} is not what one machine makes"


class Started:
    """A program of ours that runs beside us, and what it says on stderr."""

    def __init__(self, command: list[object], **env: str) -> None:
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [str(part) for part in command], cwd=ROOT, stdout=self.log, stderr=self.log,
            env=os.environ | env, start_new_session=True)

    def end(self, wanted: int = 0) -> str:
        code = self.process.wait(timeout=PATIENCE_S)
        said = self.said()
        assert code == wanted, f"ended with {code} in place of {wanted}:\n{said}"
        return said

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()


def wait_for(what: str, is_there: Callable[[], object], of: Started | None = None) -> None:
    until = time.monotonic() + PATIENCE_S
    while not is_there():
        assert of is None or of.process.poll() is None, f"ended before {what}:\n{of.said()}"
        assert time.monotonic() < until, f"no {what} in {PATIENCE_S} s:\n{of and of.said()}"
        time.sleep(0.02)


def parts_in(output: Path) -> int:
    return len(list(output.glob("part-*.parquet")))


def clipmills(*words: object) -> list[int]:
    """The processes of our program that have all these words in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (OSError, ValueError):
            continue
        if Path(line[0]).name == "clipmill" and all(str(word) in line for word in words):
            found.append(int(entry.name))
    return found


@contextmanager
def frozen(job: Started, output: Path, n_parts: int) -> Iterator[list[int]]:
    """The workers of a job, stopped when so many parts are there: what is done to the job meanwhile is
    done in its midst, on a machine of any speed."""
    workers: list[int] = []

    def is_amid() -> bool:
        workers[:] = clipmills("worker", output) if parts_in(output) >= n_parts else []
        return bool(workers)

    wait_for(f"worker beside {n_parts} parts", is_amid, job)
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    assert not (output / "_SUCCESS").exists()
    yield workers
    for worker in workers:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)


@contextmanager
def ray_cluster(n_nodes: int) -> Iterator[tuple[object, list[object]]]:
    """A head without CPUs, and nodes with one each."""
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80 << 20}
    cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    try:
        yield cluster, [cluster.add_node(num_cpus=1, **small) for _ in range(n_nodes)]
    finally:
        cluster.shutdown()


def ray_run(bench: Bench, cluster: object, *more: object, output: Path) -> Started:
    program = EXAMPLES / "ray_run.py"
    options = ["--address", cluster.address, "--clipmill", CLIPMILL, *more]
    return Started([sys.executable, program, bench.pipeline, *options, "--", "--output", output])


def check_nodes(bench: Bench) -> None:
    with ray_cluster(3) as (cluster, nodes):
        output = bench.work / "nodes"
        job = ray_run(bench, cluster, output=output)
        with frozen(job, output, 1) as workers:
            os.kill(workers[0], signal.SIGKILL)
        with frozen(job, output, 3):
            # The node's clipmill outlives it here: it holds its parts' locks for a while.
            cluster.remove_node(nodes[0], allow_graceful=False)
            assert parts_in(output) < bench.n_parts
        said = job.end()
        for event in ("was ended by signal 9", "a worker is lost"):
            assert event in said, f"no {event!r} in:\n{said}"
        assert_same(output, bench.wanted)
    print("nodes: a worker killed, a node taken away: same")


def check_driver(bench: Bench) -> None:
    with ray_cluster(3) as (cluster, _):
        output = bench.work / "drivers"
        job = ray_run(bench, cluster, output=output)
        with frozen(job, output, 1):
            job.process.kill()
            n_parts = parts_in(output)
            assert n_parts < bench.n_parts
        # They do what they were asked for, and end.
        wait_for("end of the driver's workers", lambda: not clipmills("worker", output))
        assert not (output / "_SUCCESS").exists()
        job = ray_run(bench, cluster, output=output)
        with frozen(job, output, n_parts):
            job.process.send_signal(signal.SIGINT)
        assert "interrupted" in job.end(130) and not (output / "_SUCCESS").exists()
        assert not clipmills("worker", output), "a worker outlived Ctrl-C"
        ray_run(bench, cluster, output=output).end()
        assert_same(output, bench.wanted)
        # Once more: everything is there.
        ray_run(bench, cluster, output=output).end()
        assert_same(output, bench.wanted)
    print("driver: killed, then interrupted: same")


def check_refused(bench: Bench) -> None:
    """What clipmill refuses, and a part that nobody can do: its message, its exit code."""
    missing = Started([sys.executable, EXAMPLES / "ray_run.py", "nothing.toml", "--clipmill", CLIPMILL])
    assert "nothing.toml does not exist" in missing.end(2)
    with ray_cluster(1) as (cluster, _):
        said = ray_run(bench, cluster, output=bench.table).end(2)
        assert "Traceback" not in said and str(bench.table) in said, said

        damaged = bench.work / "damaged.parquet"
        shutil.copy(bench.table / "0.parquet", damaged)
        chunk = pq.read_metadata(damaged).row_group(0).column(3)
        with damaged.open("r+b") as file:
            file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
            file.write(b"\xff" * 16)
        output = bench.work / "of_damaged"
        program = [sys.executable, EXAMPLES / "ray_run.py", bench.pipeline, "--address", cluster.address]
        options = ["--clipmill", CLIPMILL, "--tries", 2, "--", "--input", damaged, "--output", output]
        said = Started([*program, *options]).end(1)
        assert "part-00000.parquet failed 2 times" in said and str(damaged) in said, said
        assert "Traceback" not in said, said
    print("refused: with clipmill's message and exit code; a damaged input after its tries")


class Killer(threading.Thread):
    """Kills the first clipmill that has given a batch back."""

    def __init__(self, *words: object) -> None:
        super().__init__(daemon=True)
        self.words, self.has_killed = words, False
        self.start()

    def run(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while not self.has_killed and time.monotonic() < until:
            for process in clipmills(*self.words):
                try:
                    counters = Path(f"/proc/{process}/io").read_text().splitlines()
                except OSError:
                    continue
                written = next(line for line in counters if line.startswith("wchar"))
                if int(written.split()[1]) > 50_000 and not self.has_killed:
                    os.kill(process, signal.SIGKILL)
                    self.has_killed = True
            time.sleep(0.005)


def assert_scored(bench: Bench, output: Path) -> None:
    """The rows of one machine, in whatever order, with its values in whatever list."""
    found = pq.read_table(output).sort_by("row")
    assert found.column_names == bench.scored.column_names, found.column_names
    for name in found.column_names:
        a, b = bench.scored[name].combine_chunks(), found[name].combine_chunks()
        assert a.is_null().equals(b.is_null()), name
        if not (pa.types.is_floating(a.type) or pa.types.is_fixed_size_list(a.type)):
            assert a.equals(b.cast(a.type)), name
            continue
        # Batches that are cut elsewhere move the towers' last digits.
        a, b = (np.stack(values.drop_null().to_numpy(zero_copy_only=False)) for values in (a, b))
        assert np.abs(a - b).max() < 1e-6, (name, np.abs(a - b).max())


def check_data(bench: Bench) -> None:
    output = bench.work / "data"
    with ray_cluster(3) as (cluster, _):
        killer = Killer("transform", bench.pipeline)
        said = Started([sys.executable, EXAMPLES / "ray_data_example.py", bench.pipeline, bench.table,
                        output], RAY_ADDRESS=cluster.address).end()
    assert killer.has_killed and "starting it again" in said, said
    assert_scored(bench, output)
    print("data: through Ray Data, a clipmill killed: same values")


def check_spark(bench: Bench) -> None:
    if shutil.which("java") is None and "CI" in os.environ:
        sys.exit("CI needs Java for Spark: apt-get install openjdk-17-jre-headless")
    if shutil.which("java") is None:
        print("spark: SKIPPED, there is no Java: apt-get install openjdk-17-jre-headless")
        return
    output = bench.work / "spark"
    # A failed task is tried again, which local mode does not do unless it is told to.
    submit = ["--master", "local[2,4]", "--driver-memory", "1g",
              "--conf", "spark.sql.execution.arrow.maxRecordsPerBatch=128", "pyspark-shell"]
    killer = Killer("transform", bench.pipeline)
    said = Started([sys.executable, EXAMPLES / "spark_example.py", bench.pipeline, bench.table, output],
                   PYSPARK_SUBMIT_ARGS=" ".join(submit), PYSPARK_PYTHON=sys.executable).end()
    assert killer.has_killed and "Lost task" in said, said
    assert_scored(bench, output)
    print("spark: through mapInArrow, a clipmill killed: same values")


def measure_overhead(bench: Bench) -> None:
    """Seconds of one run, and of a worker that is asked part by part, one ahead, and `finalize`; in turn."""

    settings = [bench.pipeline, "--threads", "1", "--quiet"]

    def run(command: str, output: Path) -> None:
        subprocess.run([CLIPMILL, command, *settings, "--output", output], check=True)

    def worker(output: Path) -> None:
        command = [CLIPMILL, "worker", *settings, "--output", output]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes) as process:
            asked = done = 0
            while done < bench.n_parts:
                event = json.loads(process.stdout.readline())["event"]
                done += event == "done"
                n_more = {"ready": 2, "done": 1}.get(event, 0)
                for part in range(asked, min(asked + n_more, bench.n_parts)):
                    process.stdin.write(f'{{"part": {part}}}\n')
                process.stdin.flush()
                asked += n_more
        assert process.returncode == 0

    def seconds(work: Callable[[], None]) -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    rounds = []
    for number in range(5):
        one, other = bench.work / f"run_{number}", bench.work / f"worker_{number}"
        jobs = {"run": lambda: run("run", one), "worker": lambda: worker(other),
                "finalize": lambda: run("finalize", other)}
        # Who begins has the machine as it comes; take turns.
        names = ["run", "worker", "finalize"] if number % 2 else ["worker", "finalize", "run"]
        rounds.append({name: seconds(jobs[name]) for name in names})
        assert_same(other, content(one))
    for name in ("worker", "finalize"):
        ratio = statistics.median(times[name] / times["run"] for times in rounds)
        more = statistics.median(times[name] for times in rounds)
        print(f"overhead: {name} takes {ratio:.3f} of a run's time, {more:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="50 repetitions of the sample's rows, not 6")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas between them")
    args = parser.parse_args()
    # The examples call the program by its name.
    os.environ["PATH"] = f"{CLIPMILL.parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    checks = {"refused": check_refused, "nodes": check_nodes, "driver": check_driver,
              "data": check_data, "spark": check_spark, "overhead": measure_overhead}
    with tempfile.TemporaryDirectory(prefix="clipmill-") as work:
        bench = Bench(Path(work), 50 if args.full else 6)
        for name in args.only.split(","):
            checks[name](bench)


if __name__ == "__main__":
    main()

"""`pipelines/airflow_dag.py` in an Airflow: `make test-airflow`, also part of `make test-cluster`.

A real Airflow, on SQLite in a scratch folder and without a scheduler or a network (`dag.test()`), runs the
file as it is shipped: twice with our program over the sample, then with a stand-in for it that ends as it is
told to. What is asked: which exit codes are tried again, which fail at once, what runs after them, and that
no param is text of a shell.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RETRIES = 2
# Ends as the next line of `codes` says, a signal where it is below zero; with 0 when there is none. Writes
# down each of its arguments in a line.
STAND_IN = """#!/bin/bash
printf '%s\\n' "$@" -- >> {calls}
test "$1" = report && echo '{{"rows": 1}}'
test "$1" = run || exit 0
code=$(head -n 1 {codes}); sed -i 1d {codes}
test "${{code:-0}}" -ge 0 || kill "$code" $$
exit "${{code:-0}}"
"""


class Nights:
    """The DAG, and its runs one after another. Its tries follow each other at once."""

    def __init__(self, work: Path) -> None:
        self.work = work
        # Read by Airflow when it is imported.
        os.environ |= {
            "AIRFLOW_HOME": str(work),
            "AIRFLOW__CORE__DAGS_FOLDER": str(work / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "CRITICAL",
        }
        (work / "dags").mkdir()
        (work / "dags" / "airflow_dag.py").symlink_to(ROOT / "pipelines" / "airflow_dag.py")
        from airflow.dag_processing.dagbag import DagBag
        from airflow.utils.db import initdb

        initdb()
        bag = DagBag(work / "dags")
        assert not bag.import_errors, bag.import_errors
        self.dag = bag.dags["clipmill_nightly"]
        self.path = os.environ["PATH"]
        for task in self.dag.tasks:
            assert task.retries > RETRIES and task.retry_exponential_backoff, task
            task.retries, task.retry_delay = RETRIES, timedelta(0)
            task.retry_exponential_backoff = False

    def run(self, program: Path, **params: str) -> dict[str, tuple[str, int]]:
        """A night with that program: the state and the tries of each task, and of the whole."""
        os.environ["PATH"] = f"{program.parent}{os.pathsep}{self.path}"
        self.last = self.dag.test(run_conf=params)
        tasks = {task.task_id: (str(task.state), task.try_number)
                 for task in self.last.get_task_instances()}
        return tasks | {"dag": (str(self.last.state), 1)}

    def xcom(self, task: str) -> object:
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            found = XComModel.get_many(run_id=self.last.run_id, key="return_value", task_ids=task)
            return XComModel.deserialize_value(session.scalars(found).one())


class StandIn:
    """A program named clipmill."""

    def __init__(self, work: Path) -> None:
        self.dir = work / "bin"
        self.dir.mkdir()
        self.program, self.codes, self.calls = (self.dir / name for name in ("clipmill", "codes", "calls"))
        self.program.write_text(STAND_IN.format(codes=self.codes, calls=self.calls))
        self.program.chmod(0o755)

    @contextmanager
    def ending(self, *codes: int) -> Iterator[Path]:
        self.codes.write_text("".join(f"{code}\n" for code in codes))
        self.calls.write_text("")
        yield self.program

    def called(self) -> list[list[str]]:
        calls = self.calls.read_text().split("\n--\n")[:-1]
        return [call.split("\n") for call in calls]


def check_program(nights: Nights) -> None:
    """Our program on the sample, and again with nothing new."""
    program = ROOT / "target" / "release" / "clipmill"
    output, page = nights.work / "scored", nights.work / "page.html"
    os.chdir(ROOT)
    text = (ROOT / "pipelines" / "nightly_etl.toml").read_text()
    # An absolute path to each: a task starts in a folder of its own.
    text = text.replace('"sample_data', f'"{ROOT}/sample_data').replace('"out/', f'"{nights.work}/')
    pipeline = nights.work / "nightly.toml"
    pipeline.write_text(text)
    where = {"pipeline": str(pipeline), "input": str(ROOT / "sample_data"), "output": str(output),
             "page": str(page)}
    all_well = {name: ("success", 1) for name in ("run", "verify", "report", "dag")}
    made = nights.run(program, **where)
    assert made == all_well, made
    assert (output / "_SUCCESS").exists() and "<html" in page.read_text()
    assert nights.xcom("report")["rows"] == 269
    before = (output / "part-00000.parquet").stat().st_mtime_ns
    again = nights.run(program, **where)
    assert again == all_well, again
    assert (output / "part-00000.parquet").stat().st_mtime_ns == before
    print("airflow: the sample scored, verified, reported; nothing done twice")


def check_exit_codes(nights: Nights, stand_in: StandIn) -> None:
    for code in (73, 75, 143, -9, -11):
        with stand_in.ending(code) as program:
            done = nights.run(program)
        assert done["run"] == ("success", 2) and done["dag"][0] == "success", (code, done)
    with stand_in.ending(*[75] * (RETRIES + 1)) as program:
        done = nights.run(program)
    assert done["run"] == ("failed", RETRIES + 1) and done["dag"][0] == "failed", done
    print("airflow: what may go better is tried again")
    for code in (1, 2, 3, 4):
        with stand_in.ending(code) as program:
            done = nights.run(program)
        assert done["run"] == ("failed", 1), (code, done)
        assert done["verify"][0] == "upstream_failed" and done["dag"][0] == "failed", (code, done)
        # The page of a bad night.
        assert done["report"] == ("success", 1), (code, done)
        assert [call[0] for call in stand_in.called()] == ["run", "report"]
    print("airflow: what may not fails at once, with its page")


def check_params(nights: Nights, stand_in: StandIn) -> None:
    odd = "/data/it's $(touch pwned) `x` \"y\"/*.parquet"
    with stand_in.ending() as program:
        nights.run(program, input=odd, output=odd, page=odd, pipeline=odd, options="--redo-changed --limit 5")
    run, *others = stand_in.called()
    more = ["--incremental", "--redo-changed", "--limit", "5"]
    assert run == ["run", odd, "--input", odd, "--output", odd, *more], run
    assert sorted(others) == [["report", odd, "--out", odd, "--json"], ["verify", odd]], others
    print("airflow: params reach the program as they are")


def main() -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="clipmill-") as work:
        nights = Nights(Path(work))
        stand_in = StandIn(Path(work))
        check_program(nights)
        check_exit_codes(nights, stand_in)
        check_params(nights, stand_in)
    print(f"airflow: {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()

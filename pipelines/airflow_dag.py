"""A clipmill job as an Airflow DAG: every night at three, what is new in the input is scored.

Put this file into the folder of DAGs (tried with Airflow 3.3). The workers need clipmill in their PATH, and
see pipeline, input, model and output under the same names; a run is one process on one of them. Where they
are is said by the DAG's params, here or for one run by hand: absolute paths, or of a store (s3://, gs://,
az://).

    run      what is new is scored. A try that may go better later (held by another process, disk full, a
             host that is away, killed) is made again; one that may not fails at once
    verify   every part against its recorded digest; reads all of the output
    report   a page of the output as it is, of a bad night too; its numbers are the task's XCom
"""

import json
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Context, Param
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

# clipmill's exit codes (`clipmill --help`) that no other try makes better: failed, bad usage, too many rows
# failed, scores that are not as they were.
FINAL = {1, 2, 3, 4}


class ClipmillOperator(BashOperator):
    """A BashOperator whose final exit codes fail the task at once, whatever retries it has left."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(skip_on_exit_code=FINAL, **kwargs)

    def execute(self, context: Context) -> Any:
        try:
            return super().execute(context)
        except AirflowSkipException as final:
            said = str(final).removesuffix(" Skipping.")
            raise AirflowFailException(f"{said} No other try makes this better.") from None


with DAG(
    dag_id="clipmill_nightly",
    description="Score what came in since last night",
    doc_md=__doc__,
    schedule="0 3 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    # A night that was missed needs no run of its own: the next one scores what is new.
    catchup=False,
    max_active_runs=1,
    params={
        "pipeline": Param("/etc/clipmill/nightly_etl.toml", type="string"),
        "input": Param("/data/pairs", type="string", description="a folder, a glob, or of a store"),
        "output": Param("/data/scored", type="string", description="a folder, or of a store"),
        "page": Param("/data/scored.html", type="string", description="where the report goes"),
        "options": Param("", type="string", description="more for `clipmill run`, such as --redo-changed"),
    },
    default_args={
        "retries": 6,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1),
        # Values reach the shell as variables, never as text of the command.
        "env": {name.upper(): "{{ params.%s }}" % name
                for name in ("pipeline", "input", "output", "page", "options")},
        "append_env": True,
    },
) as dag:
    run = ClipmillOperator(
        task_id="run",
        # Options are several words: they stand without quotes.
        bash_command='clipmill run "$PIPELINE" --input "$INPUT" --output "$OUTPUT" --incremental $OPTIONS',
    )
    verify = ClipmillOperator(task_id="verify", bash_command='clipmill verify "$OUTPUT"')
    report = ClipmillOperator(
        task_id="report",
        # On one line: the last one is the XCom.
        bash_command="set -o pipefail; clipmill report \"$OUTPUT\" --out \"$PAGE\" --json | tr -d '\\n'",
        output_processor=json.loads,
        # Where a gate failed, the run has not come to the pipeline's own report.
        trigger_rule="all_done",
    )
    run >> [verify, report]

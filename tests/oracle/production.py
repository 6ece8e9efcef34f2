"""Reads what a run tells a scheduler, as those do who get it.

Usage: production.py metrics DIR OUT
           files of DIR, by how their run ended, parse as Prometheus parses them, keep its rules and say
           what pyarrow counts in OUT
       production.py lineage FILE OUT INPUT
           the events of FILE fit OpenLineage's schemas (openlineage/, of its repository at commit
           8f02abfb7a252783b95df79f443edb13959bf52c) and say what pyarrow reads in OUT and INPUT
       production.py reports OUT...
           each run_report.json fits src/report.schema.json; with a field more, less or renamed none does
"""

import copy
import datetime
import json
import re
import sys
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

HERE = Path(__file__).resolve().parent


def parts(out):
    return sorted(out.glob("*.parquet"))


def table(out):
    return pa.concat_tables(pq.read_table(file) for file in parts(out))


def instant(text):
    at = datetime.datetime.fromisoformat(text)
    assert at.tzinfo == datetime.timezone.utc, text
    age = (datetime.datetime.now(datetime.timezone.utc) - at).total_seconds()
    assert 0 <= age < 3600, text
    return at


# Metrics.

def families(file):
    """Metrics by name, each a list of (labels, value)."""
    from prometheus_client.parser import text_string_to_metric_families
    text = file.read_text()
    assert text.endswith("\n")
    # Where the parser is lenient: HELP, then TYPE, then all samples of a metric, once.
    heads = re.findall(r"^# (HELP|TYPE) (\S+) (.+)$", text, re.M)
    seen = []
    for (help_, name, words), (type_, same, kind) in zip(heads[::2], heads[1::2], strict=True):
        assert (help_, type_, kind) == ("HELP", "TYPE", "gauge") and name == same, (name, kind)
        assert words.endswith(".") and name not in seen
        seen.append(name)
    order = [line.split("{")[0] for line in text.splitlines() if not line.startswith("#")]
    assert [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name] == seen
    found = {}
    for family in text_string_to_metric_families(text):
        name = family.name
        assert re.fullmatch(r"clipmill_[a-z_]+", name) and not name.endswith("_total"), name
        assert not re.search(r"_(milliseconds|ms|minutes|kb|mb|percent)(_|$)", name), name
        keys = [tuple(sorted(sample.labels.items())) for sample in family.samples]
        assert len(set(keys)) == len(keys), name
        for sample in family.samples:
            assert sample.name == name and sample.labels.pop("pipeline") == "sample"
        found[name] = [(sample.labels, sample.value) for sample in family.samples]
    assert list(found) == seen
    return found


def metrics(where, out):
    names = ["run", "failed", "refused", "running", "stopped"]
    states = {name: families(where / name) for name in names}

    def one(name, metric):
        [(labels, value)] = states[name]["clipmill_" + metric]
        assert set(labels) == {"output"}
        return value

    run, failed, refused, running, stopped = (states[name] for name in names)
    for name, code in [("run", 0), ("failed", 3), ("refused", 2), ("stopped", 143)]:
        assert one(name, "run_exit_code") == code, name
        assert one(name, "run_success") == (code == 0) and one(name, "run_running") == 0
        took = one(name, "run_end_timestamp_seconds") - one(name, "run_start_timestamp_seconds")
        assert abs(took - one(name, "run_duration_seconds")) < 0.01
    assert one("running", "run_running") == 1
    for ended in ["success", "exit_code", "end_timestamp_seconds"]:
        assert "clipmill_run_" + ended not in running, ended
    last = one("run", "last_success_timestamp_seconds")
    assert last == one("run", "run_end_timestamp_seconds")
    instant(datetime.datetime.fromtimestamp(last, datetime.timezone.utc).isoformat())
    assert all(one(name, "last_success_timestamp_seconds") == last for name in names)

    made = table(out)
    counts = {count["values"]: count["counts"] for count in
              pc.value_counts(made["status"]).to_pylist()}
    assert len(counts) > 3
    report = json.loads((out / "run_report.json").read_text())
    for state in [run, failed]:
        rows = {labels["status"]: value for labels, value in state["clipmill_rows"]}
        assert all(labels["output"] == str(out) for labels, _ in state["clipmill_rows"])
        assert {status: n for status, n in rows.items() if n} == counts
        assert set(report["failed"]) | {"ok"} == set(counts) and len(rows) == 18
    scores = made["similarity"].combine_chunks()
    [(labels, mean)] = run["clipmill_score_mean"]
    assert labels["column"] == "similarity"
    assert abs(mean - pc.mean(scores.cast("float64")).as_py()) < 1e-6
    assert one_of(run, "scored_rows") == len(scores) - scores.null_count
    quantiles = {float(labels["quantile"]): value
                 for labels, value in run["clipmill_score_quantile"]}
    assert list(quantiles) == [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]
    lower, higher = (pc.quantile(scores.cast("float64"), list(quantiles), interpolation=how)
                     for how in ["lower", "higher"])
    for value, low, high in zip(quantiles.values(), lower, higher, strict=True):
        # The program's are to 1e-4.
        assert low.as_py() - 2e-4 <= value <= high.as_py() + 2e-4
    assert one("run", "parts") == one("run", "plan_parts") == len(parts(out))
    assert one("run", "output_bytes") == sum(file.stat().st_size for file in parts(out))
    assert one("run", "run_rows") == one("run", "plan_rows") == len(made)
    assert one("run", "run_failed_rows") == len(made) - counts["ok"]
    # The second run found all there.
    assert one("failed", "run_rows") == 0 and "clipmill_run_work_seconds" not in failed
    assert "clipmill_rows" not in refused and "clipmill_rows" not in stopped
    stages = {labels["stage"]: value for labels, value in run["clipmill_run_stage_busy_seconds"]}
    theirs = {stage["stage"]: stage["busy_seconds"] for stage in report["this_run"]["stages"]}
    assert stages == theirs
    assert one("run", "run_work_seconds") == report["this_run"]["seconds"]
    memory = one("run", "run_peak_memory_bytes")
    assert 0 <= memory - report["this_run"]["peak_memory"] < 1 << 30
    [(labels, value)] = run["clipmill_build_info"]
    assert labels["version"] == report["clipmill"] and value == 1


def one_of(state, metric):
    [(_, value)] = state["clipmill_" + metric]
    return value


# Lineage.

def lineage(file, out, source):
    root = HERE / "openlineage"
    schemas = [json.loads(path.read_text()) for path in root.rglob("*.json")]
    registry = Registry().with_resources(
        (schema["$id"], Resource.from_contents(schema)) for schema in schemas)
    ids = {schema["$id"] for schema in schemas}

    def fits(event):
        """Whether an event fits, and each of its facets the schema that it names."""
        of_event = Draft202012Validator({"$ref": event["schemaURL"]}, registry=registry)
        if not of_event.is_valid(event):
            return False
        holders = [(event["run"], "facets"), (event["job"], "facets")]
        for data in event["inputs"] + event["outputs"]:
            holders += [(data, "facets"), (data, "outputFacets")]
        for holder, key in holders:
            for name, facet in holder.get(key, {}).items():
                assert facet["_schemaURL"] in ids, facet["_schemaURL"]
                schema = Draft202012Validator({"$ref": facet["_schemaURL"]}, registry=registry)
                if not schema.is_valid({name: facet}):
                    return False
        return True

    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(fits(event) for event in events)
    # It can be otherwise.
    for spoil in [lambda event: event["run"].pop("runId"), lambda event: event.pop("eventTime"),
                  lambda event: event.update(eventType="DONE"),
                  lambda event: event["outputs"][0]["facets"]["schema"]["fields"][0].pop("name"),
                  lambda event: event["outputs"][0]["outputFacets"]["outputStatistics"].update(
                      rowCount="many"),
                  lambda event: event["run"]["facets"]["parent"].pop("job")]:
        spoilt = copy.deepcopy(events[1])
        spoil(spoilt)
        assert not fits(spoilt)
    states = [event["eventType"] for event in events]
    assert states == ["START", "COMPLETE", "START", "FAIL", "START", "FAIL"], states
    runs = [uuid.UUID(event["run"]["runId"]) for event in events]
    assert all(run.version == 7 and run.variant == uuid.RFC_4122 for run in runs)
    assert runs[::2] == runs[1::2] and len(set(runs)) == 3 and runs[::2] == sorted(runs[::2])
    times = [instant(event["eventTime"]) for event in events]
    assert times == sorted(times) and times[0] < times[1]
    for event in events:
        job = event["job"]
        assert (job["namespace"], job["name"]) == ("nightly", "sample")

    started, done, _, over, refused, ended = events
    made = table(out)
    size = {"rowCount": len(made), "fileCount": len(parts(out)),
            "size": sum(path.stat().st_size for path in parts(out))}
    for event in [started, done, over]:
        [read], [written] = event["inputs"], event["outputs"]
        assert (read["namespace"], read["name"]) == ("file", str(source.resolve()))
        assert (written["namespace"], written["name"]) == ("file", str(out.resolve()))
        for data, schema in [(read, pq.read_schema(source)), (written, made.schema)]:
            fields = data["facets"]["schema"]["fields"]
            assert [field["name"] for field in fields] == schema.names
            assert all(field["type"] for field in fields)
    assert "outputFacets" not in started["outputs"][0]
    for event in [done, over]:
        facet = event["outputs"][0]["outputFacets"]["outputStatistics"]
        assert size == {key: facet[key] for key in size}
    assert "errorMessage" not in done["run"]["facets"]
    assert "max-failed" in over["run"]["facets"]["errorMessage"]["message"]
    assert "missing.parquet" in ended["run"]["facets"]["errorMessage"]["message"]
    assert "errorMessage" not in refused["run"]["facets"]
    parent = done["run"]["facets"]["parent"]
    assert parent["job"] == {"namespace": "airflow", "name": "dag.task"}
    assert parent["run"] == {"runId": "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"}
    assert "parent" not in over["run"]["facets"]


# Reports.

def objects(value):
    """Every object in a report whose keys the schema names."""
    if isinstance(value, dict):
        yield value
        for key, inner in value.items():
            if key not in ("pipeline", "failed"):
                yield from objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner)


def described(schema):
    """Makes sure that every field says what it is, and every object is closed."""
    for inner in schema.get("properties", {}).values():
        assert inner.get("description"), inner
    if "properties" in schema:
        assert schema["additionalProperties"] is False and set(schema["required"]) == set(
            schema["properties"])
    for inner in [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]:
        described(inner)


def reports(outs):
    schema = json.loads((HERE.parents[1] / "src/report.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    described(schema)
    validator = Draft202012Validator(schema)
    read = [json.loads((out / "run_report.json").read_text()) for out in outs]
    for out, report in zip(outs, read, strict=True):
        validator.validate(report)
        assert next(iter(report)) == "schema_version"
        assert report["rows"] == len(table(out)) == report["ok"] + sum(report["failed"].values())
        work = report["this_run"]
        took = (instant(work["finished"]) - instant(work["started"])).total_seconds()
        assert abs(took - work["seconds"]) < 0.01
    sample, several, shared = read
    assert sample["failed"] and len(several["scores"]) == 2
    assert shared["this_run"]["rows"] == 0 and len(sample["this_run"]["devices"]) == 1
    # Whatever is otherwise does not fit, in every object.
    for nth, whole in enumerate(objects(sample)):
        for key in whole:
            for spoil in ["remove", "rename", "add", "type"]:
                spoilt = copy.deepcopy(sample)
                at = list(objects(spoilt))[nth]
                if spoil == "add":
                    at[key + "_more"] = 1
                elif spoil == "type":
                    at[key] = {"other": []} if key not in ("pipeline", "failed") else 1
                else:
                    value = at.pop(key)
                    if spoil == "rename":
                        at[key + "_renamed"] = value
                assert not validator.is_valid(spoilt), (spoil, key)


what, *paths = sys.argv[1:]
paths = [Path(path) for path in paths]
if what == "reports":
    reports(paths)
else:
    {"metrics": metrics, "lineage": lineage}[what](*paths)

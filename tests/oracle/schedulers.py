"""What is shipped for schedulers, held against systemd, `sh` and flock, and the program's own help.

    schedulers.py units PROGRAM DIR    the systemd units, as systemd reads them
    schedulers.py cron PROGRAM DIR     the crontab's line, run as cron runs it, three nights and two at once
    schedulers.py dag PROGRAM DIR      the Airflow DAG, read and not run (`make test-airflow` runs it)

DIR is empty, and stands for the machine: what the files call /etc, /var and /usr/local is in it.
"""

import ast
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PIPELINES = ROOT / "pipelines"
# Exit codes that no other try makes better, and those that may pass.
FINAL, PASSING = {1, 2, 3, 4}, {73, 75}


def check_command(program: str, line: str) -> None:
    """Every option that a command names is one that the program has."""
    command = re.search(r"\bclipmill (run|verify|report)\b([^|>]*)", line)
    assert command, line
    known = subprocess.run([program, command[1], "--help"], stdout=subprocess.PIPE, text=True, check=True)
    for option in re.findall(r"(?<!\S)--[a-z-]+", command[2]):
        assert re.search(rf"{option}\b", known.stdout), f"clipmill {command[1]} has no {option}"


def check_exit_codes(program: str, final: set[int]) -> None:
    """A scheduler's list of codes that it does not try again."""
    said = subprocess.run([program, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
    said = said[said.index("Exit codes:"):]
    known = {int(code) for code in re.findall(r"^ +(\d+) ", said, re.MULTILINE)}
    assert final == FINAL and FINAL | PASSING <= known, (final, known)


def settings(unit: str) -> dict[str, str]:
    lines = [line.split("=", 1) for line in unit.splitlines() if line[:1].isalpha()]
    return {key: value for key, value in lines}


def analyze(*args: object) -> str:
    """What systemd says; it complains of what it does not know, and goes on."""
    ran = subprocess.run(["systemd-analyze", *map(str, args)], capture_output=True, text=True)
    assert ran.returncode == 0, f"{args}: {ran.stdout}{ran.stderr}"
    for word in ("Unknown", "Failed to parse", "Invalid", "Refusing"):
        assert word not in ran.stderr, ran.stderr
    return ran.stdout


def check_units(program: str, machine: Path) -> None:
    units = {}
    for kind in ("service", "timer"):
        text = (PIPELINES / f"clipmill-nightly.{kind}").read_text()
        units[kind] = machine / f"clipmill-nightly.{kind}"
        units[kind].write_text(text.replace("/usr/local/bin/clipmill", program))
    analyze("verify", "--man=no", *units.values())
    on_gpus = machine / "on_gpus" / units["service"].name
    on_gpus.parent.mkdir()
    text = units["service"].read_text()
    for old, new in (("PrivateDevices=yes\n", ""), ("#DeviceAllow=", "DeviceAllow=")):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    on_gpus.write_text(text)
    analyze("verify", "--man=no", on_gpus)
    # Tenths of 0, locked up, to 10, open.
    analyze("security", "--offline=true", "--no-pager", "--threshold=20", units["service"])
    when = settings(units["timer"].read_text())["OnCalendar"]
    elapses = re.findall(r"(?:elapse|#\d+): \w+ \S+ (\S+)", analyze("calendar", "--iterations=3", when))
    assert elapses == ["03:00:00"] * 3, elapses
    service = settings((PIPELINES / "clipmill-nightly.service").read_text())
    check_command(program, service["ExecStart"])
    check_exit_codes(program, {int(code) for code in service["RestartPreventExitStatus"].split()})
    assert service["Restart"] == "on-failure" and service["SuccessExitStatus"] == "143"


def crontab(machine: Path, program: Path) -> tuple[dict[str, str], str]:
    """The environment and the one command of the crontab, on that machine."""
    environment, commands = {}, []
    for line in (PIPELINES / "crontab").read_text().splitlines():
        if setting := re.fullmatch(r"([A-Z]+)=(\S+)", line):
            environment[setting[1]] = setting[2]
        elif line and not line.startswith("#"):
            *times, command = line.split(None, 5)
            assert times == ["0", "3", "*", "*", "*"], times
            # To cron it ends the line.
            assert "%" not in command
            check_command(str(program), command)
            commands.append(command)
    for folder in ("/etc/clipmill", "/var/lib/clipmill", "/var/log/clipmill"):
        (machine / folder[1:]).mkdir(parents=True)
        commands = [command.replace(folder, f"{machine}{folder}") for command in commands]
    (machine / "bin").mkdir()
    environment["PATH"] = f"{machine}/bin:{environment['PATH']}"
    (command,) = commands
    return environment, command


def check_cron(program: str, machine: Path) -> None:
    environment, command = crontab(machine, Path(program))
    clipmill, log = machine / "bin" / "clipmill", machine / "var/log/clipmill/nightly.log"

    def start() -> subprocess.Popen:
        return subprocess.Popen([environment["SHELL"], "-c", command], env=environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def mail(line: subprocess.Popen) -> str:
        return line.communicate(timeout=60)[0]

    # One that waits for a word, then ends as it says.
    pipe = machine / "pipe"
    os.mkfifo(pipe)
    clipmill.write_text(f"#!/bin/sh\necho at work\nread code < {pipe}\nexit $code\n")
    clipmill.chmod(0o755)
    for n_runs, code in enumerate((0, 3), 1):
        first = start()
        # At work it has the lock.
        while not log.exists() or log.read_text() != "at work\n" * n_runs:
            assert first.poll() is None, mail(first)
            time.sleep(0.01)
        with pipe.open("w") as word:
            assert mail(start()).startswith("clipmill ended with 73, see ")
            word.write(f"{code}\n")
        said = mail(first)
        assert said == "" if code == 0 else said.startswith(f"clipmill ended with {code}, see "), said
    assert log.read_text() == "at work\n" * 2, "the second one was started"

    clipmill.unlink()
    clipmill.symlink_to(program)
    check_nights(machine, lambda: mail(start()))


def check_nights(machine: Path, night: Callable[[], str]) -> None:
    """The shipped pipeline, on a folder that grows."""
    import pyarrow.parquet as pq

    table, data = pq.read_table(ROOT / "sample_data" / "captions.parquet"), machine / "data"
    data.mkdir()
    text = (PIPELINES / "nightly_etl.toml").read_text()
    for old, new in (('path    = "sample_data"', f'path = "{data}"'), ('"sample_data', f'"{ROOT}/sample_data'),
                     ('"out/', f'"{machine}/out/')):
        assert old in text, old
        text = text.replace(old, new)
    # Eight rows drift as no night's do.
    text = "".join(line for line in text.splitlines(True) if not line.startswith("max_drift"))
    (machine / "etc/clipmill/nightly_etl.toml").write_text(text)
    out, log = machine / "out" / "nightly", machine / "var/log/clipmill/nightly.log"

    def parts() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}

    pq.write_table(table.slice(0, 8), data / "monday.parquet")
    assert night() == "", log.read_text()
    first = parts()
    assert len(first) == 1 and (machine / "out" / "nightly.html").exists()
    assert night() == "" and parts() == first, log.read_text()
    pq.write_table(table.slice(8, 8), data / "tuesday.parquet")
    assert night() == "", log.read_text()
    both = parts()
    assert len(both) == 2 and first.items() <= both.items(), (first, both)
    scored = pq.read_table(sorted(out.glob("*.parquet"))).select(table.column_names)
    assert scored.equals(table.slice(0, 16)) and (out / "_SUCCESS").exists()


def check_dag(program: str) -> None:
    tree = ast.parse((PIPELINES / "airflow_dag.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]

    def words(call: ast.Call) -> dict[str, object]:
        return {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}

    named = {call.func.id: words(call) for call in calls if isinstance(call.func, ast.Name)}
    dag = named["DAG"]
    assert (dag["schedule"], dag["catchup"], dag["max_active_runs"]) == ("0 3 * * *", False, 1), dag
    tasks = [words(call) for call in calls if "task_id" in words(call)]
    assert [task["task_id"] for task in tasks] == ["run", "verify", "report"], tasks
    for task in tasks:
        check_command(program, task["bash_command"])
        # No param is text of the command.
        assert "{{" not in task["bash_command"]
    final = [ast.literal_eval(node.value) for node in tree.body
             if isinstance(node, ast.Assign) and node.targets[0].id == "FINAL"]
    check_exit_codes(program, *final)


def main(what: str, program: str, machine: str) -> None:
    match what:
        case "units":
            check_units(program, Path(machine))
        case "cron":
            check_cron(program, Path(machine))
        case "dag":
            check_dag(program)


if __name__ == "__main__":
    main(*sys.argv[1:])

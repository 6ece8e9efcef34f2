"""Runs a clipmill job on a Ray cluster: `python pipelines/ray_run.py job.toml`.

Each actor holds one `clipmill worker` for the whole job and asks it for parts, one by one. This is a
scheduler and nothing else: rows go from the input to the output inside the workers, never through Ray,
and what is promised of the output (parts whole or absent, the bytes that one machine would make) is
clipmill's promise. Stopped, killed or failed, the same command goes on.

Every node needs clipmill, and sees the input, the model and the output under the same names: a shared
file system, or a store (s3://, gs://, az://) with its credentials in the nodes' environment. Relative
paths start in the folder that this is called from, on every node.
"""

import argparse
import heapq
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

# clipmill's exit codes (`clipmill --help`) that are decided on here.
BAD_USAGE, LOCKED = 2, 73

# Parts that a worker has at most: the one that it is at, and one ahead, so that it never waits.
MOST_PARTS = 2
# How long a worker is listened to before it says how far it is. One call a worker in that time.
POLL_S = 2.0
# A part that failed before, or that somebody holds, is tried again after that.
AGAIN_S = 10.0
# How long a part may be held by somebody else: a worker whose node is lost may still be making it.
HELD_S = 1800.0
# How long workers may take to end when the job is interrupted.
END_S = 30.0

Event = dict[str, Any]


class JobFailed(Exception):
    """The job cannot go on. What is complete stays."""

    def __init__(self, error: str, exit_code: int) -> None:
        super().__init__(error)
        self.exit_code = exit_code


class Interrupted(BaseException):
    """Ctrl-C, or SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


class ClipmillWorker:
    """An actor: holds a `clipmill worker` process, and starts it again when it has ended."""

    def __init__(self, command: list[str], folder: str) -> None:
        self.command, self.folder = command, folder
        self.process: subprocess.Popen[str] | None = None
        self.said: queue.Queue[Event] = queue.Queue()
        self.said.put({"event": "placed", "node": ray.get_runtime_context().get_node_id()})

    def step(self, parts: list[int]) -> list[Event]:
        """Asks for parts. Gives what was said since the last step: at once when a part is done or the
        process has ended (event "exited"), else after `POLL_S`."""
        if self.process is None:
            self.start()
        elif parts:
            # If it has ended, the listener tells.
            with suppress(OSError):
                asked = "".join(json.dumps({"part": part}) + "\n" for part in parts)
                self.process.stdin.write(asked)
                self.process.stdin.flush()
        events: list[Event] = []
        until = time.monotonic() + POLL_S
        with suppress(queue.Empty):
            while True:
                event = self.said.get(timeout=max(0.0, until - time.monotonic()))
                events.append(event)
                if event["event"] == "exited":
                    self.process = None
                    break
                if event["event"] not in ("started", "rows"):
                    until = 0.0
        return events

    def start(self) -> None:
        try:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, text=True, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            self.said.put({"event": "exited", "exit_code": 127, "error": f"could not start "
                           f"{self.command[0]} in {self.folder} on {os.uname().nodename}: {error}; "
                           "every node needs both, under the same names"})
            return
        threading.Thread(target=self.listen, args=(self.process,), daemon=True).start()

    def listen(self, process: subprocess.Popen[str]) -> None:
        """Until the process has ended."""
        complaints: deque[str] = deque(maxlen=5)
        hearing = threading.Thread(target=pass_on, args=(process, complaints), daemon=True)
        hearing.start()
        for line in process.stdout:
            try:
                self.said.put(json.loads(line))
            except ValueError:
                complaints.append(f"half a line: {line.strip()}")
        code = process.wait()
        hearing.join(timeout=1.0)
        how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        error = ": ".join([f"clipmill worker on {os.uname().nodename} {how}", *complaints])
        self.said.put({"event": "exited", "exit_code": code, "error": error})

    def end(self, how: int | None) -> None:
        """Lets the process end, by itself where there is no signal to send."""
        if self.process is None:
            return
        if how is not None:
            self.process.send_signal(how)
        with suppress(OSError):
            self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=END_S)


def pass_on(process: subprocess.Popen[str], complaints: deque[str]) -> None:
    """What the process says to people goes to the actor's log, and the last of it is kept."""
    for line in process.stderr:
        complaints.append(line.strip())
        print(line, end="", file=sys.stderr, flush=True)


@dataclass
class Worker:
    """What the driver knows of an actor."""

    actor: ActorHandle
    node: str | None = None
    is_ready: bool = False
    # Asked for and not done, in the order in which they are done.
    parts: list[int] = field(default_factory=list)
    # Of the first of them, written so far.
    rows: int = 0
    # To be asked for here, and not of another worker.
    again: list[int] = field(default_factory=list)
    # Ends in a row that no part is the reason of, and why the last time.
    n_ends: int = 0
    error: str = ""
    # A part is the reason of the next end.
    is_excused: bool = False


class Job:
    """Which parts are done, which are waited for and who is at which."""

    def __init__(self, plan: Event, n_workers: int, most_tries: int) -> None:
        self.parts: list[Event] = plan["parts"]
        self.n_rows: int = plan["rows"]
        self.n_workers, self.most_tries = n_workers, most_tries
        self.queue = deque(range(len(self.parts)))
        # When, and which part.
        self.later: list[tuple[float, int]] = []
        self.tries: Counter[int] = Counter()
        self.held_since: dict[int, float] = {}
        self.done: set[int] = set()
        self.rows_done = self.rows_made = 0

    def is_done(self) -> bool:
        return len(self.done) == len(self.parts)

    def take(self, worker: Worker) -> list[int]:
        """The parts that a worker is to be asked for now."""
        while self.later and self.later[0][0] <= time.monotonic():
            self.queue.append(heapq.heappop(self.later)[1])
        taken = []
        while worker.is_ready and len(worker.parts) < MOST_PARTS:
            if worker.again and not worker.parts:
                part = worker.again.pop(0)
            elif self.queue and (not worker.parts or self.may_be_ahead(worker.parts[0])):
                part = self.queue.popleft()
            else:
                break
            worker.parts.append(part)
            taken.append(part)
        return taken

    def may_be_ahead(self, of: int) -> bool:
        """Whether the next part may wait for a worker that is at another one: not near the end, when
        others may be free sooner, and not where one of the two has failed before, so that it is plain
        which one does."""
        has_failed = self.tries[of] or self.tries[self.queue[0]]
        return len(self.queue) >= self.n_workers and not has_failed

    def hear(self, worker: Worker, event: Event) -> None:
        match event["event"]:
            case "placed":
                worker.node = event["node"]
            case "ready":
                worker.is_ready = True
                found = (event["parts"], event["rows"])
                if found != (len(self.parts), self.n_rows):
                    raise JobFailed(
                        f"node {worker.node} finds {found[0]} parts of {found[1]} rows, and here there "
                        f"are {len(self.parts)} of {self.n_rows}: every node has to see the same input",
                        BAD_USAGE)
            case "started":
                worker.rows = 0
            case "rows":
                worker.rows = event["rows"]
            case "done":
                self.part_is_done(worker, event)
            case "failed":
                self.part_failed(worker, event["part"], event["error"], event["exit_code"])
            case "exited":
                self.worker_ended(worker, event["error"], event["exit_code"])

    def part_is_done(self, worker: Worker, event: Event) -> None:
        part = event["part"]
        worker.parts.remove(part)
        worker.rows = 0
        worker.n_ends = 0
        self.done.add(part)
        self.rows_done += event["rows"]
        if not event["was_there"]:
            self.rows_made += event["rows"]

    def part_failed(self, worker: Worker, part: int | None, error: str, exit_code: int) -> None:
        """After which the worker ends. One that names no part was at the first, if at any."""
        if exit_code == BAD_USAGE or (exit_code == LOCKED and not worker.is_ready):
            raise JobFailed(error, exit_code)
        if part is None and worker.parts:
            part = worker.parts[0]
        if part not in worker.parts:
            return
        worker.is_excused = True
        worker.parts.remove(part)
        worker.rows = 0
        if exit_code == LOCKED:
            held_since = self.held_since.setdefault(part, time.monotonic())
            if time.monotonic() - held_since > HELD_S:
                raise JobFailed(error, exit_code)
            heapq.heappush(self.later, (time.monotonic() + AGAIN_S, part))
            return
        self.tries[part] += 1
        file, n_tries = self.parts[part]["file"], self.tries[part]
        if n_tries >= self.most_tries:
            raise JobFailed(f"{file} failed {n_tries} times, the last time: {error}", exit_code)
        say(f"{file} failed and is tried again: {error}")
        # The first time here again: this node knows which images were in flight when a decoder ended
        # the process (README, "Long jobs"). After that wherever.
        if n_tries == 1:
            worker.again.append(part)
        else:
            heapq.heappush(self.later, (time.monotonic() + AGAIN_S, part))

    def worker_ended(self, worker: Worker, error: str, exit_code: int) -> None:
        """The process, whose actor lives and starts another."""
        if not worker.is_excused:
            self.part_failed(worker, None, error, exit_code if exit_code > 0 else 1)
        self.queue.extendleft(reversed(worker.parts))
        worker.parts, worker.is_ready = [], False
        worker.n_ends += not worker.is_excused
        worker.is_excused, worker.error = False, error

    def actor_died(self, worker: Worker, error: str) -> None:
        """With its node, or alone. Its parts are given to others."""
        say(f"a worker is lost, another takes its place: {error}")
        worker.error = error
        if not worker.is_excused:
            self.part_failed(worker, None, error, 1)
        worker.n_ends += not worker.is_excused
        self.queue.extendleft(reversed(worker.again + worker.parts))


class Progress:
    """A line on stderr: over itself on a terminal, else now and then."""

    def __init__(self, job: Job, quiet: bool) -> None:
        self.job, self.quiet = job, quiet
        self.is_terminal = sys.stderr.isatty()
        self.every_s = 1.0 if self.is_terminal else 10.0
        self.last = 0.0
        # Of the last minute: when, and rows made until then.
        self.made: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def show(self, workers: list[Worker], *, is_last: bool = False) -> None:
        now = time.monotonic()
        if self.quiet or (now - self.last < self.every_s and not is_last):
            return
        self.last = now
        rows = sum(worker.rows for worker in workers)
        self.made.append((now, self.job.rows_made + rows))
        while len(self.made) > 2 and now - self.made[0][0] > 60.0:
            self.made.popleft()
        (since, before), (_, after) = self.made[0], self.made[-1]
        speed = max(0, after - before) / max(now - since, 1e-9)
        ready = [worker for worker in workers if worker.is_ready]
        line = (f"{len(self.job.done)}/{len(self.job.parts)} parts, "
                f"{self.job.rows_done + rows:,}/{self.job.n_rows:,} rows, {speed:,.0f} rows/s, "
                f"{len(ready)} workers on {len({worker.node for worker in ready})} nodes")
        start, end = ("\r\x1b[K", "\n" if is_last else "") if self.is_terminal else ("", "\n")
        print(start + line, end=end, file=sys.stderr, flush=True)


def run(job: Job, new_actor: Callable[[], ActorHandle], progress: Progress) -> None:
    """Hands out parts until all are done, then lets the workers end."""
    workers = [Worker(new_actor()) for _ in range(job.n_workers)]
    # One of each worker, always: what it is asked for, and what it says.
    calls: dict[ray.ObjectRef, Worker] = {}
    how: int | None = signal.SIGTERM
    try:
        for worker in workers:
            calls[worker.actor.step.remote([])] = worker
        while not job.is_done():
            answered, _ = ray.wait(list(calls), num_returns=1, timeout=1.0)
            for answer in answered:
                worker = calls.pop(answer)
                try:
                    for event in ray.get(answer):
                        job.hear(worker, event)
                except RayActorError as error:
                    job.actor_died(worker, str(error).splitlines()[0])
                    # It may have been out of reach alone.
                    ray.kill(worker.actor)
                    workers.remove(worker)
                    worker = Worker(new_actor(), n_ends=worker.n_ends, error=worker.error)
                    workers.append(worker)
                if worker.n_ends < job.most_tries:
                    calls[worker.actor.step.remote(job.take(worker))] = worker
                    continue
                say(f"a worker is given up: it ended {worker.n_ends} times before it was at a part")
                ray.kill(worker.actor)
                workers.remove(worker)
                job.queue.extend(worker.again)
                if not workers:
                    raise JobFailed(f"no worker is left: {worker.error}", 1)
            progress.show(workers)
        how = None
        progress.show(workers, is_last=True)
    finally:
        # Those that wait for a node have nothing to end.
        ended = [worker.actor.end.remote(how) for worker in workers if worker.node]
        if ended:
            ray.wait(ended, num_returns=len(ended), timeout=END_S + POLL_S)


def resources(num_cpus: int | None, num_gpus: float | None) -> tuple[int, float, int]:
    """What a worker takes, and how many fit: where there are GPUs one each with its share of the CPUs,
    else all CPUs of a node."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [node for node in nodes if node.get("CPU", 0) >= 1]
    if num_gpus is None:
        num_gpus = 1 if any(node.get("GPU", 0) >= 1 for node in nodes) else 0
    able = [node for node in nodes if node.get("GPU", 0) >= num_gpus]
    share = [node["CPU"] // max(1, node.get("GPU", 0) // num_gpus if num_gpus else 1) for node in able]
    if num_cpus is None:
        num_cpus = max(1, int(min(share, default=1)))
    fit = [min(node["CPU"] // num_cpus, node.get("GPU", 0) // num_gpus if num_gpus else node["CPU"])
           for node in able]
    return num_cpus, num_gpus, max(1, int(sum(fit)))


def finalize(command: list[str]) -> int:
    """Ends the job; waits for what a lost worker still holds. Gives clipmill's exit code."""
    until = time.monotonic() + HELD_S
    while True:
        code = subprocess.run(command, check=False).returncode
        if code != LOCKED or time.monotonic() > until:
            return code
        time.sleep(AGAIN_S)


def say(message: str) -> None:
    print(f"ray_run: {message}", file=sys.stderr, flush=True)


def interrupt(number: int, _: FrameType | None) -> NoReturn:
    raise Interrupted(number)


def arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    at = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        description="Run a clipmill job on a Ray cluster. The same command goes on with a job that was "
        "stopped. Exit codes are clipmill's.",
        epilog="Behind -- stand options of `clipmill run`: --input PATH, --output DIR, --set KEY=VALUE, "
        "--device DEVICE, --threads N, --limit ROWS. Example: ray_run.py job.toml --workers 8 -- "
        "--input 's3://lake/pairs/*.parquet' --output s3://lake/scored")
    parser.add_argument("pipeline", metavar="PIPELINE.toml", help="the pipeline file, on every node")
    parser.add_argument("--clipmill", metavar="PATH", default="clipmill",
                        help="the program, on every node; by default the one in PATH")
    parser.add_argument("--address", default="auto",
                        help="auto: the cluster that this machine belongs to, or RAY_ADDRESS; local: "
                        "this machine alone; or HOST:PORT (default: auto)")
    parser.add_argument("--workers", metavar="N", type=positive,
                        help="how many; more than fit wait for nodes to come, which makes a cluster "
                        "that scales itself grow (default: as many as fit now)")
    parser.add_argument("--num-gpus", metavar="G", type=amount,
                        help="GPUs of a worker (default: 1 where the cluster has some, else 0)")
    parser.add_argument("--num-cpus", metavar="C", type=positive,
                        help="CPUs of a worker, also its --threads: two to four feed a slow GPU, some "
                        "dozen a fast one (default: its share of the smallest node)")
    parser.add_argument("--tries", metavar="N", type=positive, default=4,
                        help="how often a part is tried before the job fails with its error, and how "
                        "often a worker may end before it is at one until it is given up (default: 4)")
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors and warnings")
    return parser.parse_args(argv[:at]), argv[at + 1:]


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return int(text)


def amount(text: str) -> float:
    """Two workers may share a GPU."""
    if not text.replace(".", "", 1).isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a number such as 0, 0.5 or 1")
    return float(text)


def listen_to_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def schedule(args: argparse.Namespace, options: list[str]) -> int:
    """Plans, runs and finalizes. Gives clipmill's exit code."""
    program = os.path.abspath(args.clipmill) if os.sep in args.clipmill else args.clipmill
    quiet = ["--quiet"] if args.quiet else []

    def clipmill(command: str, *more: str) -> list[str]:
        return [program, command, args.pipeline, *options, *more]

    try:
        planned = subprocess.run(clipmill("plan", "--json"), stdout=subprocess.PIPE, check=False)
    except OSError as error:
        raise JobFailed(f"could not start {program}: {error.strerror}; name it with --clipmill",
                        BAD_USAGE) from error
    if planned.returncode:
        return planned.returncode
    plan: Event = json.loads(planned.stdout)

    try:
        ray.init(address=args.address, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise JobFailed(f"{error}: start a cluster with `ray start --head`, or use --address local",
                        BAD_USAGE) from error
    # Ray has put its own in their place.
    listen_to_signals()
    num_cpus, num_gpus, n_fit = resources(args.num_cpus, args.num_gpus)
    is_told = any(option.split("=")[0] == "--threads" for option in options)
    threads = [] if is_told else ["--threads", str(num_cpus)]
    actor_class = ray.remote(
        num_cpus=num_cpus, num_gpus=num_gpus, scheduling_strategy="SPREAD")(ClipmillWorker)
    command = clipmill("worker", *threads, *quiet)
    job = Job(plan, min(args.workers or n_fit, max(1, len(plan["parts"]))), args.tries)
    run(job, lambda: actor_class.remote(command, os.getcwd()), Progress(job, args.quiet))
    # The nodes are free for others.
    ray.shutdown()
    # With the workers' settings, which the output says it was made with.
    return finalize(clipmill("finalize", *threads, *quiet))


def main(argv: list[str]) -> int:
    args, options = arguments(argv)
    # Nobody is told that a cluster of one's own is there.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    listen_to_signals()
    try:
        return schedule(args, options)
    except JobFailed as failed:
        say(str(failed))
        return failed.exit_code
    except Interrupted as interrupted:
        say("interrupted; the same command goes on")
        return interrupted.exit_code
    finally:
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""clipmill beside its peers, in one run on one machine: `make bench`, `make bench-full`.

Contenders take turns, and what counts is the ratio within a round, because machines drift. Stages
are workers (`stages.rs` for clipmill, `peers.py` for the others) that are called again and again;
runs are whole processes of clipmill, start and loading of the model included, against scripts
whose model is loaded before the clock starts.

Options: --full (more rows, rounds and peers; memory of a million rows) --only SECTION,...
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from data import MODEL, ROOT, SAMPLE, WORK, make_captions, make_data, make_model

PEERS = ROOT / ".venv" / "peers" / "bin" / "python"
CLIPMILL = ROOT / "target" / "release" / "clipmill"
STAGES = ["cargo", "bench", "--locked", "--quiet", "--bench", "stages", "--"]


class Worker:
    """A process that does its work once for every line that it is sent."""

    def __init__(self, command, cores=None):
        pin = (lambda: os.sched_setaffinity(0, cores)) if cores else None
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=pin)
        self.command = command
        self.wait_for(lambda line: line == "ready")

    def wait_for(self, wanted):
        """The next line that is the worker's own: libraries print what they like."""
        for line in self.process.stdout:
            if wanted(line.strip()):
                return line.strip()
        sys.exit(f"{self.command} ended: {self.process.stderr.read()[-2000:]}")

    def __call__(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.wait_for(is_number))

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def is_number(text):
    try:
        return float(text) > 0
    except ValueError:
        return False


class Run:
    """A whole run of clipmill over a table, as a contender."""

    def __init__(self, table, columns, precision="f32", model=MODEL, root=None, rows=None):
        self.out = WORK / "out"
        more = ["--limit", str(rows)] if rows else []
        pipeline = WORK / f"{table.stem}.toml"
        pipeline.write_text(PIPELINE.format(
            table=table, root=root or table.parent, model=model, precision=precision,
            columns="\n".join(f'{name} = "{kind}"' for name, kind in columns.items()),
            out=self.out))
        self.command = [CLIPMILL, "run", pipeline, "--quiet", *more]

    def __call__(self):
        shutil.rmtree(self.out, ignore_errors=True)
        started = time.perf_counter()
        subprocess.run(self.command, check=True)
        return time.perf_counter() - started

    def report(self):
        return json.loads((self.out / "run_report.json").read_text())

    def close(self):
        pass


PIPELINE = """version = 1
[source.parquet]
path = "{table}"
image = "image_path"
caption = "caption"
[image.path]
root = "{root}"
[model.clip]
dir = "{model}"
precision = "{precision}"
[columns]
{columns}
[sink.parquet]
path = "{out}"
"""

SCORED = {"image_embedding": "image_embedding", "text_embedding": "text_embedding",
          "score": "cosine"}
FEED = {"width": "image_width", "tokens": "caption_tokens"}


class Bench:
    def __init__(self, args):
        self.full, self.rounds = args.full, 5 if args.full else 3
        self.data = make_data(512)
        self.lines = []

    def say(self, line=""):
        self.lines.append(line)
        print(line, flush=True)

    def stage(self, name, *precision, cores=None):
        return Worker([*STAGES, name, self.data, *precision], cores)

    def peer(self, name, *precision, cores=None):
        return Worker([PEERS, ROOT / "tests/bench/peers.py", name, self.data, *precision], cores)

    def contest(self, what, rows, ours, peers):
        """One line a peer: rates and the ratio, `ours` first in every round."""
        seconds = {name: [] for name in ["clipmill", *peers]}
        for _ in range(self.rounds):
            for name, work in [("clipmill", ours), *peers.items()]:
                seconds[name].append(work())
        rate = {name: rows / statistics.median(values) for name, values in seconds.items()}
        for name in peers:
            ratios = [theirs / own for theirs, own in zip(seconds[name], seconds["clipmill"])]
            self.say(f"| {what} | {rate['clipmill']:.1f} | {name} | {rate[name]:.1f} "
                     f"| **{statistics.median(ratios):.2f}** "
                     f"| {min(ratios):.2f} to {max(ratios):.2f} |")
        for work in [ours, *peers.values()]:
            work.close()
        return rate

    def header(self):
        self.say("\n| what | clipmill, a second | peer | peer, a second | ratio, median | ratios |")
        self.say("|---|---|---|---|---|---|")

    def preprocess(self):
        """Decode and preprocess, on one core."""
        one = {0}
        peers = {f"{name}, to {upto}": self.peer(f"preprocess-{name.lower()}", upto, cores=one)
                 for name in ["torchvision", "OpenCV"] for upto in ["tensor", "pixels"]}
        peers["transformers over Pillow"] = self.peer("preprocess-pillow", cores=one)
        self.contest("decode and preprocess, images, one core", 512,
                     self.stage("preprocess", cores=one), peers)

    def image(self):
        for precision in ["bf16", "f32"]:
            peers = {"OpenVINO": "image-openvino", "transformers": "image-hf"}
            if self.full:
                peers["torch.compile"] = "image-compiled"
                if precision == "bf16":
                    peers["ONNX Runtime, int8"] = "image-onnxruntime"
            peers = {name: self.peer(worker, precision) for name, worker in peers.items()}
            self.contest(f"image tower, images, {precision}", 128,
                         self.stage("image", precision), peers)

    def text(self):
        for precision in ["bf16", "f32"]:
            self.contest(f"text tower, captions, {precision}", 512, self.stage("text", precision),
                         {"transformers, longest of batch": self.peer("text-hf", precision)})

    def run(self):
        """Whole runs; and what the encode stage alone reaches, in the same rounds."""
        for precision in ["bf16", "f32"]:
            peers = {"transformers": self.peer("run-hf", precision)}
            if self.full:
                peers["open_clip"] = self.peer("run-open-clip", precision)
            peers["own towers alone"] = self.stage("encode", precision)
            run = Run(self.data / "table.parquet", SCORED, precision)
            self.contest(f"end to end, rows, {precision}", 512, run, peers)

    def feed(self):
        """Read, decode, tokenize and write, without a model."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(self.data / "table.parquet")
        path = self.data / "four_times.parquet"
        pq.write_table(pa.concat_tables([table] * 4), path)
        self.alone("feed, whole process, rows a second", Run(path, FEED),
                   lambda seconds: 4 * len(table) / seconds)

    def start(self):
        """From the shell to the end of a run of one batch, the weights in the page cache."""
        run = Run(self.data / "table.parquet", SCORED, "bf16", rows=64)
        run()
        self.alone("start to the end of the first 64 rows, bf16, seconds", run, lambda s: s)

    def overhead(self):
        """Rows without images and model: reading, status, writing, publishing."""
        path, rows = captions(1_000_000), 1_000_000
        run = Run(path, {"status": "status"}, root=ROOT)
        self.alone("overhead, microseconds a row", run, lambda s: s / rows * 1e6)

    def alone(self, what, run, of_seconds):
        values = [of_seconds(run()) for _ in range(self.rounds)]
        self.say(f"- {what}: {statistics.median(values):.2f} "
                 f"({min(values):.2f} to {max(values):.2f})")

    def memory(self):
        """Peak memory of many rows against that of few, with the sample's model and images."""
        peaks = {}
        for rows in [50_000, 1_000_000] if self.full else [5_000, 50_000]:
            columns = SCORED | FEED
            run = Run(sample_rows(rows), columns, model=SAMPLE, root=ROOT / "sample_data")
            seconds = run()
            peaks[rows] = run.report()["this_run"]["peak_memory"]
            self.say(f"- {rows} rows of the sample, {rows / seconds:.0f} rows/s: peak memory "
                     f"{peaks[rows] / 2**20:.0f} MiB")
        few, many = peaks.values()
        self.say(f"- peak memory, many rows to few: {many / few:.3f}")


def captions(rows):
    """A table of captions, in row groups as people have them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = WORK / f"captions-{rows}.parquet"
    if not path.exists():
        texts = make_captions(np.random.default_rng(7), rows)
        table = pa.table({"id": range(rows), "image_path": [f"{i}.jpg" for i in range(rows)],
                          "caption": texts})
        pq.write_table(table, path, row_group_size=65536)
    return path


def sample_rows(rows):
    """The sample's table, over and over."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = WORK / f"sample-{rows}.parquet"
    if not path.exists():
        table = pq.read_table(ROOT / "sample_data" / "captions.parquet")
        table = pa.concat_tables([table] * (rows // len(table) + 1)).slice(0, rows)
        pq.write_table(table.combine_chunks(), path, row_group_size=65536)
    return path


def machine():
    name = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":")[1].strip()
    flags = Path("/proc/cpuinfo").read_text()
    vector = [flag for flag in ["avx2", "avx512f", "avx512_bf16", "amx_bf16"] if flag in flags]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True,
                            capture_output=True).stdout.strip() or "unknown"
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {name} ({', '.join(vector)}), commit {commit}"


SECTIONS = ["preprocess", "image", "text", "run", "feed", "start", "overhead", "memory"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", default=",".join(SECTIONS))
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    make_model()
    bench = Bench(args)
    about = json.loads((bench.data / "about.json").read_text())
    bench.say(f"{machine()}; {bench.rounds} rounds; photos of {about['megapixels']:.3f} "
              f"megapixels and {about['kilobytes']:.0f} kB on average, ViT-B/32")
    sections = args.only.split(",")
    if {"preprocess", "image", "text", "run"} & set(sections):
        bench.header()
    for index, section in enumerate(sections):
        if section == "feed" and index:
            bench.say()
        getattr(bench, section)()
    (WORK / "results.md").write_text("\n".join(bench.lines) + "\n")


if __name__ == "__main__":
    main()

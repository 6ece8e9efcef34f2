"""clipmill beside its peers, in one run on one machine: `make bench`, `make bench-full`.

Contenders take turns, and what counts is the ratio within a round, because machines drift. Stages
are workers (`stages.rs` for clipmill, `peers.py` for the others) that are called again and again;
runs are whole processes of clipmill, start and loading of the model included, against scripts
whose model is loaded before the clock starts. Filters are whole processes, theirs too.

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
import tempfile
import time
from pathlib import Path

import filter as filters
from data import MODEL, ROOT, SAMPLE, WORK, make_captions, make_data, make_model

PEERS = ROOT / ".venv" / "peers" / "bin" / "python"
CLIPMILL = ROOT / "target" / "release" / "clipmill"
STAGES = ["cargo", "bench", "--locked", "--quiet", "--bench", "stages", "--"]


class Worker:
    """A process that does one of its jobs over some rows for every line that it is sent."""

    def __init__(self, command, cores=None):
        pin = (lambda: os.sched_setaffinity(0, cores)) if cores else None
        self.command = [str(part) for part in command]
        self.complaints = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.complaints,
            text=True, cwd=ROOT, preexec_fn=pin)
        self.ready = False

    def wait_for(self, wanted):
        """The next line that is the worker's own: libraries print what they like."""
        for line in self.process.stdout:
            if wanted(line.strip()):
                return line.strip()
        self.complaints.seek(0)
        sys.exit(f"{self.command} ended: {self.complaints.read()[-2000:]}")

    def job(self, name, rows, warm=True):
        """Does the job when it is called and gives the rows a second. Comes back once the worker
        has loaded and is warm; others may load meanwhile."""
        if not self.ready:
            self.wait_for(lambda line: line == "ready")
            self.ready = True

        def work():
            self.process.stdin.write(f"{name} {rows}\n")
            self.process.stdin.flush()
            return rows / float(self.wait_for(is_number))

        if warm:
            work()
        return work

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def is_number(text):
    try:
        return float(text) > 0
    except ValueError:
        return False


class Run:
    """A whole run of clipmill over a table."""

    def __init__(self, table, columns, **more):
        more = {"precision": "f32", "model": MODEL, "root": table.parent} | more
        self.out = WORK / "out"
        limit = ["--limit", str(more["rows"])] if "rows" in more else []
        pipeline = WORK / f"{table.stem}{''.join(more.get('names', []))}.toml"
        columns = "\n".join(f"{name} = {json.dumps(kind)}" if isinstance(kind, str) else
                            f'{name} = {{ kind = "{kind[0]}", model = "{kind[1]}" }}'
                            for name, kind in columns.items())
        models = "".join(MODEL_SECTION.format(name=name, **more) for name in more.get("names", [""]))
        pipeline.write_text(PIPELINE.format(table=table, columns=columns, out=self.out, models=models, **more))
        self.command = [CLIPMILL, "run", pipeline, "--quiet", *limit]

    def seconds(self):
        shutil.rmtree(self.out, ignore_errors=True)
        started = time.perf_counter()
        subprocess.run(self.command, check=True)
        return time.perf_counter() - started

    def report(self):
        return json.loads((self.out / "run_report.json").read_text())


PIPELINE = """version = 1
[source.parquet]
path = "{table}"
image = "image_path"
caption = "caption"
[image.path]
root = "{root}"
{models}
[columns]
{columns}
[sink.parquet]
path = "{out}"
"""

MODEL_SECTION = """[model.clip{name}]
dir = "{model}"
precision = "{precision}"
"""

SCORED = {"image_embedding": "image_embedding", "text_embedding": "text_embedding",
          "score": "cosine"}
FEED = {"width": "image_width", "tokens": "caption_tokens"}


class Bench:
    def __init__(self, args, photos):
        self.full, self.rounds = args.full, 5 if args.full else 3
        self.data = make_data(640) if photos else None
        self.lines, self.later = [], []

    def say(self, line=""):
        self.lines.append(line)
        print(line, flush=True)

    def stage(self, *args, cores=None):
        return Worker([*STAGES, args[0], self.data, *args[1:]], cores)

    def peer(self, *args, cores=None):
        return Worker([PEERS, ROOT / "tests/bench/peers.py", args[0], self.data, *args[1:]], cores)

    def contest(self, what, ours, peers):
        """One line a peer: rates, and the ratio within each round. Each round begins with another
        contender."""
        contenders = [("clipmill", ours), *peers.items()]
        rates = {name: [] for name, _ in contenders}
        for index in range(self.rounds):
            first = index % len(contenders)
            for name, work in contenders[first:] + contenders[:first]:
                rates[name].append(work())
        rate = {name: statistics.median(values) for name, values in rates.items()}
        for name in peers:
            ratios = [own / theirs for own, theirs in zip(rates["clipmill"], rates[name])]
            self.say(f"| {what} | {rate['clipmill']:.1f} | {name} | {rate[name]:.1f} "
                     f"| **{statistics.median(ratios):.2f}** "
                     f"| {min(ratios):.2f} to {max(ratios):.2f} |")

    def header(self):
        self.say("\n| what | clipmill, a second | peer | peer, a second | ratio, median | ratios |")
        self.say("|---|---|---|---|---|---|")

    def preprocess(self):
        """Decode and preprocess, on one core. clipmill gives pixels, because its model takes
        those; that of the peers takes a tensor of normalised floats."""
        one = {min(os.sched_getaffinity(0))}
        peers = {"torchvision, to tensor": ["preprocess-torchvision", "tensor"],
                 "torchvision, to pixels": ["preprocess-torchvision", "pixels"],
                 "OpenCV and numpy, to tensor": ["preprocess-opencv", "tensor"],
                 "the same, numpy tuned": ["preprocess-opencv", "tuned"],
                 "OpenCV, to pixels": ["preprocess-opencv", "pixels"],
                 "transformers over Pillow": ["preprocess-pillow"]}
        workers = {name: self.peer(*args, cores=one) for name, args in peers.items()}
        own = self.stage("preprocess", cores=one)
        self.contest("decode and preprocess, images, one core", own.job("preprocess", 256),
                     {name: worker.job("preprocess", 256) for name, worker in workers.items()})
        for worker in [own, *workers.values()]:
            worker.close()

    def bf16(self):
        self.model("bf16", images=128, captions=256, run=576)

    def f32(self):
        self.model("f32", images=64, captions=128, run=128)

    def model(self, precision, images, captions, run):
        """The towers alone, and whole runs."""
        own, hf = self.stage("towers", precision), self.peer("hf", precision)
        more = {"OpenVINO": self.peer("openvino", precision)}
        if self.full:
            more["torch.compile, frozen"] = self.peer("compiled", precision)
            if precision == "bf16":
                more["ONNX Runtime, int8"] = self.peer("onnxruntime-int8", precision)
        others = more | {"transformers": hf}
        self.contest(f"image tower, images, {precision}", own.job("image", images),
                     {name: worker.job("image", images) for name, worker in others.items()})
        self.contest(f"text tower, captions, {precision}", own.job("text", captions),
                     {"transformers, longest of batch": hf.job("text", captions)})
        for worker in more.values():
            worker.close()
        peers = {"transformers over Pillow": hf.job("run", run, warm=False)}
        if self.full:
            open_clip = self.peer("open-clip", precision)
            peers["open_clip"] = open_clip.job("run", run, warm=False)
        whole = Run(self.data / "table.parquet", SCORED, precision=precision, rows=run)
        self.contest(f"end to end, rows, {precision}", lambda: run / whole.seconds(), peers)
        if precision == "bf16" or self.full:
            self.together(own, precision)
        for worker in [own, hf, *([open_clip] if self.full else [])]:
            worker.close()

    def together(self, own, precision):
        """How the stages of a run share the cores once all of them work."""
        rows = 1024
        run = Run(repeated(self.data, 2), SCORED, precision=precision, rows=rows)

        def staged():
            run.seconds()
            return rows / run.report()["this_run"]["seconds"]

        alone = {"its own towers alone": own.job("encode", 256)}
        self.contest(f"stages together, rows, {precision}", staged, alone)

    def filter(self):
        """The best-scored 30 % of a table with embeddings, all columns, start and imports included.
        Files are in the page cache as far as they fit."""
        rows = 5_000_000 if self.full else 200_000
        table, out = WORK / f"scored-{rows}", WORK / "kept"
        script = ROOT / "tests/bench/filter.py"
        # By another process: the peak memory of a child begins at its parent's.
        subprocess.run([PEERS, script, "make", table, str(rows)], check=True)
        commands = {"clipmill": [CLIPMILL, "filter", table, out, "--keep-top", filters.KEEP]}
        for peer in ["polars", "duckdb"]:
            commands[peer] = [PEERS, script, peer, table, out]
        peaks = {name: [] for name in commands}

        def work(name):
            remove(out)
            started = time.perf_counter()
            process = subprocess.Popen([str(part) for part in commands[name]],
                                       stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            if status:
                sys.exit(f"{commands[name]} failed")
            peaks[name].append(usage.ru_maxrss * 1024)
            return rows / seconds

        own, *others = [lambda name=name: work(name) for name in commands]
        names = ["polars, streaming", "DuckDB, f16 read and written as f32"]
        self.contest(f"filter, rows of {rows / 1e6:g} M", own, dict(zip(names, others)))
        remove(out)
        most = {name: f"{max(values) / 2**20:.0f} MiB" for name, values in peaks.items()}
        self.later.append(f"- filter, peak memory: {most}")

    def feed(self):
        """Read, decode, tokenize and write, without a model."""
        run = Run(repeated(self.data, 4), FEED)
        self.alone("feed without a model, whole process, rows a second", run,
                   lambda seconds: 4 * 640 / seconds)

    def several(self):
        """The feed of two models of the same pixels: in one pass, against a run of each."""
        rows, table = 128, self.data / "table.parquet"
        one = Run(table, {"a": "image_embedding"}, precision="f32", rows=rows)
        both = {"a": ("image_embedding", "a"), "b": ("image_embedding", "b")}
        two = Run(table, both, precision="f32", rows=rows, names=[".a", ".b"])

        def feed(run):
            run.seconds()
            stages = run.report()["this_run"]["stages"]
            return sum(stage["busy_seconds"] for stage in stages if stage["stage"] in ("read", "prepare"))

        shares = []
        for _ in range(self.rounds):
            alone, together, again = feed(one), feed(two), feed(one)
            shares.append(together / (alone + again))
        self.say(f"- feed of two models in one pass, of that of two runs: {statistics.median(shares):.0%} "
                 f"({min(shares):.0%} to {max(shares):.0%})")

    def start(self):
        """From the shell to the end of a run of one batch, the weights in the page cache."""
        run = Run(self.data / "table.parquet", SCORED, precision="bf16", rows=64)
        run.seconds()
        self.alone("start to the end of the first 64 rows, bf16, seconds", run, lambda s: s)

    def overhead(self):
        """Rows without images and model: reading, status, writing, publishing."""
        rows = 1_000_000
        run = Run(captions(rows), {"status": "status"}, root=ROOT)
        self.alone("overhead, microseconds a row", run, lambda s: s / rows * 1e6)

    def search(self):
        """A million vectors, warm: whole processes against numpy that has them in f32 in memory,
        which is twice the memory and none of the start."""
        import numpy as np

        rows, dim = 1_000_000, 512
        table, plain = vectors(rows, dim)
        command = [CLIPMILL, "search", table, "--column", "vector", "--json"]
        values = np.load(plain).astype(np.float32)

        def own(n):
            likes = [word for row in range(n) for word in ("--like", str(row * 997))]
            started = time.perf_counter()
            subprocess.run([*command, *likes], check=True, capture_output=True)
            return time.perf_counter() - started

        def numpy(n):
            started = time.perf_counter()
            scores = values @ values[np.arange(n) * 997].T
            np.argpartition(-scores, 11, axis=0)
            return time.perf_counter() - started

        own(1)
        for n in [1, 16]:
            times = [(own(n), numpy(n)) for _ in range(self.rounds)]
            ours, theirs = (statistics.median(each) for each in zip(*times))
            ratios = [mine / other for mine, other in times]
            self.say(f"- search, {rows} rows of {dim} f16, queries {n}: {ours:.3f} s a process, "
                     f"numpy matmul in f32 {theirs:.3f} s; time ratio "
                     f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")

    def alone(self, what, run, of_seconds):
        values = [of_seconds(run.seconds()) for _ in range(self.rounds)]
        self.say(f"- {what}: {statistics.median(values):.2f} "
                 f"({min(values):.2f} to {max(values):.2f})")

    def transform(self):
        """A stream through `clipmill transform` without a model, whole process, against pyarrow that
        reads the stream and writes it again with a column more, warm."""
        import pyarrow as pa

        stream = arrow_stream(60)
        size = stream.stat().st_size / 1e6
        pipeline = WORK / "transform.toml"
        pipeline.write_text(PIPELINE.format(table="-", columns='status = "status"', out="-", root=ROOT,
                                            models=MODEL_SECTION.format(name="", model=SAMPLE, precision="f32")))

        def own():
            started = time.perf_counter()
            with stream.open("rb") as given:
                subprocess.run([CLIPMILL, "transform", pipeline, "--quiet"], stdin=given,
                               stdout=subprocess.DEVNULL, check=True, cwd=ROOT)
            return time.perf_counter() - started

        def pyarrow():
            started = time.perf_counter()
            with pa.OSFile(str(stream)) as given, pa.OSFile(os.devnull, "w") as to:
                reader = pa.ipc.open_stream(given)
                schema = reader.schema.append(pa.field("status", pa.string()))
                with pa.ipc.new_stream(to, schema) as writer:
                    for batch in reader:
                        status = pa.array(["ok"] * batch.num_rows)
                        writer.write_batch(pa.record_batch([*batch.columns, status], schema=schema))
            return time.perf_counter() - started

        times = [(own(), pyarrow()) for _ in range(self.rounds)]
        ours, theirs = (statistics.median(each) for each in zip(*times))
        ratios = [mine / other for mine, other in times]
        self.say(f"- transform without a model: {size / ours:.0f} MB/s a process, pyarrow {size / theirs:.0f} "
                 f"MB/s; time ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")

    def nights(self):
        """A night with nothing new over 10,000 known files, and one with one new file, in starts of the
        program that do nothing at all."""
        n = 10_000
        folder = files_of_a_row(n)
        run = Run(folder, {"status": "status"}, model=SAMPLE, root=ROOT)
        run.command.append("--incremental")
        run.seconds()

        def took(command):
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - started

        for what in ["nothing new", "one new file"]:
            times = []
            for turn in range(self.rounds):
                if what != "nothing new":
                    shutil.copy(folder / "00000.parquet", folder / f"new-{turn}.parquet")
                times.append((took(run.command), took([CLIPMILL, "--version"])))
            ratios = [night / start for night, start in times]
            self.say(f"- a night with {what}, {n} known parts: {statistics.median(t for t, _ in times):.2f} s, "
                     f"{statistics.median(ratios):.1f} starts ({min(ratios):.1f} to {max(ratios):.1f})")
        for new in folder.glob("new-*"):
            new.unlink()

    def disk(self):
        """Bytes a row of what the nightly pipeline writes, by column, and the memory that it takes."""
        import pyarrow.parquet as pq

        out = WORK / "nightly"
        shutil.rmtree(out, ignore_errors=True)
        # Of random weights the scores are no scores.
        settings = {"image.path.root": self.data, "model.clip.dir": MODEL, "report.out": f"{out}.html",
                    "run.min_median_similarity": -1}
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        subprocess.run([CLIPMILL, "run", ROOT / "pipelines" / "nightly_etl.toml", *sets, "--quiet", "--input",
                        self.data / "table.parquet", "--output", out], check=True, cwd=ROOT)
        (part,) = out.glob("part-*.parquet")
        groups = pq.read_metadata(part).to_dict()["row_groups"]
        sizes = {}
        for column in (column for group in groups for column in group["columns"]):
            name = column["path_in_schema"].split(".")[0]
            sizes[name] = sizes.get(name, 0) + column["total_compressed_size"] / 640
        peak = json.loads((out / "run_report.json").read_text())["this_run"]["peak_memory"]
        self.say(f"- nightly_etl.toml, bytes a row: {part.stat().st_size / 640:.0f}; "
                 + ", ".join(f"{name} {size:.1f}" for name, size in sizes.items())
                 + f"; peak memory {peak / 2**20:.0f} MiB")

    def memory(self):
        """Peak memory of many rows against that of few, with the sample's model and images."""
        peaks = []
        for rows in [50_000, 1_000_000]:
            run = Run(sample_rows(rows), SCORED | FEED, model=SAMPLE, root=ROOT / "sample_data")
            seconds = run.seconds()
            peaks.append(run.report()["this_run"]["peak_memory"])
            self.say(f"- {rows} rows of the sample, {rows / seconds:.0f} rows/s: peak memory "
                     f"{peaks[-1] / 2**20:.0f} MiB")
        self.say(f"- peak memory, many rows to few: {peaks[1] / peaks[0]:.3f}")


def vectors(rows, dim):
    """A table of f16 vectors of unit length, and the same as numpy has them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = WORK / f"vectors-{rows}" / "vectors.parquet"
    plain = path.with_suffix(".npy")
    if not plain.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rng, block = np.random.default_rng(1), 50_000
        schema = pa.schema([("vector", pa.list_(pa.float16(), dim))])
        made = plain.with_suffix(".tmp")
        kept = np.lib.format.open_memmap(made, "w+", np.float16, (rows, dim))
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            for start in range(0, rows, block):
                values = rng.standard_normal((block, dim), dtype=np.float32)
                values /= np.linalg.norm(values, axis=1, keepdims=True)
                kept[start:start + block] = values
                flat = pa.array(kept[start:start + block].reshape(-1))
                array = pa.FixedSizeListArray.from_arrays(flat, dim)
                writer.write_table(pa.table({"vector": array}), row_group_size=block)
        kept.flush()
        made.rename(plain)
    return path.parent, plain


def arrow_stream(batches):
    """Rows of a caption and 4 kB that do not compress, as an Arrow stream."""
    import numpy as np
    import pyarrow as pa

    path, rows = WORK / f"stream-{batches}.arrows", 4096
    if not path.exists():
        bytes_ = np.random.default_rng(3).bytes(rows * 4096)
        batch = pa.record_batch({
            "caption": [f"caption {row}" for row in range(rows)],
            "image_path": [f"{row}.jpg" for row in range(rows)],
            "blob": pa.array([bytes_[row * 4096:(row + 1) * 4096] for row in range(rows)], pa.binary())})
        with pa.ipc.new_stream(str(path), batch.schema) as writer:
            for _ in range(batches):
                writer.write_batch(batch)
    return path


def files_of_a_row(n):
    """A folder of tables, a row each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = WORK / f"files-{n}"
    folder.mkdir(exist_ok=True)
    for at in range(n):
        path = folder / f"{at:05}.parquet"
        if not path.exists():
            pq.write_table(pa.table({"image_path": [f"{at}.jpg"], "caption": [f"caption {at}"]}), path)
    return folder


def remove(path):
    """A file, a folder or nothing."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def repeated(data, times):
    """The table of photos, over and over, beside it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = data / f"table-{times}.parquet"
    if not path.exists():
        pq.write_table(pa.concat_tables([pq.read_table(data / "table.parquet")] * times), path)
    return path


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


FULL = ["search", "transform", "nights", "disk", "memory"]
TABLE = ["preprocess", "bf16", "f32", "filter"]
QUICK = [*TABLE, "feed", "several", "start", "overhead"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", help=f"some of {', '.join(QUICK + FULL)}")
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    sections = args.only.split(",") if args.only else QUICK + FULL * args.full
    photos = not {*sections} <= {"filter", "search", "transform", "nights"}
    if photos:
        make_model()
    bench = Bench(args, photos)
    about = f"{machine()}; {bench.rounds} rounds"
    if photos:
        made = json.loads((bench.data / "about.json").read_text())
        about += (f"; photos of {made['megapixels']:.3f} megapixels and {made['kilobytes']:.0f} kB "
                  "on average, ViT-B/32")
    bench.say(about)
    tabular = [section for section in sections if section in TABLE]
    if tabular:
        bench.header()
    for section in tabular:
        getattr(bench, section)()
    bench.say()
    for line in bench.later:
        bench.say(line)
    for section in sections:
        if section not in tabular:
            getattr(bench, section)()
    (WORK / "results.md").write_text("\n".join(bench.lines) + "\n")


if __name__ == "__main__":
    main()

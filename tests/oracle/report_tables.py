"""Writes tables to report on, with pyarrow. Arguments: a folder, a folder of the big list of naughty
strings (or `none`)."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

to, blns = Path(sys.argv[1]), Path(sys.argv[2])
random = np.random.default_rng(5)
n = 60_000


def table(name, columns, rows_a_group=7_001):
    pq.write_table(pa.table(columns), to / f"{name}.parquet", row_group_size=rows_a_group)


def scored(mean, seed):
    """Scores with ties at round numbers, NaN, infinities, nulls; failed rows among them."""
    random = np.random.default_rng(seed)
    scores = random.normal(mean, 0.06, n).astype(np.float32)
    scores[::7] = np.round(scores[::7], 2)
    bad = random.random(n) < 0.05
    status = np.where(bad, random.choice(["image_missing", "caption_empty"], n, p=[0.8, 0.2]), "ok")
    mask = bad.copy()
    scores[11:500:50], scores[12:500:50], scores[13:500:50] = np.nan, np.inf, -np.inf
    mask[14:500:50] = True
    return pa.array(scores, mask=mask), pa.array(status)


new, new_status = scored(0.27, 1)
names = np.array([f"site-{i}.example" for i in range(40)])
site = random.choice(names, n, p=np.arange(1, 41) / 820)
tokens = random.integers(2, 120, n).astype(np.uint32)
table("new", {
    "similarity": new, "status": new_status,
    "error_message": pa.array([None if s == "ok" else f"{s} <b>&" for s in new_status.to_pylist()]),
    "image_path": [f"images/{i}.png" for i in range(n)],
    "caption": ["é" * int(length) for length in random.integers(0, 300, n)],
    "caption_tokens": tokens, "caption_truncated": tokens > 77,
    "site": pa.array(site, mask=random.random(n) < 0.1),
    "width": random.choice(np.array([64, 128, 256]), n),
    "id": np.arange(n),
})
old, old_status = scored(0.29, 2)
table("old", {"similarity": old, "status": old_status, "caption": ["x"] * n})
# Scores of another kind: no cosine, f64 and f16, one far out.
wide = random.normal(5.2, 1.1, n)
wide[100] = 4000.0
table("wide", {"aesthetic": wide, "text": ["x"] * n})
table("half", {"clip_score": random.random(n).astype(np.float16)})
table("integers", {"score": random.integers(-3, 9, n)})
# Bad tables.
empty = pq.read_table(to / "new.parquet").slice(0, 0)
pq.write_table(empty, to / "empty.parquet")
table("failed", {"similarity": pa.nulls(50, pa.float32()), "status": ["image_missing"] * 50,
                 "caption": ["x"] * 50, "image_path": ["x.png"] * 50})
table("one", {"similarity": pa.array([0.25], pa.float32()), "caption": ["one"]})
table("same", {"similarity": pa.array([0.25] * 9, pa.float32())})
table("nan", {"similarity": pa.array([float("nan")] * 9, pa.float32())})
table("plain", {"name": ["a", "b"], "vector": [[1.0], [2.0]]})
table("none", {"similarity": pa.nulls(3), "caption": pa.nulls(3), "image_path": pa.nulls(3)})

naughty = [
    "<script>window.pwned=1</script>", "</script><script>window.pwned=1</script>", "</style><script>",
    "\"><img src=x onerror=window.pwned=1>", "'><svg onload=window.pwned=1>", "<!-- x", "]]>",
    "javascript:window.pwned=1", "{{7*7}}", "&lt;script&gt;", "&#60;b&#62;", "&amp;amp;",
    "\u202eright to left\u202c", "\u202enever ended", "\u2066a\u2069", "\u200f", "\ufeff", "\x00\x01\x1b[31m\x7f\x85",
    "a\r\nb\tc", "  ", "", "\u2028\u2029", "é" * 5000, "a" * 500, "\U0001f469\u200d\U0001f469", "z\u0335\u0322" * 40,
    "<base href=https://example.invalid>", "<meta http-equiv=refresh content=0>", "<a href=//example.invalid>",
    "<iframe srcdoc='<script>'>", "<link rel=stylesheet href=//example.invalid>", "<plaintext>", "<template>",
]
if blns.is_dir():
    naughty += json.loads((blns / "blns.json").read_text())
raw = [text.encode() for text in naughty]
raw += [b"\xff\xfe", b"a\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"<b>\xff</b>"]
many = (raw * 4)[:160]


def text(values):
    """A string column of any bytes."""
    as_bytes = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(as_bytes), as_bytes.buffers())


hostile = {
    "similarity": pa.array(random.random(len(many)).astype(np.float32)),
    "caption": text(many),
    "image_path": text([[b"../../etc/passwd", b"/etc/passwd", b"<img src=x>", b"\xff\x00"][i % 4]
                        for i in range(len(many))]),
    "status": ["ok"] * len(many),
    "<b>name</b>": text([raw[i % 7] for i in range(len(many))]),
}
table("hostile", hostile, 50)
# The same as the words of failures.
table("words", {"status": text(many), "error_message": text(many), "image_path": text(many),
                "similarity": hostile["similarity"]})
# To cluster and to filter.
vectors = pa.FixedSizeListArray.from_arrays(pa.array(random.random(24).astype(np.float32)), 2)
table("embedded", {"x": list(range(12)), "image_embedding": vectors}, 12)

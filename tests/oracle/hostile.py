"""Makes Parquet files that exhaust readers, by pyarrow and by hand. Argument: a folder.

- dictionary.parquet: about a kilobyte, whose column `note` is 128 times the same 64 MiB.
- row.parquet: one value of 300 MiB.
- list.parquet: one list of 64 million equal numbers, in a few kilobytes; lists.parquet: 17 million
  of them, in lists of 250,000.
- text.parquet: captions that are not UTF-8, among good ones, and as a dictionary, in lists and
  in structs.
- checksum.parquet: a page with its checksum, and a bit of it flipped since.
- nested-N.parquet: N levels of groups. rows-*.parquet: footers that lie about their rows.
"""
import struct
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

to = Path(sys.argv[1])


def table(notes):
    n = len(notes)
    return pa.table({"id": [str(i) for i in range(n)], "image_path": ["images/003-1f31c.png"] * n,
                     "caption": ["moon"] * n, "note": notes})


long = "a" * (64 << 20)
many = pa.DictionaryArray.from_arrays(pa.array([0] * 128, pa.int32()), pa.array([long]))
pq.write_table(table(many), to / "dictionary.parquet", compression="brotli")
pq.write_table(table(pa.array(["b" * (300 << 20)])), to / "row.parquet", compression="zstd")

for name, lengths in [("list", [3, 1 << 26, 5]), ("lists", [250_000] * 70)]:
    ends = np.cumsum([0, *lengths]).astype(np.int32)
    numbers = pa.ListArray.from_arrays(ends, np.zeros(ends[-1], np.int64))
    pq.write_table(table(numbers), to / f"{name}.parquet", compression="zstd")

to_flip = to / "checksum.parquet"
pq.write_table(table(["abcdefgh"] * 9), to_flip, compression="none", use_dictionary=False,
               write_page_checksum=True)
flipped = bytearray(to_flip.read_bytes())
# A value with its length before it: in the page, not in the statistics of its header.
flipped[flipped.index(b"\x08\0\0\0abcdefgh") + 7] ^= 1
to_flip.write_bytes(flipped)

# Bytes that no str holds, in columns that say string: cast without validation.
raw = [b"moon", b"\xff\xfe moon", None, b"moon \xc3", b"", b"sun"]


def strings(values):
    as_bytes = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(values), as_bytes.buffers())


lists = pa.ListArray.from_arrays([0, 2, 3, 3, 4, 5, 6], strings(raw))
pq.write_table(pa.table({
    "id": [str(i) for i in range(6)],
    "image_path": ["images/003-1f31c.png"] * 6,
    "caption": strings(raw),
    "coded": strings(raw).dictionary_encode(),
    "list": lists,
    "struct": pa.StructArray.from_arrays([strings(raw)], ["text"]),
}), to / "text.parquet")


# Thrift's compact protocol, as far as a footer needs it.
def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def zigzag(n):
    return varint((n << 1) ^ (n >> 63))


def element(name, repetition=None, kind=None, children=None):
    out, last = b"", 0
    for field, value in [(1, kind), (3, repetition), (4, name), (5, children)]:
        if value is not None:
            is_text = isinstance(value, bytes)
            out += bytes([(field - last) << 4 | (8 if is_text else 5)])
            out += varint(len(value)) + value if is_text else zigzag(value)
            last = field
    return out + b"\0"


def footer_only(path, depth, rows):
    groups = [element(b"g", 1, children=1)] * (depth - 1)
    elements = [element(b"schema", children=1), *groups, element(b"x", 1, kind=1)]
    many = bytes([len(elements) << 4 | 12]) if len(elements) < 15 else \
        b"\xfc" + varint(len(elements))
    footer = b"\x15" + zigzag(1) + b"\x19" + many + b"".join(elements)
    footer += b"\x16" + zigzag(rows) + b"\x19\x0c" + b"\0"
    path.write_bytes(b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1")


for depth in [60, 61, 350, 5000, 100_000]:
    footer_only(to / f"nested-{depth}.parquet", depth, 0)
for name, rows in [("negative", -1), ("huge", 1 << 62), ("too-many", 5)]:
    footer_only(to / f"rows-{name}.parquet", 2, rows)

"""Compares the columns of a table with those of its output, byte for byte, valid text or not.

Arguments: the input file and a part. Fails with the first difference.
"""
import sys

import pyarrow as pa
import pyarrow.parquet as pq

given, part = map(pq.read_table, sys.argv[1:3])


def as_bytes(array):
    """The same values, with strings as bytes: what is not UTF-8 cannot be printed or compared."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return as_bytes(array.dictionary_decode())
    if pa.types.is_string(kind):
        return array.cast(pa.binary()).to_pylist()
    if pa.types.is_list(kind):
        return array.offsets.to_pylist(), as_bytes(array.values)
    if pa.types.is_struct(kind):
        return [as_bytes(array.field(i)) for i in range(kind.num_fields)]
    return array.to_pylist()


for name in given.column_names:
    assert part.schema.field(name).type == given.schema.field(name).type, name
    a, b = (as_bytes(table[name].combine_chunks()) for table in (given, part))
    assert a == b, (name, a, b)

"""Tables in Parquet files that say when they are damaged: a digest of every column, and of what describes the table."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .files import one_line, write_atomically

DIGESTS = b"kn_utils sha256"  # their key in the file's metadata
DAMAGE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError, OverflowError)


def write_table(table: pa.Table, path: str | Path) -> None:
    """Write a Parquet file, at once, with a checksum of every page and digests of the content.

    Floats are stored byte by byte, all first bytes together and so on, which makes them a third smaller.
    """
    described = {**(table.schema.metadata or {}), DIGESTS: json.dumps(digests(table), sort_keys=True).encode()}
    floats = [place for field in table.schema for place in _floats(field.name, field.type)]
    options = {"compression": "zstd", "write_page_checksum": True, "use_dictionary": False}
    options["use_byte_stream_split"] = floats or False
    write_atomically(path, lambda part: pq.write_table(table.replace_schema_metadata(described), part, **options))


def read_table(path: str | Path, what: str = "table", remedy: str = "make it again") -> tuple[pa.Table, bool]:
    """Read a Parquet file and compare it with its digests.

    Args:
        what: the kind of file, for the messages.
        remedy: what to do if it is damaged, the end of the messages.

    Returns:
        The table, and whether there were digests: older files have none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or holds columns of another kind than numbers, texts, and lists and records of these.
    """
    name = f"{what} {str(path)!r}"
    if not Path(path).exists():
        raise FileNotFoundError(f"{name} does not exist: {remedy}")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
        found = digests(table)
        given = (table.schema.metadata or {}).get(DIGESTS)
        expected = found if given is None else json.loads(given)
        wrong = [column for column in {**found, **expected} if found.get(column) != expected.get(column)]
    except DAMAGE as error:
        raise ValueError(f"{name} is damaged ({one_line(error)[:200]}): {remedy}") from None
    if wrong:
        raise ValueError(f"{name} is damaged or was changed by hand ({', '.join(wrong)}): {remedy}")
    return table, given is not None


def _floats(place: str, kind: pa.DataType) -> list[str]:
    """Where a column of this type holds floats, as Parquet names these places."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _floats(f"{place}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [inner for field in kind for inner in _floats(f"{place}.{field.name}", field.type)]
    return [place] if pa.types.is_float32(kind) or pa.types.is_float64(kind) else []


def digests(table: pa.Table) -> dict[str, str]:
    """The sha256 of each column, however it is stored, and of the description.

    Raises:
        ValueError: a column of another kind than numbers, texts, and lists and records of these.
    """
    described = {k: v for k, v in (table.schema.metadata or {}).items() if k != DIGESTS}
    found = {"description": hashlib.sha256(repr(sorted(described.items())).encode()).hexdigest()}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in found:
            raise ValueError(f"{name!r} stands there twice")
        sha = hashlib.sha256()
        for chunk in [pa.concat_arrays(column.chunks)] if column.chunks else []:
            _feed(chunk, sha.update)
        found[name] = sha.hexdigest()
    return found


def _feed(array: pa.Array, update: Callable[[bytes], object]) -> None:
    """Give the content of an array to a digest: which values there are, how long the lists, and the values in order."""
    kind = array.type
    update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        _feed_numbers(pc.list_value_length(array), update)
        _feed(array.flatten(), update)
    elif pa.types.is_struct(kind):
        update(repr([field.name for field in kind]).encode())
        for values in array.flatten():
            _feed(values, update)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = array.cast(pa.large_binary())
        _feed_numbers(pc.binary_length(texts), update)
        update(b"".join(text or b"" for text in texts.to_pylist()))
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        _feed_numbers(array, update)
    elif not pa.types.is_null(kind):
        raise ValueError(f"a column of type {kind}")


def _feed_numbers(array: pa.Array, update: Callable[[bytes], object]) -> None:
    """An array of numbers, its length and its type; a missing value counts as zero."""
    values = pc.fill_null(array, pa.scalar(0).cast(array.type)).to_numpy(zero_copy_only=False)
    update(f"{len(values)} {values.dtype.str}".encode())
    update(np.ascontiguousarray(values).tobytes())

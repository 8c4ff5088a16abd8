"""How files are read and written: whole or not at all, of a bounded size, and with one line that names a bad one."""

import gzip
import json
import os
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

LARGEST = 2**27  # bytes of a file once it is unpacked; ParaRel has 22 million
GZIP = b"\x1f\x8b"  # the first bytes of a gzipped file; no JSON begins so


def checked_path(name: str, value) -> Path:
    """A path that a caller gave as the argument `name`: a text or a Path.

    Raises:
        TypeError: it is something else. A number above all: `open` would take it for a file of the process.
        ValueError: it is empty, or no file can have it: it holds a null character or half a character.
    """
    shown = f"{name} is {' '.join(repr(value).split())[:80]}"
    text = value if isinstance(value, str) else value.__fspath__() if isinstance(value, os.PathLike) else None
    if not isinstance(text, str):
        raise TypeError(f"{shown}: pass a text or a pathlib.Path")
    try:
        is_path = text != "" and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        is_path = False
    if not is_path:
        raise ValueError(f"{shown}: pass the path of a file or folder")
    return Path(text)


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write(partial_path)` make a file so that a stop or a power cut leaves the old one or the new one whole.

    Processes that share a folder, on one machine or many, have each their own half-written file.

    Raises:
        TypeError, ValueError: `path` is none, see `checked_path`.
        FileNotFoundError: the folder of `path` does not exist.
        IsADirectoryError: `path` is a folder.
        OSError: the file cannot be written.
    """
    path = Path(os.path.realpath(checked_path("path", path)))  # a link stays one
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder: pass the path of a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{str(path)!r} cannot be written: make the folder {str(path.parent)!r} first")
    partial = path.with_name(f"{uuid4().hex}.part")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        _replace(partial, path)
    except OSError as error:
        raise OSError(f"{str(path)!r} cannot be written ({one_line(error)}): free or choose another place") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _replace(partial: Path, path: Path) -> None:
    """Give the file its name. Windows refuses that for as long as another process has the old file open."""
    for _ in range(100):
        with suppress(PermissionError):
            return partial.replace(path)
        if os.name != "nt":
            break
        time.sleep(0.02)
    partial.replace(path)


def read_bytes(path: str | Path, what: str = "file", remedy: str = "fetch or write it again") -> bytes:
    """The content of a file, unpacked if it is gzipped, whatever its name says.

    A flipped bit in a gzipped file is noticed: it holds a checksum of its content. Plain text holds none.

    Args:
        what: the kind of file, for the messages: "facts file".
        remedy: what to do if it cannot be read, the end of the messages.

    Raises:
        FileNotFoundError: no such file.
        IsADirectoryError: `path` is a folder.
        OSError: the file cannot be read.
        ValueError: it is damaged, or holds more than LARGEST bytes; or `path` is none, see `checked_path`.
        TypeError: `path` is none.
    """
    checked_path(what, path)
    name = f"{what} {str(path)!r}"
    if not os.path.exists(path):
        raise FileNotFoundError(f"{name} does not exist: {remedy}")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{name} is a folder: pass the path of a file")
    try:
        with open(path, "rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise OSError(f"{name} cannot be read ({one_line(error)}): {remedy}") from None
    return unpack(raw, name, remedy)


def unpack(raw: bytes, name: str, remedy: str = "fetch or write it again") -> bytes:
    """`raw`, unpacked if it is gzipped; at most LARGEST bytes, or ValueError."""
    if raw[:2] == GZIP:
        try:
            with gzip.GzipFile(fileobj=BytesIO(raw)) as file:
                raw = file.read(LARGEST + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{name} is damaged, truncated or not JSON ({one_line(error)}): {remedy}") from None
    if len(raw) > LARGEST:
        raise ValueError(f"{name} holds more than {LARGEST:,} bytes: divide it")
    return raw


def parse_json(raw: bytes, name: str, remedy: str = "fetch or write it again") -> Any:
    """The value that a JSON text stands for, in UTF-8, 16 or 32.

    Raises:
        ValueError: it is cut short, not JSON, nested too deeply, or has a key twice or NaN.
    """
    try:
        return json.loads(raw, object_pairs_hook=_each_key_once, parse_constant=_no_number)
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:  # UnicodeDecodeError is one
        reason = one_line(error)
    raise ValueError(f"{name} is damaged, truncated or not JSON ({reason}): {remedy}")


def parse_json_lines(raw: bytes, name: str, remedy: str = "fetch or write it again") -> list:
    """The values of a text that has one JSON value a line; empty lines count for nothing."""
    return [parse_json(line, name, remedy) for line in raw.splitlines() if line.strip()]


def read_json(path: str | Path, what: str = "file", remedy: str = "fetch or write it again") -> Any:
    """The value in a JSON file, gzipped or plain; arguments and errors are those of `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, what, remedy), f"{what} {str(path)!r}", remedy)


def is_text(value) -> bool:
    """Whether this is a string that can be written: half of a surrogate pair cannot."""
    return isinstance(value, str) and (value.isascii() or value == value.encode(errors="ignore").decode())


def one_line(error: BaseException) -> str:
    """An error's message in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in found if keys.count(key) > 1)!r} stands there twice")
    return found


def _no_number(constant: str):
    raise ValueError(f"{constant} is no number")

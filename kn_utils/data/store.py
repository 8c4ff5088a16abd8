"""A long computation in chunks, some items each, which any number of processes make together in one folder.

A chunk depends on the computation and its items alone, appears at once, and says what it belongs to, with a digest of
its content. So nothing of another computation, half-written or with a flipped bit is ever read, who makes a chunk does
not matter, and a stop costs one of them. No process waits for another: it makes what is missing, reads what others
have made, and goes on when it holds all.
"""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from .files import write_atomically
from .tables import read_table, write_table

ABOUT = b"kn_utils chunk"  # the key, in a table's metadata, of what it is a chunk of
Tensors = dict[str, Tensor]


class Form(NamedTuple):
    """How a chunk is kept."""

    suffix: str
    read: Callable[[Path], tuple[Any, str | None]]  # the content and what it belongs to; ValueError if it is damaged
    write: Callable[[Path, Any, str], Any]  # gives the content as it will be read


@dataclass(frozen=True)
class Store:
    """The chunks of one computation, below its folder.

    Attributes:
        about: a digest of all that the computation depends on.
    """

    folder: Path
    about: str

    def chunks(self, stage: str, items: range, compute: Callable[[list[int]], Any], size: int, form: Form) -> list:
        """`compute` for `size` items at a time, each result kept as one file; the results in order."""
        (self.folder / stage).mkdir(parents=True, exist_ok=True)
        parts = (list(items[start : start + size]) for start in range(0, len(items), size))
        chunks = {self.path(stage, i * size, len(rows), form): rows for i, rows in enumerate(parts)}
        found = self.finished(chunks, form)
        n_done = sum(len(chunks[path]) for path in found)
        with tqdm(total=len(items), initial=n_done, desc=stage, unit="item") as progress:
            while missing := [path for path in chunks if path not in found]:
                path = take(missing)
                new = {path: self.write(path, compute(chunks[path]), form)} | self.finished(missing, form)
                progress.update(sum(len(chunks[path]) for path in new))
                found |= new
        return [found[path] for path in chunks]

    def table(self, stage: str, items: range, compute: Callable[[list[int]], pd.DataFrame], size: int) -> pd.DataFrame:
        """The tables of all chunks, joined."""
        tables = self.chunks(stage, items, compute, size, TABLE)
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def path(self, stage: str, start: int, n_items: int, form: Form) -> Path:
        return self.folder / stage / f"{start:07d}-{start + n_items:07d}{form.suffix}"

    def mark(self, path: Path) -> str:
        """What a chunk must say of itself: its computation, its stage and its items."""
        return f"{self.about} {path.parent.name} {path.stem}"

    def write(self, path: Path, content: Any, form: Form) -> Any:
        """Keep a chunk; the content as it will be read."""
        return form.write(path, content, self.mark(path))

    def finished(self, paths: Iterable[Path], form: Form) -> dict[Path, Any]:
        """The chunks that are there, whole, and of this computation; any other is made again."""
        found = {}
        for path in paths:
            with suppress(OSError, ValueError):
                content, about = form.read(path)
                if about == self.mark(path):
                    found[path] = content
        return found


def take(chunks: list[Path]) -> Path:
    """Choose the first chunk that no process has begun, or else the one begun longest ago: its process may be dead."""
    marks = [path.with_suffix(".begun") for path in chunks]
    for path, mark in zip(chunks, marks, strict=True):
        with suppress(FileExistsError):
            mark.touch(exist_ok=False)
            return path
    oldest = min(marks, key=lambda mark: mark.stat().st_mtime)
    oldest.touch()
    return oldest.with_suffix(chunks[0].suffix)


def _read_table(path: Path) -> tuple[pd.DataFrame, str | None]:
    table, has_digests = read_table(path)
    about = (table.schema.metadata or {}).get(ABOUT)
    return table.to_pandas(), about.decode(errors="replace") if has_digests and about else None


def _write_table(path: Path, rows: pd.DataFrame, about: str) -> pd.DataFrame:
    table = pa.Table.from_pandas(rows, preserve_index=False)
    write_table(table.replace_schema_metadata({**table.schema.metadata, ABOUT: about.encode()}), path)
    return table.to_pandas()


def _read_tensors(path: Path) -> tuple[Tensors, str | None]:
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in list(file.keys())}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{str(path)!r} is missing or damaged: make it again") from None
    return tensors, about.get("about") if about.get("digest") == _digest(tensors) else None


def _write_tensors(path: Path, tensors: Tensors, about: str) -> Tensors:
    tensors = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
    described = {"about": about, "digest": _digest(tensors)}
    write_atomically(path, lambda partial: save_file(tensors, partial, described))
    return tensors


def _digest(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(repr((key, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


TABLE = Form(".parquet", _read_table, _write_table)
TENSORS = Form(".safetensors", _read_tensors, _write_tensors)

"""Tables in shards, a few items each, which any number of processes make together; kept so that a kill costs little."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
from tqdm.auto import tqdm

from ..data.tables import read_table, write_table

SHARD = b"kn_utils shard"  # the key, in a shard's metadata, of what it is a shard of


@dataclass(frozen=True)
class Shards:
    """The shards of one run, below its folder.

    A shard depends on the run and its items alone, and appears at once. So who makes it does not matter: a process
    makes what is missing, reads what others have made, and goes on when it holds all.
    """

    folder: Path
    run: str  # the fingerprint of all that the tables depend on

    def table(self, stage: str, items: range, compute: Callable[[list[int]], pd.DataFrame], chunk: int) -> pd.DataFrame:
        """`compute` a table for `chunk` items at a time, each kept as one Parquet file, and join the tables."""
        (self.folder / stage).mkdir(exist_ok=True)
        parts = (list(items[start : start + chunk]) for start in range(0, len(items), chunk))
        shards = {self.path(stage, i * chunk, len(rows)): rows for i, rows in enumerate(parts)}
        tables = self.finished(shards)
        n_done = sum(len(shards[path]) for path in tables)
        with tqdm(total=len(items), initial=n_done, desc=stage, unit="item") as progress:
            while missing := [path for path in shards if path not in tables]:
                path = take(missing)
                new = {path: self.write(path, compute(shards[path]))} | self.finished(missing)
                progress.update(sum(len(shards[path]) for path in new))
                tables |= new
        return pd.concat([tables[path] for path in shards], ignore_index=True) if shards else pd.DataFrame()

    def path(self, stage: str, start: int, n_items: int) -> Path:
        return self.folder / stage / f"{start:07d}-{start + n_items:07d}.parquet"

    def mark(self, path: Path) -> bytes:
        """What a shard must say of itself: its run, its stage and its items."""
        return f"{self.run} {path.parent.name} {path.stem}".encode()

    def write(self, path: Path, rows: pd.DataFrame) -> pd.DataFrame:
        """Keep a shard; the table as it will be read."""
        table = pa.Table.from_pandas(rows, preserve_index=False)
        write_table(table.replace_schema_metadata({**table.schema.metadata, SHARD: self.mark(path)}), path)
        return table.to_pandas()

    def finished(self, paths: Iterable[Path]) -> dict[Path, pd.DataFrame]:
        """The shards that are there, whole, and of this run; any other is made again."""
        tables = {}
        for path in paths:
            with suppress(OSError, ValueError):
                table, has_digests = read_table(path)
                if has_digests and (table.schema.metadata or {}).get(SHARD) == self.mark(path):
                    tables[path] = table.to_pandas()
        return tables


def take(shards: list[Path]) -> Path:
    """Choose the first shard that no process has begun, or else the one begun longest ago: its process may be dead."""
    marks = [path.with_suffix(".begun") for path in shards]
    for path, mark in zip(shards, marks, strict=True):
        with suppress(FileExistsError):
            mark.touch(exist_ok=False)
            return path
    oldest = min(marks, key=lambda mark: mark.stat().st_mtime)
    oldest.touch()
    return oldest.with_suffix(".parquet")

"""The result file of a run: one row per fact in one Parquet file, and the tables that the chapters show."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .models import Neuron

KINDS = ("knowledge", "baseline", "matched", "random")
TABLES = ("effects", "updates", "erasures", "activations")  # several rows per fact, stored with it as a list
ABOUT = b"kn_utils run"  # the key of the description in the file's metadata


@dataclass(frozen=True)
class Results:
    """What a run found.

    Attributes:
        about: model, weights, versions, parameters, n_layers, n_neurons, ...
        facts: one row per fact: subject, relation, answer, n_prompts, share (p), known; knowledge, baseline, matched
            and random, each a set of Neuron; scores, {Neuron: mean attribution} above 0.1 of the highest.
        effects: of `suppress_amplify`, with relation and known; empty if the run left it out, as the next three.
        updates: of `update_facts`, with relation and known.
        erasures: of `erase_relations`, with relation.
        activations: of `activations_by_type`, with relation.
    """

    about: dict
    facts: pd.DataFrame
    effects: pd.DataFrame
    updates: pd.DataFrame
    erasures: pd.DataFrame
    activations: pd.DataFrame

    @property
    def n_layers(self) -> int:
        return self.about["n_layers"]

    @property
    def n_neurons(self) -> int:
        """FFN neurons of one layer."""
        return self.about["n_neurons"]


def read_results(path: str | Path) -> Results:
    """Read the result file of `python -m kn_utils.runs`, or the one in a folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or not one of ours.
    """
    path = Path(path)
    path = path / "results.parquet" if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"result file {str(path)!r} does not exist: make it with `python -m kn_utils.runs`")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"result file {str(path)!r} is damaged ({str(error).splitlines()[0]}): run again") from None
    about = (table.schema.metadata or {}).get(ABOUT)
    if about is None:
        raise ValueError(f"{str(path)!r} is no result file of `python -m kn_utils.runs`: pass one, or its folder")
    if missing := {*KINDS, *TABLES, "scores"} - {*table.column_names}:
        raise ValueError(f"result file {str(path)!r} of another version lacks {', '.join(sorted(missing))}: run again")
    return _unpack(table, json.loads(about))


def write_results(path: str | Path, about: dict, facts: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> Results:
    """Write the result file, at once, and return what `read_results` reads from it."""
    packed = facts.copy()
    for name in (*KINDS, "scores"):
        packed[name] = facts[name].map(neuron_lists)
    for name in TABLES:
        packed[name] = _nest(tables.get(name), len(facts))
    table = pa.Table.from_pandas(packed, preserve_index=False)
    table = table.replace_schema_metadata({ABOUT: json.dumps(about, sort_keys=True)})
    write_table(table, path)
    return read_results(path)


def write_table(table: pa.Table, path: str | Path) -> None:
    """Write a Parquet file, at once, with a checksum of every page."""
    options = {"compression": "zstd", "write_page_checksum": True}
    replace_file(Path(path), lambda partial: pq.write_table(table, partial, **options))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file so that a stop or a power cut leaves the old one or the new one, never half of it.

    Processes that share a folder, on one machine or many, have each their own half-written file.
    """
    partial = path.with_suffix(f".{uuid4().hex}.part")
    write(partial)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def neuron_lists(neurons: set[Neuron] | list[Neuron] | dict[Neuron, float]) -> list[list[float]]:
    """Neurons as Parquet can hold them: [layer, index] each, or [layer, index, score]; sets and scores are sorted."""
    if isinstance(neurons, dict):
        return sorted([*map(float, neuron), float(score)] for neuron, score in neurons.items())
    return [list(neuron) for neuron in (sorted(neurons) if isinstance(neurons, set) else neurons)]


def neurons_of(lists) -> list[Neuron]:
    return [Neuron(int(layer), int(index)) for layer, index in lists]


def scores_of(lists) -> dict[Neuron, float]:
    return {Neuron(int(layer), int(index)): score for layer, index, score in lists}


def _nest(rows: pd.DataFrame | None, n_facts: int) -> list[list[dict] | None]:
    """A table's rows as one list per fact; None for a table that was not made."""
    if rows is None:
        return [None] * n_facts
    nested: list[list[dict]] = [[] for _ in range(n_facts)]
    for record in rows.to_dict("records"):
        nested[record.pop("fact")].append(record)
    return nested


def _unpack(table: pa.Table, about: dict) -> Results:
    facts = table.drop_columns(list(TABLES)).to_pandas()
    for kind in KINDS:
        facts[kind] = facts[kind].map(neurons_of).map(set)
    facts["scores"] = facts.scores.map(scores_of)
    tables = []
    for name in TABLES:
        lists = table.column(name).combine_chunks()
        rows = pd.DataFrame(lists.flatten().to_pylist()) if pa.types.is_list(lists.type) else pd.DataFrame()
        if len(rows):
            sizes = [size or 0 for size in lists.value_lengths().to_pylist()]
            fact = facts.index.repeat(sizes)
            rows.insert(0, "fact", fact)
            rows = rows.assign(relation=facts.relation[fact].to_numpy(), known=facts.known[fact].to_numpy())
        tables.append(rows)
    return Results(about, facts, *tables)

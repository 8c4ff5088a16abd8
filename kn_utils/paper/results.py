"""The result file of a run: one row per fact in one Parquet file, and the tables that the chapters show."""

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from ..data.files import checked_path, one_line, parse_json
from ..data.tables import read_table, write_table
from ..models import Neuron
from .experiments import KINDS
from .registry import tables

COLUMNS = ("subject", "relation", "answer", "n_prompts", "share", "known")
FORMER_KINDS = {"baseline": "activation", "matched": "most active"}  # in result files of older versions
ABOUT = b"kn_utils run"  # the key of the description in the file's metadata


@dataclass(frozen=True)
class Results:
    """What a run found.

    Attributes:
        about: model, weights, versions, parameters, n_layers, n_neurons, ...
        facts: one row per fact: subject, relation, answer, n_prompts, share (p), known; knowledge, another fact,
            activation, most active and random, each a set of Neuron; scores, {Neuron: mean attribution} above 0.1 of
            the highest. A file of an older version may lack a control.
        tables: of the experiments, by their names in the registry, with relation and known of each row's fact. Each is
            an attribute, too, empty if the run left it out: effects (of `suppress_amplify`), updates (`update_facts`),
            erasures (`erase_relations`), activations (`activations_by_type`).
    """

    about: dict
    facts: pd.DataFrame
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name in tables():
            return self.tables.get(name, pd.DataFrame())
        raise AttributeError(f"results have no {name!r}: choose one of about, facts, {', '.join(tables())}")

    @property
    def n_layers(self) -> int:
        return self.about["n_layers"]

    @property
    def n_neurons(self) -> int:
        """FFN neurons of one layer."""
        return self.about["n_neurons"]


def read_results(path: str | Path) -> Results:
    """Read the result file of `python -m kn_utils.paper`, or the one in a folder.

    The file holds a digest of all that it says. A file of an older version has none and is read with a warning.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or was changed, is not one of ours, or has neurons that its model does not have.
    """
    path = checked_path("path", path)
    path = path / "results.parquet" if path.is_dir() else path
    name = f"result file {str(path)!r}"
    if not path.exists():
        raise FileNotFoundError(f"{name} does not exist: make it with `python -m kn_utils.paper`")
    table, verified = read_table(path, "result file", "run again")
    raw = (table.schema.metadata or {}).get(ABOUT)
    if raw is None:
        raise ValueError(f"{str(path)!r} is no result file of `python -m kn_utils.paper`: pass one, or its folder")
    table = table.rename_columns([FORMER_KINDS.get(column, column) for column in table.column_names])
    if missing := {*COLUMNS, "knowledge", "scores"} - {*table.column_names}:
        raise ValueError(f"{name} of another version lacks {', '.join(sorted(missing))}: run again")
    about = parse_json(raw, f"the description in {name}", "run again")
    sizes = [about.get(size) for size in ("n_layers", "n_neurons")] if isinstance(about, dict) else []
    if not sizes or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"the description in {name} lacks n_layers or n_neurons: run again")
    try:
        for column in (*_kinds(table), "scores"):
            _check_neurons(table.column(column), column, *sizes)
        results = _unpack(table, about)
    except (pa.ArrowException, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name} is damaged or of another form ({one_line(error)}): run again") from None
    if not verified:
        warnings.warn(f"{name} is of an older version, without a digest: damage goes unnoticed", stacklevel=2)
    return results


def write_results(path: str | Path, about: dict, facts: pd.DataFrame, made: dict[str, pd.DataFrame]) -> Results:
    """Write the result file, at once, and return what `read_results` reads from it.

    The rows of a table stand with their fact, as a list; no list, if the table was not `made`. Their numbers and the
    scores have single precision, as the models have.
    """
    packed = facts.copy()
    for name in (*KINDS, "scores"):
        packed[name] = facts[name].map(neuron_lists)
    for name in tables():
        packed[name] = _nest(made.get(name), len(facts))
    table = pa.Table.from_pandas(packed, preserve_index=False)
    types = [_single(field.type) if pa.types.is_list(field.type) else field.type for field in table.schema]
    schema = pa.schema(zip(table.column_names, types, strict=True), {ABOUT: json.dumps(about, sort_keys=True)})
    write_table(table.cast(schema), path)
    return read_results(path)


def neuron_lists(neurons: set[Neuron] | list[Neuron] | dict[Neuron, float]) -> list[list[float]]:
    """Neurons as Parquet can hold them: [layer, index] each, or [layer, index, score]; sets and scores are sorted."""
    if isinstance(neurons, dict):
        return sorted([*map(float, neuron), float(score)] for neuron, score in neurons.items())
    return [list(neuron) for neuron in (sorted(neurons) if isinstance(neurons, set) else neurons)]


def neurons_of(lists) -> list[Neuron]:
    return [Neuron(int(layer), int(index)) for layer, index in lists]


def scores_of(lists) -> dict[Neuron, float]:
    return {Neuron(int(layer), int(index)): float(score) for layer, index, score in lists}


def _check_neurons(column: pa.ChunkedArray, name: str, n_layers: int, n_neurons: int) -> None:
    """Raise ValueError unless each list of a column holds neurons of the model: [layer, index], or with a score."""
    width, each = (3 if name == "scores" else 2), column.combine_chunks().flatten()
    if not len(each):
        return
    if set(each.value_lengths().to_pylist()) != {width}:
        raise ValueError(f"{name} has a neuron that is not {width} numbers")
    numbers = each.flatten().to_numpy(zero_copy_only=False).astype(float).reshape(-1, width)
    layer, index = numbers[:, 0], numbers[:, 1]
    inside = (layer >= 0) & (layer < n_layers) & (index >= 0) & (index < n_neurons)
    right = inside & (numbers[:, :2] % 1 == 0).all(1) & np.isfinite(numbers).all(1)
    if not right.all():
        wrong = numbers[~right][0].tolist()
        raise ValueError(f"{name} has the neuron {wrong}, the model {n_layers} layers of {n_neurons} neurons")


def _single(kind: pa.DataType) -> pa.DataType:
    """The type with single precision in place of double."""
    if pa.types.is_list(kind):
        return pa.list_(_single(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _single(field.type)) for field in kind])
    return pa.float32() if pa.types.is_float64(kind) else kind


def _nest(rows: pd.DataFrame | None, n_facts: int) -> list[list[dict] | None]:
    """A table's rows as one list per fact; None for a table that was not made."""
    if rows is None:
        return [None] * n_facts
    nested: list[list[dict]] = [[] for _ in range(n_facts)]
    for record in rows.to_dict("records"):
        nested[record.pop("fact")].append(record)
    return nested


def _unpack(table: pa.Table, about: dict) -> Results:
    there = [name for name in tables() if name in table.column_names]  # an older file may lack some
    facts = table.drop_columns(there).to_pandas()
    for kind in _kinds(table):
        facts[kind] = facts[kind].map(neurons_of).map(set)
    facts["scores"] = facts.scores.map(scores_of)
    return Results(about, facts, {name: _rows(table.column(name).combine_chunks(), facts) for name in there})


def _kinds(table: pa.Table) -> list[str]:
    """The kinds of neurons that the file of a run has."""
    return [kind for kind in KINDS if kind in table.column_names]


def _rows(lists: pa.Array, facts: pd.DataFrame) -> pd.DataFrame:
    """A table from the list of rows that each fact has in it."""
    rows = pd.DataFrame(lists.flatten().to_pylist()) if pa.types.is_list(lists.type) else pd.DataFrame()
    if not len(rows):
        return rows
    fact = facts.index.repeat([size or 0 for size in lists.value_lengths().to_pylist()])
    rows.insert(0, "fact", fact)
    if "kind" in rows:
        rows["kind"] = rows.kind.replace(FORMER_KINDS)
    return rows.assign(relation=facts.relation[fact].to_numpy(), known=facts.known[fact].to_numpy())

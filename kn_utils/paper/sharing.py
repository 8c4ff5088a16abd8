"""Who else holds a fact's neurons: facts of its relation, facts with its answer, or nobody? (after section 4.3)"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from ..checks import count, neuron_set
from ..models import Neuron
from ..stats import Interval, bootstrap, mean_interval
from .akin import akin_relations

CELLS = (  # the other facts, as one fact sees them; the last two split the fourth
    "same relation, same answer",
    "same relation, other answer",
    "other relation, same answer",
    "other relation, other answer",
    "akin relation, other answer",
    "unlike relation, other answer",
)
PARTS = ("relation", "answer", "some", "few")
MOST = 0.5
FEW = 0.1  # of the relation's facts: below it the paper calls a neuron the fact's own (section 5.1)
ENOUGH = 2  # facts in a cell, before "most of them" means anything
_UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


def describe(facts: pd.DataFrame, n_layers: int) -> dict:
    """Every figure that the book shows of a set of facts and their neurons.

    Args:
        facts: one row per fact: relation, answer, neurons (a set of Neuron), and subject, by which a fact that stands
            in several rows is not taken for another.

    Returns:
        Numbers, lists, `Interval`s over facts and dictionaries of these. "layers" are shares of all neurons; for
        "sharing", "held", "parts", "identical" and "by_relation" see `shared`, `held`, `parts`, `identical` and
        `commonest`; "commonest" sums up the last one, its interval being over relations.
    """
    facts = _checked(facts)
    n_layers = count("n_layers", n_layers)
    number = facts.neurons.map(len).to_numpy()
    shares, sizes = holder_shares(facts)
    by_relation = commonest(facts)
    first = [entry["commonest"][0] for entry in by_relation.values() if entry["commonest"]]
    heads = pd.Series([tuple(neuron) for *neuron, _ in first], dtype=object)
    return {
        "facts": len(facts),
        "relations": facts.relation.nunique(),
        "answers": facts.answer.nunique(),
        "distinct_neurons": len(frozenset().union(*facts.neurons)),
        "number": {
            "mean": mean_interval(number),
            "median": bootstrap(lambda v, axis: np.median(v, axis), number),
            "histogram": np.bincount(number).tolist(),  # facts with 0, 1, 2, ... neurons
        },
        "layers": layer_shares(facts.neurons, n_layers),
        "sharing": shared(facts, shares, sizes),
        "held": held(facts, shares),
        "parts": parts(facts, shares, sizes),
        "identical": identical(facts),
        "commonest": {
            "median": _interval([share for *_, share in first], np.median),
            "distinct": heads.nunique(),
            "head_several": int(heads.duplicated(keep=False).sum()),
        },
        "by_relation": by_relation,
    }


def layer_shares(neurons_per_fact: Iterable[Collection[Neuron]], n_layers: int) -> list[Interval]:
    """Each layer's share of all the neurons, from the lowest layer on."""
    n_layers = count("n_layers", n_layers)
    layers = [[neuron.layer for neuron in own] for own in neurons_per_fact if len(own) > 0]
    if outside := {layer for own in layers for layer in own} - {*range(n_layers)}:
        raise ValueError(f"layer {max(outside)} of a neuron is outside the model: layers are 0..{n_layers - 1}")
    if not layers:
        return [_UNKNOWN] * n_layers
    counts = np.array([np.bincount(own, minlength=n_layers) for own in layers])  # (facts, layers)
    number = counts.sum(1)
    return [bootstrap(lambda k, n, axis: k.sum(axis) / n.sum(axis), k, number) for k in counts.T]


def holder_shares(facts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """For each neuron of each fact, the share of the facts in each of `CELLS` that hold it, too.

    The sum over a fact's neurons is therefore the mean number that it shares with a fact of the cell.

    Returns:
        shares: one row per fact and neuron, indexed by the fact's row; columns `CELLS` and "same relation", NaN where
            the fact has nobody in that cell.
        sizes: one row per fact, the same columns: how many facts the cell holds.
    """
    fact = np.repeat(np.arange(len(facts)), facts.neurons.map(len))
    neuron, names = pd.factorize(np.array([n for own in facts.neurons for n in sorted(own)], dtype="i,i"))
    group, pairs = pd.factorize(pd.MultiIndex.from_frame(facts[["relation", "answer"]]))
    ones = np.ones(len(fact), dtype=np.int32)
    held = csr_matrix((ones, (group[fact], neuron)), shape=(len(pairs), len(names)))  # holders, by relation and answer
    size = np.bincount(group)
    itself = _same_fact(facts)  # rows of one fact are no others to each other
    held_itself = csr_matrix((ones, (itself[fact], neuron)), shape=(len(facts), len(names)))
    own_count = np.asarray(held_itself[itself[fact], neuron]).ravel()
    own_size = np.bincount(itself)[itself]

    relation, answer = (pd.factorize(pairs.get_level_values(level))[0] for level in (0, 1))
    names, others = pairs.get_level_values(0), akin_relations(facts.relation, facts.answer)
    akin = np.array([names.isin(others[name]) for name in names])
    same_relation, same_answer = (codes[:, None] == codes for codes in (relation, answer))
    cells = {
        "same relation": same_relation,
        CELLS[0]: same_relation & same_answer,
        CELLS[2]: ~same_relation & same_answer,
        CELLS[4]: ~same_relation & ~same_answer & akin,
    }
    counts, sizes = {}, {}
    for cell, members in cells.items():
        counts[cell] = (csr_matrix(members, dtype=np.int32) @ held).toarray()[group[fact], neuron]
        sizes[cell] = (members @ size)[group]
        if cell.startswith("same relation"):  # its own fact is no other fact
            counts[cell], sizes[cell] = counts[cell] - own_count, sizes[cell] - own_size
    everyone = np.asarray(held.sum(0)).ravel()[neuron] - own_count
    for table, total in ((counts, everyone), (sizes, len(facts) - own_size)):
        table[CELLS[1]] = table["same relation"] - table[CELLS[0]]
        table[CELLS[3]] = total - table["same relation"] - table[CELLS[2]]
        table[CELLS[5]] = table[CELLS[3]] - table[CELLS[4]]
    sizes = pd.DataFrame(sizes)
    shares = pd.DataFrame(counts, index=fact) / sizes.where(sizes > 0).loc[fact]
    return shares, sizes


def _checked(facts: pd.DataFrame) -> pd.DataFrame:
    """The facts, numbered from 0, with their neurons as sets of Neuron."""
    if missing := {"relation", "answer", "neurons"} - {*getattr(facts, "columns", ())}:
        raise ValueError(f"facts lacks {', '.join(sorted(missing))}: pass a table with one row per fact")
    if not len(facts):
        raise ValueError("facts is empty: pass at least one fact")
    anywhere = (None, np.iinfo(np.int32).max)
    return facts.reset_index(drop=True).assign(neurons=[set(neuron_set(anywhere, own)) for own in facts.neurons])


def _same_fact(facts: pd.DataFrame) -> np.ndarray:
    """Which fact each row is: rows with one subject, relation and answer are the same.  # (rows,)"""
    if "subject" not in facts:
        return np.arange(len(facts))
    return facts.groupby(["subject", "relation", "answer"], sort=False, dropna=False).ngroup().to_numpy()


def shared(facts: pd.DataFrame, shares: pd.DataFrame, sizes: pd.DataFrame) -> dict[str, dict]:
    """For each cell: how many neurons ("number"), and which share of its own neurons ("share"), a fact has in common
    with another fact there. "facts" counts those that have one. "within" is what they share with facts of their own
    relation with another answer; "over_relations" is the number with relations, not facts, as the units.
    """
    own = facts.neurons.map(len)
    numbers = shares.groupby(level=0).sum().reindex(facts.index, fill_value=0)
    fractions = numbers.div(own.where(own > 0), axis=0).where(sizes > 0)  # facts without neurons have none
    cells = {}
    for cell in CELLS:
        some = sizes[cell] > 0
        cells[cell] = {
            "facts": int(some.sum()),
            "number": _interval(numbers[cell][some]),
            "share": _interval(fractions[cell].dropna()),
            "within": _interval(fractions[CELLS[1]][some].dropna()),
            "over_relations": _interval(numbers[cell][some].groupby(facts.relation).mean()),
        }
    return cells


def intersections(facts: pd.DataFrame) -> pd.DataFrame:
    """How many neurons two facts have in common, over all pairs of facts (section 4.2).

    Args:
        facts: one row per fact: relation, answer, neurons (a set of Neuron).

    Returns:
        One row per cell, "same relation", "other relation" and the four of `CELLS` that part them by answer: number,
        and share (of the fact's own neurons), `Interval`s over facts, each fact's value being its mean over the others.
    """
    facts = _checked(facts)
    shares, sizes = holder_shares(facts)
    other = sizes[[CELLS[2], CELLS[3]]]
    together = (shares[other.columns].fillna(0) * other.loc[shares.index]).sum(axis=1)
    sizes = sizes.assign(**{"other relation": other.sum(axis=1)})
    shares = shares.assign(
        **{"other relation": together / sizes["other relation"].where(other.sum(axis=1) > 0)[shares.index]}
    )
    numbers = shares.groupby(level=0).sum().reindex(facts.index, fill_value=0)
    own = facts.neurons.map(len)
    fractions = numbers.div(own.where(own > 0), axis=0)
    rows = [
        {"cell": cell, "number": _interval(numbers[cell][some]), "share": _interval(fractions[cell][some].dropna())}
        for cell in ("same relation", "other relation", *CELLS[:4])
        for some in [sizes[cell] > 0]
    ]
    return pd.DataFrame(rows)


def held(facts: pd.DataFrame, shares: pd.DataFrame) -> dict[str, dict]:
    """A fact's neurons that "most", "few" and "none" of the relation's other facts hold: number and share."""
    relation = shares["same relation"].dropna()
    masks = {"most": relation >= MOST, "few": relation < FEW, "none": relation == 0}
    return {name: _per_fact(mask) for name, mask in masks.items()}


def parts(facts: pd.DataFrame, shares: pd.DataFrame, sizes: pd.DataFrame) -> dict:
    """A fact's neurons in four parts, by who else holds them: number and share of each.

    "relation": at least `MOST` of the relation's facts with another answer. "answer": not these, but at least `MOST` of
    its facts with the same answer. "few": neither, and less than `FEW` of its facts. "some": the rest. Only facts with
    at least `ENOUGH` others of both kinds count; "facts" tells how many do.
    """
    enough = (sizes[[CELLS[0], CELLS[1]]] >= ENOUGH).all(axis=1)
    chosen = shares[enough.loc[shares.index].to_numpy()]
    relation = chosen[CELLS[1]] >= MOST
    answer = ~relation & (chosen[CELLS[0]] >= MOST)
    few = ~relation & ~answer & (chosen["same relation"] < FEW)
    masks = dict(zip(PARTS, (relation, answer, ~relation & ~answer & ~few, few), strict=True))
    return {"facts": int(enough.sum()), **{part: _per_fact(mask) for part, mask in masks.items()}}


def identical(facts: pd.DataFrame) -> dict[str, Interval]:
    """Share of the facts whose set of neurons another fact of the relation has, too: any, with the same answer, with
    another answer. Empty sets are left out.
    """
    facts = facts.assign(itself=_same_fact(facts))[facts.neurons.map(len) > 0].drop_duplicates("itself")
    sets = facts.assign(neurons=facts.neurons.map(frozenset)).groupby(["relation", "neurons"])
    same = facts.assign(neurons=facts.neurons.map(frozenset)).groupby(["relation", "neurons", "answer"])
    return {
        "any": _interval(sets.answer.transform("size") > 1),
        "same answer": _interval(same.relation.transform("size") > 1),
        "other answer": _interval(sets.answer.transform("nunique") > 1),
    }


def commonest(facts: pd.DataFrame, n: int = 3) -> dict[str, dict]:
    """For each relation: facts, answers, mean number of neurons, share of identical sets, and its `n` commonest neurons
    as [layer, index, share of the relation's facts that hold it].
    """
    relations = {}
    for relation, rows in facts.groupby("relation"):
        counts = Counter(neuron for own in rows.neurons for neuron in own)
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n]
        top = [ranked[0][0] in own for own in rows.neurons] if ranked else []
        relations[relation] = {
            "facts": len(rows),
            "answers": rows.answer.nunique(),
            "number": mean_interval(rows.neurons.map(len)),
            "identical": identical(rows)["any"],
            "commonest": [[*neuron, count / len(rows)] for neuron, count in ranked],
            "share": _interval(top),
        }
    return relations


def _per_fact(mask: pd.Series) -> dict[str, Interval]:
    per_fact = mask.groupby(level=0)
    return {"number": _interval(per_fact.sum()), "share": _interval(per_fact.mean())}


def _interval(values: Sequence[float], statistic=np.mean) -> Interval:
    """Over the values; not a number where there are none."""
    if len(values) == 0:
        return _UNKNOWN
    return bootstrap(lambda v, axis: statistic(v, axis), np.asarray(values, dtype=float))

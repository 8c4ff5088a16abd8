"""What a fact's neuron stands for: the relation, the answer, the subject, or the fact itself.

A neuron that the method found for a fact is active on it. Is it also active on facts that share only a part of it?
Four steps lead from the activation on facts of other relations to that on the fact itself, and each step is tested
against facts that changed places.
"""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import false_discovery_control, norm
from torch import Tensor

from ..attribution import ffn_activations
from ..checks import fraction, list_of, neuron_sets, one_of, same_length
from ..facts import Fact
from ..models import LanguageModel, Neuron

NAMES = ("relation", "answer", "subject", "fact")
NO_NAME = "no name"
FACT = ["subject", "relation", "answer"]
PROMPTS = {"find": "prompts", "heldout": "heldout_prompts"}
CHUNK = 128  # facts whose activations are held at once


def mean_activity(lm: LanguageModel, facts: Sequence[Fact], prompts: str = "heldout") -> Tensor:
    """Every neuron's activation on every fact, the mean over its prompts.

    Args:
        prompts: "heldout", so that no neuron is judged by the prompts that found it, or "find".

    Returns:
        (facts, layers, neurons).

    Raises:
        ValueError: a fact without such prompts.
    """
    facts, role = list_of("facts", facts, Fact), PROMPTS[one_of("prompts", prompts, PROMPTS)]
    asked = [getattr(fact, role) for fact in facts]
    if missing := [fact for fact, own in zip(facts, asked, strict=True) if not own]:
        raise ValueError(f"fact {missing[0].subject!r} has no {role}: leave it out, or give it some")
    means = []
    for i in range(0, len(facts), CHUNK):
        own = asked[i : i + CHUNK]
        activations = ffn_activations(lm, [prompt for prompts in own for prompt in prompts])
        means += [part.mean(0).cpu() for part in activations.split([len(prompts) for prompts in own])]
    return torch.stack(means) if means else torch.empty(0, lm.n_layers, lm.n_neurons)


def activation_steps(activity: Tensor, facts: Sequence[Fact], sets: Sequence[Collection[Neuron]]) -> pd.DataFrame:
    """From the activation on facts of other relations to that on the neuron's own fact, in four tested steps.

    - *relation*: the relation's facts with other answers, less all facts of other relations;
    - *answer*: the other facts with the same relation and answer, less those with other answers;
    - *subject*: what other relations ask about the subject, each less the other facts of its own relation and answer;
    - *fact*: the fact itself, less the others with its answer, and less the subject's step.

    The steps sum to the activation on the fact less the mean over other relations. Only the last one looks at the fact
    itself: a neuron has the others on facts that share a part of it.

    Each p-value is one-sided and of a permutation test in which facts change places, for the relation among all
    relations, otherwise within the relation. For relation and answer it is that of the Mann-Whitney U of the two
    groups of facts, by its normal limit. For subject and fact it is the share of the relation's facts with a step at
    least as large, so never below 1 / their number.

    Args:
        activity: (facts, layers, neurons), of `mean_activity`.
        facts: those facts, of `comparable_facts`.
        sets: the neurons of each fact; a fact may have none.

    Returns:
        One row per fact and neuron, indexed by row (the place in `facts`), layer and index; columns ("step", name) in
        units of activation and ("p", name) for each of NAMES. NaN where a fact lacks the others that it takes.

    Raises:
        ValueError: activity of another shape or not finite, lists of different lengths, or a neuron outside the model.
    """
    facts = list_of("facts", facts, Fact)
    if getattr(activity, "ndim", 0) != 3 or not (activity := torch.as_tensor(activity)).isfinite().all():
        raise ValueError("activity is not finite (facts, layers, neurons): pass that of mean_activity()")
    same_length(activity=activity, facts=facts, sets=sets)
    about = pd.DataFrame([(fact.subject, fact.relation, fact.answer) for fact in facts], columns=FACT)
    sets = neuron_sets(tuple(activity.shape[1:]), sets, "sets")
    held = [(row, *neuron) for row, own in enumerate(sets) for neuron in own]
    index = pd.MultiIndex.from_tuples(held, names=["row", "layer", "index"]) if held else _NO_ROWS
    tables = []
    for layer, pairs in index.to_frame(index=False).groupby("layer"):
        columns, place = np.unique(pairs["index"], return_inverse=True)
        y = pd.DataFrame(activity[:, layer, columns].numpy(force=True).astype(float))  # (facts, neurons)
        steps = _steps(y, about)
        values = {("step", name): table for name, table in steps.items()}
        values |= {("p", name): table for name, table in _p_values(y, steps, about).items()}
        own = {name: table.to_numpy()[pairs.row, place] for name, table in values.items()}
        tables.append(pd.DataFrame(own, index=pd.MultiIndex.from_frame(pairs)))
    columns = pd.MultiIndex.from_product([["step", "p"], NAMES])
    return pd.concat(tables).reindex(index) if tables else pd.DataFrame(index=index, columns=columns, dtype=float)


def name_neurons(steps: pd.DataFrame, level: float = 0.05) -> pd.Series:
    """Call each neuron of a fact by the largest of its steps that beat chance; "no name" where none does.

    A step beats chance if its p-value is at most `level`, and its q-value among all neurons of the table, too: of the
    neurons that pass, a share of `level` is expected to do so by chance. The q-value is Storey's (2002): Benjamini
    and Hochberg's adjusted p-value times the share of p-values that chance alone would explain, twice the share above
    one half. Neurons whose facts changed places get hardly any name. Pass kinds of neurons that are to be compared in
    tables of their own.

    Args:
        steps: of `activation_steps`.
        level: between 0 and 1.

    Returns:
        One of NAMES or "no name" per row of `steps`.
    """
    level = fraction("level", level)
    if not {("step", name) for name in NAMES} | {("p", name) for name in NAMES} <= {*steps.columns}:
        raise ValueError(f"steps has the columns {list(steps.columns)}: pass the table of activation_steps()")
    size, p = steps["step"][list(NAMES)], steps["p"][list(NAMES)].fillna(1.0)
    sure = (size > 0) & (p <= level) & (p.apply(_q_values) <= level)
    best = size.where(sure, -np.inf).to_numpy().argmax(1) if len(steps) else []
    names = pd.Series(np.array(NAMES)[best], index=steps.index, name="name", dtype=object)
    return names.where(sure.any(axis=1), NO_NAME)


_NO_ROWS = pd.MultiIndex.from_arrays([np.empty(0, int)] * 3, names=["row", "layer", "index"])


def _total(values: pd.DataFrame, about: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """For each fact the sum over all facts that agree with it in these columns.  # (facts, neurons)"""
    return values.groupby(about.groupby(list(columns)).ngroup().to_numpy()).transform("sum")


def _number(about: pd.DataFrame, *columns: str) -> np.ndarray:
    """For each fact the number of facts that agree with it in these columns.  # (facts, 1)"""
    return about.groupby(list(columns)).subject.transform("size").to_numpy()[:, None]


@np.errstate(divide="ignore", invalid="ignore")
def _steps(y: pd.DataFrame, about: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The four steps of every fact, for every neuron.  # each (facts, neurons)"""
    relation, answer = _total(y, about, "relation"), _total(y, about, "relation", "answer")
    n_relation, n_answer = _number(about, "relation"), _number(about, "relation", "answer")
    elsewhere = (y.sum() - relation) / (len(y) - n_relation)
    other_answers = (relation - answer) / (n_relation - n_answer)
    same_answer = (answer - y) / (n_answer - 1)
    own = y - same_answer  # what the fact has beyond its relation and answer
    n_asked = _number(about, "subject") - _number(about, "subject", "relation")
    subject = (_total(own, about, "subject") - _total(own, about, "subject", "relation")) / n_asked
    return {
        "relation": other_answers - elsewhere,
        "answer": same_answer - other_answers,
        "subject": subject,
        "fact": own - subject,
    }


def _p_values(y: pd.DataFrame, steps: dict[str, pd.DataFrame], about: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The one-sided p-value of every step.  # each (facts, neurons)"""
    n_relation, n_answer = _number(about, "relation"), _number(about, "relation", "answer")
    relation = about.groupby("relation").ngroup().to_numpy()
    within = y.groupby(relation).rank()
    # A rank among all less the rank within a group counts the facts outside the group that are less active.
    beaten = y.rank() - within
    wins = _total(beaten, about, "relation") - _total(beaten, about, "relation", "answer")
    p = {"relation": _mann_whitney(wins, n_relation - n_answer, len(y) - n_relation)}
    beaten = within - y.groupby(about.groupby(["relation", "answer"]).ngroup().to_numpy()).rank()
    wins = _total(beaten, about, "relation", "answer") - beaten
    p["answer"] = _mann_whitney(wins, n_answer - 1, n_relation - n_answer)
    for name in ("subject", "fact"):
        p[name] = steps[name].groupby(relation).rank(method="max", ascending=False, pct=True)
    return p


@np.errstate(divide="ignore", invalid="ignore")
def _mann_whitney(wins: pd.DataFrame, n: np.ndarray, n_others: np.ndarray) -> pd.DataFrame:
    """The chance of at least so many wins of n facts over n_others, if their order is random (normal limit)."""
    z = (wins - n * n_others / 2) / np.sqrt(n * n_others * (n + n_others + 1) / 12)
    return pd.DataFrame(norm.sf(z), z.index, z.columns)


def _q_values(p: pd.Series) -> pd.Series:
    """Storey's q-values: the share of chance among all p-values at most as large."""
    by_chance = min(1.0, 2 * (p > 0.5).mean())
    return by_chance * pd.Series(false_discovery_control(p), p.index) if len(p) else p

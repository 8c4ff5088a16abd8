"""What a neuron stands for: does its activation follow the relation, the answer, the subject, the fact or the wording?

An analysis of variance of the activation at the mask, over the prompts of many facts. It is nested, because a fact
fixes the other three: whoever knows the fact knows its relation, its answer and its subject.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from random import Random

import numpy as np
import pandas as pd
import torch
from scipy.linalg import orth
from torch import Tensor

from ..asking import ask_scaled
from ..attribution import ffn_activations
from ..checks import count, integer, list_of, neuron_set
from ..facts import Fact
from ..models import LanguageModel, Neuron

FACTORS = ("relation", "answer", "subject", "fact", "template")  # each beyond those before it
SHARES = (*FACTORS, "rest")
FACT = ["subject", "relation", "answer"]
CHUNK = 1024  # prompts whose activations are held at once


def comparable_facts(facts: Sequence[Fact], n_facts: int | None = None, seed: int = 0) -> list[Fact]:
    """The facts of which answer, subject and fact can be told apart.

    Another fact of the relation has the same answer, and a fact of another relation has the same subject. A capital,
    by contrast, belongs to one country: nothing tells a neuron of the answer from a neuron of the fact.

    Args:
        n_facts: about so many facts, all those of subjects drawn at random; every comparable fact when None.
    """
    facts = list_of("facts", facts, Fact)
    kept = _prune({(fact.subject, fact.relation, fact.answer): fact for fact in facts}.values())  # each once
    if n_facts is None or len(kept) <= count("n_facts", n_facts):
        return kept
    sizes, total, drawn = Counter(fact.subject for fact in kept), 0, set()
    for subject in Random(integer("seed", seed)).sample(sorted(sizes), len(sizes)):
        if total < n_facts:
            drawn.add(subject)
            total += sizes[subject]
    return _prune([fact for fact in kept if fact.subject in drawn])


def _prune(facts: Collection[Fact]) -> list[Fact]:
    """Leave out facts with an answer or a subject of their own, until there are none."""
    answers = Counter((fact.relation, fact.answer) for fact in facts)
    relations = Counter(subject for subject, _ in {(fact.subject, fact.relation) for fact in facts})
    kept = [f for f in facts if answers[f.relation, f.answer] > 1 and relations[f.subject] > 1]
    return kept if len(kept) == len(facts) else _prune(kept)


def prompt_labels(facts: Iterable[Fact]) -> pd.DataFrame:
    """One row per prompt of `fact.prompts`: subject, relation, answer, and template, its place among the prompts."""
    rows = [(f.subject, f.relation, f.answer, i) for f in list_of("facts", facts, Fact) for i in range(len(f.prompts))]
    return pd.DataFrame(rows, columns=[*FACT, "template"])


def neuron_shares(lm: LanguageModel, facts: Sequence[Fact], corrected: bool = True) -> pd.DataFrame:
    """`variance_shares` of every neuron of the model over `fact.prompts`, a few prompts' activations at a time.

    Returns:
        One row per neuron, indexed by layer and index, so that `shares.loc[neuron]` works.
    """
    facts = list_of("facts", facts, Fact)
    prompts = [prompt for fact in facts for prompt in fact.prompts]
    chunks = (ffn_activations(lm, prompts[i : i + CHUNK]) for i in range(0, len(prompts), CHUNK))
    shares = variance_shares(chunks, prompt_labels(facts), corrected)
    return shares.set_index(pd.MultiIndex.from_product([range(lm.n_layers), range(lm.n_neurons)]))


def variance_shares(
    activations: Tensor | Iterable[Tensor], labels: pd.DataFrame, corrected: bool = True
) -> pd.DataFrame:
    """Split each neuron's variance over these prompts among relation, answer, subject, fact and template.

    How much closer can one guess the activation, who knows the relation; and the answer as well; and the subject as
    well; and the whole fact? A share is what each of them adds to those before it. So *fact* is what neither answer
    nor subject tells, only the two together. *template* is the wording, alike for all facts of the relation; *rest* is
    what a wording does to single facts. Every fact has the same weight, however many prompts it has.

    Uncorrected shares are eta^2: sums of squares over their total. They flatter factors with many levels, for even of
    random numbers 300 subjects explain some. Corrected shares compare mean squares, that is sums of squares over their
    degrees of freedom, as epsilon^2 and the adjusted R^2 do: a factor that does not matter gets 0 on average, and now
    and then a little less. What counts as chance for answers and subjects is how facts vary, not how the prompts of
    one fact do. Shares of either kind sum to 1.

    Args:
        activations: (prompts, ...), or batches of it in the order of `labels`, of which only sums are kept.
        labels: one row per prompt: subject, relation, answer, template. Every fact of a relation has each of its
            templates once.

    Returns:
        One row per neuron, columns SHARES; NaN for a neuron that never changes.

    Raises:
        ValueError: a fact without one of its relation's templates, another number of activations than of labels,
            activations that are not finite, no labels, or (corrected) facts among which the factors cannot be told
            apart.
    """
    if missing := {*FACT, "template"} - {*getattr(labels, "columns", ())}:
        raise ValueError(f"labels lacks {', '.join(sorted(missing))}: pass the table of prompt_labels()")
    if not len(labels):
        raise ValueError("labels is empty: pass the labels of at least one prompt")
    facts, fact = _levels(labels, FACT)
    cells, cell = _levels(labels, ["relation", "template"])
    n_facts = facts.relation.map(facts.relation.value_counts()).to_numpy()  # of each fact's relation
    n_templates = facts.relation.map(cells.relation.value_counts()).to_numpy()
    if labels.duplicated().any() or len(labels) != n_templates.sum():
        raise ValueError("the facts of a relation differ in their templates: give each of them every template once")
    by_fact, by_cell, (squares,) = _sums(activations, fact, cell, 1 / n_templates[fact])
    means = by_fact / n_templates[:, None]  # (facts, neurons)
    cell_means = by_cell / np.bincount(cell)[:, None]  # (relations x templates, neurons)

    left, freedom = _between_facts(means, facts)
    weight = np.bincount(cell) / cells.relation.map(cells.relation.value_counts()).to_numpy()
    template = weight @ np.square(_centred(cell_means, _levels(cells, ["relation"])[1]))
    rest = np.maximum(squares - np.square(means).sum(0) - template, 0)  # rounding
    noise = 0.0  # what wordings add to a fact's mean, and knowing the fact does not explain
    if corrected:
        spread = 1 - 1 / n_templates
        if freedom.min() < 1 or not (spread * (1 - 1 / n_facts)).sum():
            raise ValueError("these facts do not tell the factors apart: pass those of comparable_facts()")
        left = left / freedom[:, None]
        rest = rest / (spread * (1 - 1 / n_facts)).sum()
        template = (template - rest * (spread / n_facts).sum()) / spread.sum()
        noise = rest * (1 / n_templates).mean()
    parts = np.stack([*(left[:-1] - left[1:]), left[-1] - noise, template, rest], 1)
    with np.errstate(invalid="ignore"):
        return pd.DataFrame(parts / parts.sum(1, keepdims=True), columns=SHARES)


def name_neurons(shares: pd.DataFrame) -> dict[Neuron, str]:
    """Call each neuron by the factor with the greatest share; "none" if that is the rest, or if it never changes.

    Args:
        shares: of `neuron_shares`, corrected.
    """
    if list(shares.columns) != list(SHARES):
        raise ValueError(f"shares has the columns {list(shares.columns)}, not {list(SHARES)}: pass neuron_shares()")
    names = shares.fillna(0).idxmax(axis=1).where(shares.notna().all(axis=1), "rest").replace("rest", "none")
    return {Neuron(*neuron): name for neuron, name in names.items()}


def relatives(fact: Fact, facts: Sequence[Fact], n: int = 3, seed: int = 0) -> dict[str, list[Fact]]:
    """Up to n facts each that share with `fact` its answer, its subject, its relation only, or nothing.

    A subject with several answers has the same answer if one of them is.

    Returns:
        same answer (and relation), same subject (other relation), same relation (other answer), unrelated.
    """
    facts, n = list_of("facts", facts, Fact), count("n", n, least=0)
    groups: dict[str, list[Fact]] = {"same answer": [], "same subject": [], "same relation": [], "unrelated": []}
    answered_alike = {(f.subject, f.relation) for f in facts if f.answer == fact.answer}
    for other in facts:
        if other.subject == fact.subject:
            if other.relation != fact.relation:
                groups["same subject"].append(other)
        elif other.relation == fact.relation:
            if other.answer == fact.answer:
                groups["same answer"].append(other)
            elif (other.subject, other.relation) not in answered_alike:
                groups["same relation"].append(other)
        elif (other.subject, other.relation) not in answered_alike:
            groups["unrelated"].append(other)
    rng = Random(integer("seed", seed))
    return {name: rng.sample(group, min(n, len(group))) for name, group in groups.items()}


def ask_relatives(
    lm: LanguageModel, fact: Fact, groups: Mapping[str, Sequence[Fact]], sets: Mapping[str, Collection[Neuron]]
) -> pd.DataFrame:
    """Ask a fact and its relatives, on held-out prompts, with each set of neurons suppressed in turn.

    Args:
        groups: of `relatives`.
        sets: neurons under any names.

    Returns:
        One row per name of a set that is not empty and per group that is not empty, "own fact" among them: n, the
        number of neurons; before and after, the mean P(answer) of the group's facts.
    """
    asked = [(group, other) for group, own in {"own fact": [fact], **groups}.items() for other in own]
    group, facts = zip(*asked, strict=True)
    named = {name: neuron_set(lm, own, f"sets[{name!r}]") for name, own in sets.items()}
    named = {name: neurons for name, neurons in named.items() if neurons}
    if not named:
        return pd.DataFrame()
    changes = [([neurons] * len(facts), 0.0) for neurons in named.values()]
    before, *after = (table.probability for table in ask_scaled(lm, facts, changes))
    tables = []
    for (name, neurons), p in zip(named.items(), after, strict=True):
        columns = {"name": name, "n": len(neurons), "group": group, "before": before, "after": p}
        tables.append(pd.DataFrame(columns).groupby(["name", "n", "group"], sort=False, as_index=False).mean())
    return pd.concat(tables, ignore_index=True)


def _levels(table: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, np.ndarray]:
    """The different rows of `columns`, in order of appearance, and for each row of the table which of them it is."""
    columns = list(columns)
    codes = table.groupby(columns, sort=False).ngroup().to_numpy()
    return table[columns].drop_duplicates(ignore_index=True), codes


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Each row less the mean of its group.  # (rows, columns)"""
    member = np.arange(groups.max() + 1)[:, None] == groups  # (groups, rows)
    return values - (member @ values / member.sum(1, keepdims=True))[groups]


def _sums(activations, fact: np.ndarray, cell: np.ndarray, weight: np.ndarray) -> list[np.ndarray]:
    """One pass: sums over each fact's prompts, over each wording's, and of the squares times `weight`, per neuron."""
    done, sums, origin = 0, None, None
    for batch in [activations] if isinstance(activations, Tensor) else activations:
        y = batch.flatten(1).cpu().double()  # (prompts, neurons)
        if not y.isfinite().all():
            raise ValueError("activations hold NaN or infinity: load weights that are not damaged")
        rows = slice(done, done := done + len(y))
        if done > len(fact):
            break
        if sums is None:
            origin = y[0]  # variances stay the same, and sums of small differences lose less to rounding
            sums = [y.new_zeros(levels.max() + 1, y.shape[1]) for levels in (fact, cell, np.zeros_like(fact))]
        y = y - origin
        sums[0].index_add_(0, torch.tensor(fact[rows]), y)
        sums[1].index_add_(0, torch.tensor(cell[rows]), y)
        sums[2] += torch.tensor(weight[rows]) @ y**2
    if done != len(fact):
        raise ValueError(f"labels has {len(fact)} rows, not one per prompt: pass both for the same prompts")
    return [total.numpy() for total in sums]


def _between_facts(means: np.ndarray, facts: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What is left of the facts' variance, who knows nothing, the relation, the answer too, and the subject too.

    Returns:
        Sums of squares (4, neurons) and their degrees of freedom (4,).
    """
    relation, group = (_levels(facts, columns)[1] for columns in (["relation"], ["relation", "answer"]))
    left = []
    for known in (np.zeros_like(group), relation, group):
        means = _centred(means, known)
        left.append(np.square(means).sum(0))
    # What subjects tell beyond relation and answer: a basis of their indicators, less the means over both.
    subjects = orth(_centred(pd.get_dummies(facts.subject).to_numpy(float), group))
    left.append(left[-1] - np.square(subjects.T @ means).sum(0))
    spent = np.cumsum([1, relation.max(), group.max() - relation.max(), subjects.shape[1]])
    return np.stack(left), len(facts) - spent

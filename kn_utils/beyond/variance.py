"""How a neuron's variance splits among relation, answer, subject, fact and wording.

A nested analysis of variance of the activation at the mask, over the prompts of many facts: each factor gets what it
adds to those before it.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.linalg import orth
from torch import Tensor

from ..attribution import ffn_activations
from ..checks import list_of
from ..facts import Fact
from ..models import LanguageModel

SHARES = ("relation", "answer", "subject", "fact", "template", "rest")  # each beyond those before it
FACT = ["subject", "relation", "answer"]
CHUNK = 1024  # prompts whose activations are held at once


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

    A share is the variance that a factor explains beyond those before it: the relation first, then the answer, then
    the subject. *fact* is what is left between facts, so it is large for every neuron that these three do not explain
    and says nothing about a single fact (`name_neurons` tests that). *template* is the wording, alike for all facts of
    the relation; *rest* is what a wording does to single facts. Every fact has the same weight, however many prompts
    it has.

    Uncorrected shares are eta^2: sums of squares over their total. They flatter factors with many levels, since 300
    subjects explain part of any random numbers. Corrected shares compare mean squares, that is sums of squares over
    their degrees of freedom, as epsilon^2 and the adjusted R^2 do: a factor that does not matter gets 0 on average,
    sometimes slightly less. Chance for answers and subjects is how facts vary, not how the prompts of one fact vary.
    Shares of either kind sum to 1.

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
    noise = 0.0  # what wordings add to the variance of the facts' means
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
    """Residual sums of squares of the nested models: none, relation, answer as well, subject as well.

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

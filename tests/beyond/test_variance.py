"""Variance shares against plain analyses of variance, and on neurons whose meaning is known."""

from dataclasses import replace
from itertools import product
from random import Random

import numpy as np
import pandas as pd
import pytest
import torch
from common import one_line_error
from scipy.stats import f_oneway

import kn_utils as kn
from kn_utils import Neuron
from kn_utils.beyond.kin import comparable_facts
from kn_utils.beyond.variance import SHARES, neuron_shares, prompt_labels, variance_shares


def world(n_subjects=30, n_relations=4, n_answers=5, templates=3, seed=0):
    """Labels of a world like the lab's: each subject has a fact in each relation, its answer drawn at random."""
    rng = np.random.default_rng(seed)
    counts = [templates] * n_relations if isinstance(templates, int) else templates
    rows = [
        (f"s{s}", f"r{r}", f"a{answer}", t)
        for s, r in product(range(n_subjects), range(n_relations))
        for answer in [rng.integers(n_answers)]
        for t in range(counts[r])
    ]
    return pd.DataFrame(rows, columns=["subject", "relation", "answer", "template"])


def noise(labels, n_neurons=3, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((len(labels), n_neurons)))


def levels(labels, *columns):
    return labels.groupby(list(columns), sort=False).ngroup().to_numpy()


def left_over(y, *factors):
    """The residual sum of squares of the additive model of `factors`, by least squares, and its rank."""
    design = np.column_stack([np.ones(len(y)), *(pd.get_dummies(factor).to_numpy(float) for factor in factors)])
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return ((y - fitted) ** 2).sum(), np.linalg.matrix_rank(design)


def plain_anova(y, labels):
    """Sums of squares of one neuron, prompts as cases: relation, answer, subject, fact, template, rest."""
    relation, cell = levels(labels, "relation"), levels(labels, "relation", "answer")
    fact, wording = levels(labels, "subject", "relation", "answer"), levels(labels, "relation", "template")
    models = [(), (relation,), (cell,), (cell, labels.subject), (fact,), (fact, wording)]
    left = [left_over(y, *factors)[0] for factors in models] + [0]
    return -np.diff(left)


@pytest.mark.parametrize("seed", range(3))
def test_uncorrected_shares_are_a_plain_anova(seed):
    labels = world(n_subjects=8, n_relations=3, n_answers=3, seed=seed)
    y = noise(labels, seed=seed)
    shares = variance_shares(y, labels, corrected=False)
    for neuron in range(y.shape[1]):
        expected = plain_anova(y[:, neuron].numpy(), labels)
        np.testing.assert_allclose(shares.loc[neuron], expected / expected.sum(), atol=1e-10)


def test_eta_squared_from_the_f_test():
    """eta^2 = F d1 / (F d1 + d2), for the relation alone and for relation and answer together."""
    labels = world()
    y = noise(labels, n_neurons=1)
    shares = variance_shares(y, labels, corrected=False).loc[0]
    for columns, share in (["relation"], shares.relation), (["relation", "answer"], shares.relation + shares.answer):
        groups = [y[rows, 0].numpy() for rows in labels.groupby(columns).indices.values()]
        d1, d2 = len(groups) - 1, len(labels) - len(groups)
        f = f_oneway(*groups).statistic
        assert share == pytest.approx(f * d1 / (f * d1 + d2))


@pytest.mark.parametrize("seed", range(3))
def test_corrected_shares_are_mean_squares(seed):
    """Balanced templates: the estimates of a textbook, sum of squares over degrees of freedom, level by level."""
    labels, t = world(n_subjects=8, n_relations=3, n_answers=3, templates=4, seed=seed), 4
    y = noise(labels, n_neurons=1, seed=seed)
    facts = (
        labels.assign(y=y[:, 0].numpy()).groupby(["subject", "relation", "answer"], as_index=False, sort=False).y.mean()
    )
    relation, cell = levels(facts, "relation"), levels(facts, "relation", "answer")
    models = [(), (relation,), (cell,), (cell, facts.subject)]
    mean_squares = [rss / (len(facts) - rank) for rss, rank in (left_over(facts.y.to_numpy(), *m) for m in models)]
    *_, template, rest = plain_anova(y[:, 0].numpy(), labels)
    rest /= 3 * (8 - 1) * (t - 1)  # relations, facts, templates
    template = (template / (3 * (t - 1)) - rest) / 8
    expected = [*-np.diff([*mean_squares, rest / t]), template, rest]
    shares = variance_shares(y, labels)
    np.testing.assert_allclose(shares.loc[0], np.array(expected) / np.sum(expected), atol=1e-10)


def test_shares_recover_known_variances():
    """Activations drawn with a known variance for every factor; the mean over many neurons meets it.

    Of k levels that are all there is, the variance is (k - 1) / k of the one that they were drawn with.
    """
    labels = world(n_subjects=200, n_relations=12, n_answers=8, templates=[3, 4, 5] * 4)
    rng, n = np.random.default_rng(0), 200
    truth = {"relation": 0.1, "answer": 0.25, "subject": 0.2, "fact": 0.3, "template": 0.05, "rest": 0.1}
    of = {"relation": ["relation"], "answer": ["relation", "answer"], "subject": ["subject"],
          "fact": ["subject", "relation"], "template": ["relation", "template"]}  # fmt: skip
    y = np.sqrt(truth["rest"]) * rng.standard_normal((len(labels), n))
    for factor, columns in of.items():
        codes = levels(labels, *columns)
        effect = pd.DataFrame(rng.standard_normal((codes.max() + 1, n))[codes])
        if factor in ("answer", "template"):
            effect -= effect.groupby(labels.relation).transform("mean")  # what relations have is the relation's
        y += np.sqrt(truth[factor]) * effect.to_numpy()
    present = truth | {"relation": truth["relation"] * 11 / 12, "answer": truth["answer"] * 7 / 8}
    expected = {factor: variance / sum(present.values()) for factor, variance in present.items()}
    assert variance_shares(torch.from_numpy(y), labels).mean().to_dict() == pytest.approx(expected, abs=0.01)


def test_chance_gets_nothing_once_corrected():
    """Facts that differ at random: eta^2 gives answers and subjects their degrees of freedom; corrected, they get 0."""
    labels = world(n_subjects=40, n_relations=5)
    fact = levels(labels, "subject", "relation")
    y = 0.1 * noise(labels, 600) + torch.tensor(np.random.default_rng(2).standard_normal((fact.max() + 1, 600))[fact])
    plain, corrected = (variance_shares(y, labels, corrected).mean() for corrected in (False, True))
    assert plain.answer == pytest.approx(20 / 199, abs=0.02)  # 5 relations x (5 - 1) answers, of 200 facts
    assert plain.subject == pytest.approx(39 / 199, abs=0.02)
    assert abs(corrected[["relation", "answer", "subject", "template"]]).max() < 0.01
    assert corrected.fact > 0.95


def test_shuffled_facts_of_the_lab(lab, lab_facts):
    """The prompts of each relation's facts change hands, so that answers and subjects no longer mean anything."""
    facts, rng = comparable_facts(lab_facts, n_facts=250), Random(0)
    shuffled = []
    for relation in sorted({fact.relation for fact in facts}):
        own = [fact for fact in facts if fact.relation == relation]
        shuffled += [replace(f, prompts=g.prompts) for f, g in zip(own, rng.sample(own, len(own)), strict=True)]
    real, chance = (neuron_shares(lab, sample).mean() for sample in (facts, shuffled))
    assert real.answer > 0.08 and real.subject > 0.2
    assert abs(chance[["answer", "subject"]]).max() < 0.03
    assert chance[["relation", "template", "rest"]].to_dict() == pytest.approx(
        real[["relation", "template", "rest"]].to_dict(), abs=0.02
    )


FIRES_FOR = {
    "relation": lambda row: row.relation == "r2",
    "answer": lambda row: (row.relation, row.answer) == ("r1", "a3"),
    "subject": lambda row: row.subject == "s7",
    "fact": lambda row: (row.subject, row.relation) == ("s7", "r1"),
    "template": lambda row: (row.relation, row.template) == ("r0", 1),
}


@pytest.mark.parametrize("templates", [3, [4, 5, 3, 4]])
def test_shares_of_neurons_whose_meaning_is_known(templates):
    labels = world(templates=templates)
    columns = [labels.apply(fires, axis=1).to_numpy(float) for fires in FIRES_FOR.values()]
    quirk = (
        (levels(labels, "subject", "relation") * 7 + labels.template * 3).mod(5).to_numpy(float)
    )  # of single prompts
    y = torch.tensor(np.column_stack([*columns, np.ones(len(labels)), quirk]))
    shares = variance_shares(y, labels)
    assert list(shares.columns) == list(SHARES)
    assert all(shares.loc[i, factor] > 0.7 for i, factor in enumerate(FIRES_FOR))
    assert shares.loc[5].isna().all()
    assert shares.loc[6].idxmax() == "rest"


@pytest.mark.parametrize("corrected", [True, False])
def test_batches_shape_and_scale_do_not_matter(corrected):
    labels = world(templates=[2, 5, 3, 4])
    y = noise(labels, 6)
    whole = variance_shares(y, labels, corrected)
    np.testing.assert_allclose(whole.sum(axis=1), 1)
    for other in (y.split(37), (batch.view(-1, 2, 3) for batch in y.split(100)), 100 + 5 * y, y.float()):
        np.testing.assert_allclose(variance_shares(other, labels, corrected), whole, atol=1e-5)
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = variance_shares(y[order], labels.iloc[order], corrected)
    np.testing.assert_allclose(shuffled, whole, atol=1e-10)


def test_neuron_shares_are_those_of_the_activations(lab, lab_facts):
    facts = comparable_facts(lab_facts, n_facts=150)
    labels = prompt_labels(facts)
    assert list(labels.iloc[10]) == [facts[1].subject, facts[1].relation, facts[1].answer, 1]
    activations = kn.ffn_activations(lab, [prompt for fact in facts for prompt in fact.prompts])
    shares = neuron_shares(lab, facts)
    for neuron in (Neuron(0, 0), Neuron(1, 511), Neuron(3, 17)):
        expected = variance_shares(activations[:, neuron.layer, neuron.index][:, None], labels).loc[0]
        np.testing.assert_allclose(shares.loc[neuron], expected, atol=1e-4)


LABELS = world(n_subjects=4, n_relations=2, n_answers=2)


@pytest.mark.parametrize(
    "y, labels, names",
    [
        (noise(LABELS)[:-1], LABELS, ["24 rows"]),
        (noise(LABELS).repeat(2, 1), LABELS, ["24 rows"]),
        (noise(LABELS)[:-1], LABELS[:-1], ["templates"]),
        (noise(LABELS).repeat(2, 1), pd.concat([LABELS, LABELS]), ["templates"]),
        (noise(LABELS), LABELS.assign(answer=LABELS.subject), ["comparable_facts"]),
        (noise(LABELS)[::3], LABELS[::3], ["comparable_facts"]),
    ],
    ids=["fewer activations", "more activations", "a template lacks", "rows twice", "own answers", "one template"],
)
def test_errors_are_one_line(y, labels, names):
    with one_line_error(ValueError, *names):
        variance_shares(y, labels)

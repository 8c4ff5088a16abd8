"""Names of planted neurons, and of neurons whose facts changed places: these hardly get a name."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from common import one_line_error
from scipy.stats import mannwhitneyu

import kn_utils as kn
from kn_utils import Fact, Neuron
from kn_utils.beyond.kin import comparable_facts
from kn_utils.beyond.names import NAMES, NO_NAME, activation_steps, mean_activity, name_neurons


def world(n_subjects=100, n_relations=6, n_answers=8, seed=0):
    """Every subject has a fact in every relation, its answer drawn at random."""
    rng = np.random.default_rng(seed)
    return [
        Fact(f"s{s}", f"r{r}", f"a{rng.integers(n_answers)}", (f"s{s} r{r} [MASK]",))
        for s, r in product(range(n_subjects), range(n_relations))
    ]


def noise(n_facts, n_neurons, seed=1):
    return torch.tensor(np.random.default_rng(seed).standard_normal((n_facts, 1, n_neurons)))


SHARED = {
    "relation": lambda fact, own: fact.relation == own.relation,
    "answer": lambda fact, own: (fact.relation, fact.answer) == (own.relation, own.answer),
    "subject": lambda fact, own: fact.subject == own.subject,
    "fact": lambda fact, own: fact == own,
}


@pytest.mark.parametrize("seed", range(3))
def test_names_of_planted_neurons(seed):
    """40 facts have a neuron each that follows their relation, answer, subject or themselves, and one of noise."""
    facts = world(200, seed=seed)
    kinds, owners = [*NAMES, NO_NAME], range(0, 1200, 30)
    activity, sets = noise(len(facts), len(kinds) * len(owners), seed), [[] for _ in facts]
    for i, (owner, kind) in enumerate(product(owners, kinds)):
        sets[owner].append(Neuron(0, i))
        if kind != NO_NAME:
            activity[:, 0, i] += 4 * torch.tensor([SHARED[kind](fact, facts[owner]) for fact in facts])
    names = name_neurons(activation_steps(activity, facts, sets))
    right = names == [kinds[i % len(kinds)] for i in names.index.get_level_values("index")]
    by_kind = right.groupby(names.index.get_level_values("index") % len(kinds)).mean()
    assert by_kind.min() >= 0.9


def test_steps_by_hand():
    about = "x P1 a 9, y P1 a 5, z P1 b 1, w P1 b 2, x P2 c 8, y P2 c 3, z P2 d 0, w P2 d 1"
    rows = [row.split() for row in about.split(", ")]
    facts = [Fact(s, r, a, (f"{s} {r} [MASK]",)) for s, r, a, _ in rows]
    activity = torch.tensor([float(value) for *_, value in rows])[:, None, None]
    steps = activation_steps(activity, facts, [[(0, 0)], *[[]] * 7])
    assert list(steps.index) == [(0, 0, 0)]
    # b: 1.5; P2: 3; a without x: 5; x in P2 less c without x: 8 - 3; x in P1 less a without x, less that: 9 - 5 - 5
    assert steps["step"].iloc[0].to_dict() == {"relation": -1.5, "answer": 3.5, "subject": 5.0, "fact": -1.0}
    assert steps["p"].subject.iloc[0] == 1 / 4  # the highest of the relation's four facts
    # 9 - 5 is 4, 5 - 9 is -4, z: 1 - 2 is -1, w: 1; less 5, -5, -1, 1: -1, 1, 0, 0
    assert steps["p"].fact.iloc[0] == 1


def test_steps_sum_to_the_activation_beyond_other_relations():
    facts = world(20, n_answers=3)
    activity = noise(len(facts), 3)
    steps = activation_steps(activity, facts, [[Neuron(0, i % 3)] for i in range(len(facts))])
    for row, _, index in steps.index:
        elsewhere = [activity[i, 0, index] for i, fact in enumerate(facts) if fact.relation != facts[row].relation]
        above = activity[row, 0, index] - np.mean(elsewhere)
        assert steps["step"].loc[(row, 0, index)].sum() == pytest.approx(above.item())


def test_p_values_are_those_of_mann_whitney():
    facts = world(20, n_answers=3)
    activity = noise(len(facts), 1)
    y = activity[:, 0, 0].numpy()
    p = activation_steps(activity, facts, [[Neuron(0, 0)]] * len(facts))["p"]
    for row in range(0, len(facts), 7):
        own = facts[row]
        alike = {name: np.array([SHARED[name](fact, own) for fact in facts]) for name in NAMES}
        tests = {
            "relation": (alike["relation"] & ~alike["answer"], ~alike["relation"]),
            "answer": (alike["answer"] & ~alike["fact"], alike["relation"] & ~alike["answer"]),
        }
        for name, (group, others) in tests.items():
            test = mannwhitneyu(y[group], y[others], alternative="greater", use_continuity=False, method="asymptotic")
            assert p[name].iloc[row] == pytest.approx(test.pvalue)


def test_p_values_of_noise_are_even():
    """Of random numbers, a share of 5 % has a p-value of at most 5 %, for every name."""
    facts = world(60)
    p = activation_steps(noise(len(facts), 300), facts, [[(0, i) for i in range(300)]] * len(facts))["p"]
    assert (p <= 0.05).mean().to_dict() == pytest.approx(dict.fromkeys(NAMES, 0.05), abs=0.01)


@pytest.fixture(scope="module")
def active(lab, lab_facts):
    """The lab's activity on 900 facts, and each fact's five most active neurons on the finding prompts."""
    facts = comparable_facts(lab_facts, 900)
    top = mean_activity(lab, facts, "find").flatten(1).topk(5).indices.tolist()
    sets = [[Neuron(*divmod(i, lab.n_neurons)) for i in own] for own in top]
    return facts, mean_activity(lab, facts), sets


def named(activity, facts, sets, **options):
    names = name_neurons(activation_steps(activity, facts, sets), **options)
    return names.value_counts(normalize=True).reindex([*NAMES, NO_NAME], fill_value=0)


def test_the_lab_has_neurons_of_each_name(active):
    facts, activity, sets = active
    names = named(activity, facts, sets)
    assert names[["answer", "subject", "fact"]].min() > 0.05
    assert names[NO_NAME] < 0.5
    strict = named(activity, facts, sets, level=1e-3)
    assert strict[NO_NAME] > names[NO_NAME]


@pytest.mark.parametrize("seed", range(3))
def test_neurons_of_shuffled_facts_have_no_name(active, seed):
    """Facts change places, all of them or within their relation, so that the labels mean nothing (but the relation)."""
    facts, activity, sets = active
    rng = np.random.default_rng(seed)
    assert named(activity[rng.permutation(len(facts))], facts, sets)[NO_NAME] > 0.95
    relation = pd.Series([fact.relation for fact in facts])
    within = relation.groupby(relation).transform(lambda rows: rng.permutation(rows.index)).to_numpy(int, copy=True)
    assert named(activity[within], facts, sets)[["answer", "subject", "fact"]].sum() < 0.05


def test_mean_activity(lab, lab_facts):
    facts = lab_facts[::20]
    for role, prompts in {"heldout": "heldout_prompts", "find": "prompts"}.items():
        activity = mean_activity(lab, facts, role)
        assert activity.shape == (len(facts), 4, 512)
        expected = kn.ffn_activations(lab, getattr(facts[130], prompts)).mean(0)
        torch.testing.assert_close(activity[130], expected, atol=1e-5, rtol=1e-4)
    assert mean_activity(lab, []).shape == (0, 4, 512)


def test_no_neurons_no_names():
    facts = world(4)
    steps = activation_steps(noise(len(facts), 2), facts, [[]] * len(facts))
    assert len(steps) == len(name_neurons(steps)) == 0


def test_facts_without_kin_have_no_name():
    """A relation with one answer, subjects with one relation: the steps that are not defined are never names."""
    facts = [Fact(f"s{i}", f"r{i % 2}", "a", (f"s{i} [MASK]",)) for i in range(20)]
    steps = activation_steps(noise(20, 1), facts, [[Neuron(0, 0)]] * 20)
    assert steps["step"].isna().all().all()
    assert set(name_neurons(steps)) == {NO_NAME}


def test_errors_are_one_line(lab, lab_facts):
    facts = world(2)
    with one_line_error(ValueError, "'s0' has no heldout_prompts"):
        mean_activity(lab, facts)
    with one_line_error(ValueError, "prompts", "find"):
        mean_activity(lab, lab_facts[:2], "all")
    with one_line_error(ValueError, "sets", "activity"):
        activation_steps(noise(len(facts), 2), facts, [[]])
    with one_line_error(ValueError, "outside the model"):
        activation_steps(noise(len(facts), 2), facts, [[Neuron(0, 2)]] * len(facts))
    with one_line_error(ValueError, "activation_steps()"):
        name_neurons(pd.DataFrame({"fact": [1.0]}))
    with one_line_error(ValueError, "level"):
        name_neurons(activation_steps(noise(len(facts), 2), facts, [[]] * len(facts)), level=0)

"""Facts that share something with a fact, and what suppression does to them."""

import numpy as np
import pandas as pd
import pytest

import kn_utils as kn
from kn_utils import Fact, Neuron
from kn_utils.beyond.kin import ask_relatives, comparable_facts, relatives


def fact_of(subject, relation, answer):
    return Fact(subject, relation, answer, (f"{subject} {relation} [MASK].",))


def test_comparable_facts_by_hand():
    facts = [
        fact_of(*about.split()) for about in ["x P1 a", "y P1 a", "z P1 b", "x P2 c", "y P2 c", "z P2 c", "w P2 c"]
    ]
    x1, y1, z1, x2, y2, z2, w2 = facts
    assert comparable_facts(facts) == [x1, y1, x2, y2]  # z1 has an answer of its own, then z2 a subject, as w2
    assert comparable_facts([*facts, x1]) == [x1, y1, x2, y2]
    assert comparable_facts(facts[:6:2]) == []
    assert comparable_facts([]) == []


def test_comparable_facts_of_the_lab(lab_facts):
    whole = comparable_facts(lab_facts)
    assert "P36(capital)" not in {fact.relation for fact in whole}
    for sample in (whole, comparable_facts(lab_facts, 500), comparable_facts(lab_facts, 500, seed=1)):
        about = pd.DataFrame([(f.subject, f.relation, f.answer) for f in sample], columns=["s", "r", "a"])
        assert about.groupby(["r", "a"]).size().min() > 1
        assert about.groupby("s").r.nunique().min() > 1
    assert len(comparable_facts(lab_facts, 500)) in range(400, 520)
    assert comparable_facts(lab_facts, 500) == comparable_facts(lab_facts, 500)
    assert comparable_facts(lab_facts, 500) != comparable_facts(lab_facts, 500, seed=1)


def test_relatives(lab_facts):
    fact = next(f for f in lab_facts if f.relation == "P19(place of birth)")
    groups = relatives(fact, lab_facts, n=4)
    shared = {
        name: {(f.subject == fact.subject, f.relation == fact.relation, f.answer == fact.answer) for f in own}
        for name, own in groups.items()
    }
    assert shared["same answer"] == {(False, True, True)}
    assert shared["same relation"] == {(False, True, False)}
    assert shared["unrelated"] == {(False, False, False)}
    assert {about[:2] for about in shared["same subject"]} == {(True, False)}
    assert [len(own) for own in groups.values()] == [4] * 4
    assert relatives(fact, lab_facts, n=4) == groups
    assert relatives(fact, [fact]) == {name: [] for name in groups}


def test_ask_relatives(lab, lab_facts):
    fact = lab_facts[200]
    groups = relatives(fact, lab_facts, n=2)
    sets = {"two": {Neuron(3, 1), Neuron(2, 5)}, "no": set(), "many": {Neuron(3, i) for i in range(512)}}
    table = ask_relatives(lab, fact, {**groups, "empty": []}, sets).set_index(["name", "group"])
    assert list(table.index.unique("name")) == ["two", "many"]
    assert list(table.loc["two"].index) == ["own fact", *groups]
    assert set(table.loc["many"].n) == {512}
    for name in ("two", "many"):
        with kn.suppress(lab, sets[name]):
            alone = [kn.ask(lab, [other]).probability[0] for other in groups["same answer"]]
        assert table.loc[(name, "same answer"), "after"] == pytest.approx(np.mean(alone), abs=1e-5)
    before = kn.ask(lab, [fact]).probability[0]
    assert table.loc[("two", "own fact"), "before"] == pytest.approx(before, abs=1e-5)
    assert table.loc[("many", "own fact"), "after"] < before
    assert ask_relatives(lab, fact, groups, {"no": set()}).empty

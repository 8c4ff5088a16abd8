"""Who holds a fact's neurons: hand-made facts, and random ones against plain loops over all pairs."""

import math

import numpy as np
import pandas as pd
import pytest

from kn_utils.models import Neuron
from kn_utils.paper import sharing
from kn_utils.paper.akin import akin_relations
from kn_utils.paper.sharing import CELLS, commonest, describe, held, identical, parts, shared


def table(*facts):
    rows = [(relation, answer, {Neuron(i // 10, i % 10) for i in own}) for relation, answer, *own in facts]
    return pd.DataFrame(rows, columns=["relation", "answer", "neurons"])


@pytest.fixture(scope="module")
def facts():
    """90 facts of four relations; the first two draw from the same answers, neurons follow relation and answer."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(90):
        relation = i % 4
        answer = rng.integers(4) + (0 if relation < 2 else 10 * relation)
        own = {relation, 4 + answer % 9} & set(rng.integers(0, 14, 12)) | set(rng.integers(0, 40, 3))
        rows.append((f"P{relation}", f"answer {answer}", *(own if i else ())))
    return table(*rows)


AKIN = {("P0", "P1"), ("P1", "P0")}


def in_cell(cell, a, b):
    same_relation, same_answer = a.relation == b.relation, a.answer == b.answer
    if cell == "same relation":
        return same_relation
    if cell.startswith(("akin", "unlike")):
        akin = (a.relation, b.relation) in AKIN
        return not same_relation and not same_answer and akin == cell.startswith("akin")
    return same_relation == cell.startswith("same relation") and same_answer == cell.endswith("same answer")


@pytest.mark.parametrize("cell", [*CELLS, "same relation"])
def test_holders_against_a_plain_loop(facts, cell):
    shares, sizes = sharing.holder_shares(facts)
    for i, fact in enumerate(facts.itertuples()):
        others = [other for j, other in enumerate(facts.itertuples()) if i != j and in_cell(cell, fact, other)]
        assert sizes[cell][i] == len(others)
        expected = [np.mean([n in o.neurons for o in others]) if others else np.nan for n in fact.neurons]
        ours = shares[cell][shares.index == i]
        assert sorted(ours.fillna(-1)) == pytest.approx(sorted(np.nan_to_num(expected, nan=-1)))


@pytest.mark.parametrize("cell", CELLS)
def test_shared_is_the_mean_intersection_with_the_cell(facts, cell):
    entry = shared(facts, *sharing.holder_shares(facts))[cell]
    numbers, fractions, relations = [], [], []
    for i, fact in enumerate(facts.itertuples()):
        others = [other for j, other in enumerate(facts.itertuples()) if i != j and in_cell(cell, fact, other)]
        common = [len(fact.neurons & other.neurons) for other in others]
        if common:
            numbers.append(np.mean(common))
            relations.append(fact.relation)
            fractions += [np.mean(common) / len(fact.neurons)] if fact.neurons else []
    assert entry["facts"] == len(numbers)
    assert entry["number"].value == pytest.approx(np.mean(numbers))
    assert entry["share"].value == pytest.approx(np.mean(fractions))
    assert entry["over_relations"].value == pytest.approx(pd.Series(numbers).groupby(relations).mean().mean())
    assert entry["number"].low < entry["number"].value < entry["number"].high


def test_the_four_cells_of_four_facts():
    """Seen from the first: the second has the same answer, the third another, the fourth the answer elsewhere."""
    facts = table(("P1", "a", 1, 2, 3), ("P1", "a", 1, 2), ("P1", "b", 1), ("P2", "a", 3), ("P3", "c", 2))
    shares, sizes = sharing.holder_shares(facts)
    assert sizes.loc[0, list(CELLS[:4])].tolist() == [1, 1, 1, 1]
    first = shares.loc[0]
    assert first[CELLS[0]].tolist() == [1, 1, 0]
    assert first[CELLS[1]].tolist() == [1, 0, 0]
    assert first[CELLS[2]].tolist() == [0, 0, 1]
    assert first[CELLS[3]].tolist() == [0, 1, 0]
    assert first["same relation"].tolist() == [1, 0.5, 0]
    assert shares.loc[3][[CELLS[0], CELLS[1]]].isna().all(axis=None)  # it is alone in its relation


def test_relations_are_akin_from_a_quarter_of_their_answers_on():
    facts = table(*(("P1", a) for a in "abc"), *(("P2", a) for a in "cde"), *(("P3", a) for a in "cd"))
    akin = akin_relations(facts.relation, facts.answer)  # in common: 1 of 5, 1 of 4, 2 of 3
    assert akin == {"P1": ["P3"], "P2": ["P3"], "P3": ["P1", "P2"]}


def test_parts_of_a_fact():
    """Ten facts of one relation, three answers: neuron 0 is held by all, neuron 1 by one answer, the rest by few."""
    facts = [("P1", "a", 0, 1, 10 + i) for i in range(4)] + [("P1", "b", 0, 20 + i % 2) for i in range(4)]
    facts = table(*facts, *(("P1", "c", 0) for _ in range(4)))
    shares, sizes = sharing.holder_shares(facts)
    found = parts(facts, shares, sizes)
    assert found["facts"] == 12
    numbers = {part: found[part]["number"].value for part in sharing.PARTS}
    # "b": the neuron 20 + i % 2 is held by 1 of 3 with the same answer and by 1 of 11 of the relation
    assert numbers == pytest.approx({"relation": 1, "answer": 4 / 12, "some": 0, "few": 8 / 12})
    assert sum(found[part]["share"].value for part in sharing.PARTS) == pytest.approx(1)


def test_parts_need_others_of_both_kinds():
    facts = table(("P1", "a", 0), ("P1", "a", 0), ("P1", "b", 0), ("P1", "b", 0), ("P2", "c", 1))
    found = parts(facts, *sharing.holder_shares(facts))
    assert found["facts"] == 0
    assert math.isnan(found["relation"]["share"].value)


def test_held_by_most_few_and_none():
    facts = table(*(("P1", f"{i}", 0, 1 if i < 2 else 5, 100 + i) for i in range(21)))
    found = held(facts, sharing.holder_shares(facts)[0])
    assert found["most"]["number"].value == pytest.approx((21 + 19) / 21)
    assert found["few"]["number"].value == pytest.approx((21 + 2) / 21)  # neuron 1 is held by 1 of 20 others
    assert found["none"]["share"].value == pytest.approx(1 / 3)


def test_identical_sets():
    first = [("P1", "a", 1, 2), ("P1", "a", 2, 1), ("P1", "b", 1, 2), ("P1", "c", 3)]
    facts = table(*first, ("P2", "d", 3), ("P2", "e"), ("P2", "f"))
    found = {name: share.value for name, share in identical(facts).items()}
    assert found == pytest.approx({"any": 3 / 5, "same answer": 2 / 5, "other answer": 3 / 5})


def test_commonest_neurons():
    facts = table(("P1", "a", 11, 12), ("P1", "b", 11), ("P1", "b", 13), ("P2", "c"))
    found = commonest(facts)
    assert found["P1"]["commonest"] == [[1, 1, 2 / 3], [1, 2, 1 / 3], [1, 3, 1 / 3]]
    assert (found["P1"]["facts"], found["P1"]["answers"]) == (3, 2)
    assert found["P1"]["share"].value == pytest.approx(2 / 3)
    assert found["P2"]["commonest"] == []
    assert math.isnan(found["P2"]["share"].value)


def test_describe(facts):
    found = describe(facts, n_layers=5)
    sizes = [len(own) for own in facts.neurons]
    assert (found["facts"], found["relations"], found["answers"]) == (90, 4, facts.answer.nunique())
    assert found["distinct_neurons"] == len(set().union(*facts.neurons))
    assert found["number"]["mean"].value == pytest.approx(np.mean(sizes))
    assert sum(k * n for k, n in enumerate(found["number"]["histogram"])) == sum(sizes)
    per_layer = [sum(n.layer == layer for own in facts.neurons for n in own) for layer in range(5)]
    assert [share.value for share in found["layers"]] == pytest.approx(np.array(per_layer) / sum(sizes))
    heads = [tuple(entry["commonest"][0][:2]) for entry in found["by_relation"].values()]
    assert found["commonest"]["distinct"] == len(set(heads))
    assert found["commonest"]["head_several"] == sum(heads.count(head) > 1 for head in heads)


def test_one_fact_per_relation():
    """Nobody to compare with: not a number, instead of an error or of a zero."""
    found = describe(table(("P1", "a", 1), ("P2", "b", 1), ("P3", "c")), n_layers=1)
    assert math.isnan(found["sharing"][CELLS[0]]["number"].value)
    assert found["sharing"][CELLS[3]]["number"].value == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert math.isnan(found["held"]["most"]["share"].value)
    assert found["parts"]["facts"] == 0


def test_facts_without_any_neuron():
    found = describe(table(("P1", "a"), ("P1", "b")), n_layers=2)
    assert found["number"]["mean"].value == 0
    assert found["commonest"]["distinct"] == 0
    assert math.isnan(found["identical"]["any"].value)


def test_intersections_are_means_over_all_pairs():
    rng = np.random.default_rng(0)
    facts = pd.DataFrame({
        "relation": [f"P{i % 3}" for i in range(24)],
        "answer": [f"answer {i % 5}" for i in range(24)],
        "neurons": [{Neuron(*map(int, n)) for n in rng.integers(0, 4, (rng.integers(0, 7), 2))} for _ in range(24)],
    })  # fmt: skip
    table = sharing.intersections(facts).set_index("cell")
    rows = list(facts.itertuples())
    for relation, same_relation in {"same relation": True, "other relation": False}.items():
        for answer, same_answer in {"": None, ", same answer": True, ", other answer": False}.items():
            means = []
            for one in rows:
                cell = [
                    len(one.neurons & other.neurons) for other in rows
                    if other is not one and (one.relation == other.relation) == same_relation
                    and (same_answer is None or (one.answer == other.answer) == same_answer)
                ]  # fmt: skip
                means += [np.mean(cell)] if cell else []
            assert table.number[relation + answer].value == pytest.approx(np.mean(means))

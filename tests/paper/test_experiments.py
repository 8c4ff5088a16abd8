"""The experiments over many facts against one fact, one prompt and one edit at a time."""

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from common import PROMPTS, assert_unchanged, snapshot, tiny_model

import kn_utils as kn
from kn_utils import Neuron
from kn_utils.paper import experiments

ANSWERS = ["Dublin", "Paris", "Lima", "Rome"]
FACTS = [
    kn.Fact(f"{relation} {answer}", f"{relation}(label)", answer, tuple(PROMPTS[:3]), tuple(PROMPTS[i % 2 + 3 :]))
    for relation in ("P36", "P19", "P999")
    for i, answer in enumerate(ANSWERS)
]


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


@pytest.fixture(scope="module")
def coarse(lm):
    return experiments.find_coarse(lm, FACTS)


@pytest.fixture(scope="module")
def neurons(lm, coarse):
    return experiments.refine(FACTS, coarse, lm.n_neurons)


def counted(scores, threshold):
    """In how many prompts each neuron's score is above `threshold` times the prompt's highest."""
    return Counter(
        Neuron(layer, index)
        for prompt in scores.tolist()
        for layer, row in enumerate(prompt)
        for index, score in enumerate(row)
        if score > threshold * max(map(max, prompt))
    )


def test_coarse_counts_and_high_scores(lm, coarse):
    for fact, row, most_active in zip(FACTS, coarse.itertuples(), coarse["most active"], strict=True):
        scores = kn.knowledge_attribution(lm, fact.prompts, fact.answer)
        activations = kn.ffn_activations(lm, fact.prompts)
        assert row.knowledge == counted(scores, 0.2)
        assert row.activation == counted(activations, 0.5)
        active = [activations[:, layer, index].mean().item() for layer, index in most_active]
        assert active == pytest.approx(sorted(active, reverse=True))
        assert active[0] == pytest.approx(activations.mean(0).max().item())
        mean = scores.mean(0)
        assert set(row.scores) == {Neuron(*i) for i in (mean > 0.1 * mean.max()).nonzero().tolist()}
        assert all(abs(score - mean[neuron].item()) < 1e-5 * mean.max() for neuron, score in row.scores.items())


def test_refined_as_one_relation_at_a_time(lm, neurons):
    for start in (0, 4, 8):
        facts = FACTS[start : start + 4]
        scores = [kn.knowledge_attribution(lm, fact.prompts, fact.answer) for fact in facts]
        share = kn.choose_share(scores)
        rows = neurons[start : start + 4]
        for fact, own, row, most_active in zip(facts, scores, rows.itertuples(), rows["most active"], strict=True):
            assert row.share == share
            assert row.knowledge == kn.refine_neurons(own, share=share), fact
            assert len(most_active) == len(row.random) == len(row.knowledge)
            assert not row.random & row.knowledge
            assert sorted(n.layer for n in row.random) == sorted(n.layer for n in row.knowledge)


def test_suppressed_together_as_one_at_a_time(lm, neurons):
    effects = experiments.suppress_amplify(lm, FACTS, neurons).set_index(["prompts", "operation", "kind", "fact"])
    assert len(effects) == 2 * (1 + 2 * len(experiments.KINDS)) * len(FACTS)
    for i, fact in enumerate(FACTS):
        for which, prompts in {"find": fact.prompts, "heldout": fact.heldout_prompts}.items():
            for operation, factor in {"suppress": 0, "amplify": 2}.items():
                for kind in experiments.KINDS:
                    with kn.amplify(lm, neurons[kind][i], factor):
                        expected = kn.answer_probability(lm, prompts, fact.answer).mean().item()
                    assert effects.probability[which, operation, kind, i] == pytest.approx(expected, abs=1e-6)
            untouched = kn.answer_probability(lm, prompts, fact.answer).mean().item()
            assert effects.probability[which, "none", "none", i] == pytest.approx(untouched, abs=1e-6)


def test_own_neurons_are_held_by_few_others():
    sets = [{Neuron(0, 0), Neuron(0, 1)}, {Neuron(0, 0)}, set(), {Neuron(0, 1)}]  # of one relation, the last of another
    facts = [FACTS[0], FACTS[1], FACTS[2], FACTS[4]]
    assert experiments.own_neurons(facts, sets)[0] == {Neuron(0, 1)}  # one of two others holds (0, 0)
    assert experiments.own_neurons(facts, sets)[1] == set()


def test_edits_prefer_known_facts_and_take_another_answer(lab):
    own = [{Neuron(0, 0)}] * len(FACTS)
    own[0] = set()
    known = [i % 4 == 3 for i in range(len(FACTS))]
    edits = experiments.choose_edits(lab, FACTS, own, known)
    assert 0 not in set(edits.fact)
    assert len(edits) == len(FACTS) - 1
    for fact, new in edits.itertuples(index=False):
        assert new != FACTS[fact].answer and new in ANSWERS
    first = edits.groupby(edits.fact // 4).fact.first()
    assert first.tolist() == [3, 7, 11]
    assert edits.equals(experiments.choose_edits(lab, FACTS, own, known))


def test_edits_are_ten_per_relation(lab):
    facts = [kn.Fact(str(i), "P36(capital)", ANSWERS[i % 4], tuple(PROMPTS)) for i in range(30)]
    assert len(experiments.choose_edits(lab, facts, [{Neuron(0, 0)}] * 30, [True] * 30)) == 10


def test_updates_as_the_library_makes_them(lm):
    own = [{Neuron(1, i), Neuron(2, i)} for i in range(len(FACTS))]
    sets = pd.DataFrame({"knowledge": own, "another fact": own[1:] + own[:1]})
    edits = pd.DataFrame({"fact": [1, 6], "new": ["Rome", "Dublin"]})
    before = snapshot(lm)
    table = experiments.update_facts(lm, FACTS, sets, edits)
    assert_unchanged(lm, before)
    assert table.kind.tolist() == ["none", "knowledge", "another fact"] * 2
    row, fact = table[(table.fact == 6) & (table.kind == "knowledge")].iloc[0], FACTS[6]
    with kn.update_fact(lm, own[6], fact.answer, "Dublin"):
        distributions = kn.answer_distribution(lm, fact.heldout_prompts)
        top = [lm.tokenizer.convert_ids_to_tokens(i) for i in distributions.argmax(1).tolist()]
        intra = [kn.ask(lm, [f]).log_probability[0] for f in FACTS[4:8] if f is not fact]
        inter = [kn.ask(lm, [f]).log_probability[0] for f in FACTS if f.relation != fact.relation]
        p_new = kn.answer_probability(lm, fact.heldout_prompts, "Dublin").mean().item()
    assert row.success == pytest.approx(np.mean([answer == "Dublin" for answer in top]))
    assert row.change == pytest.approx(np.mean([answer != fact.answer for answer in top]))
    assert row.p_new == pytest.approx(p_new, abs=1e-6)
    assert row.intra == pytest.approx(np.mean(intra), abs=1e-5)
    assert row.inter == pytest.approx(np.mean(inter), abs=1e-5)


def test_frequent_neurons_come_in_order():
    sets = [{Neuron(0, 1), Neuron(1, 0)}, {Neuron(0, 1)}, {Neuron(0, 1), Neuron(1, 0), Neuron(2, 2)}]
    assert experiments.frequent_neurons(sets, 2) == [Neuron(0, 1), Neuron(1, 0)]


def test_erased_as_the_library_erases(lm, neurons):
    before, measured = snapshot(lm), [0, 5, 9]
    table = experiments.erase_relations(lm, FACTS, neurons, measured)
    assert_unchanged(lm, before)
    assert set(table.erased) == {"none", "P19"}  # the only one of the four relations here
    slots = experiments.frequent_neurons(neurons.knowledge[4:8])
    with kn.erase_relation(lm, slots):
        expected = kn.ask(lm, [FACTS[i] for i in measured]).log_probability
    found = table[(table.erased == "P19") & (table.kind == "knowledge")]
    assert found.fact.tolist() == measured
    assert found.log_probability.tolist() == pytest.approx(expected.tolist())
    assert not math.isclose(found.log_probability.iloc[0], table.log_probability[0])


def test_facts_are_rewritten_in_their_own_neurons_and_as_many_of_the_controls(lm, coarse, neurons):
    sets = experiments.edit_sets(FACTS, coarse, neurons, lm.n_neurons)
    own = experiments.own_neurons(FACTS, neurons.knowledge)
    assert sets.knowledge.tolist() == own
    for i, row in sets.iterrows():
        assert len(row["most active"]) == len(row.random) == len(own[i])
        assert row["most active"] == set(coarse["most active"][i][: len(own[i])])
        assert row["another fact"] in [own[j] for j in range(i - i % 4, i - i % 4 + 4) if j != i]

"""From scores to knowledge neurons: hand-made sets, properties, and the adaptive share."""

import pytest
import torch
from common import one_line_error
from hypothesis import given
from hypothesis import strategies as st

import kn_utils as kn
from kn_utils import Neuron


def scores_of(*counts, n_prompts=20):
    """Scores of one fact in a single layer: neuron j scores 1 in the first counts[j] prompts, else 0."""
    scores = torch.tensor([[[float(prompt < count) for count in counts]] for prompt in range(n_prompts)])
    scores[:, 0, 0] = 1.0  # every prompt has a highest score
    return scores  # (prompts, 1, neurons)


def neurons_of(*indices, layer=0):
    return {Neuron(layer, index) for index in indices}


@pytest.mark.parametrize(
    "threshold, expected",
    [
        (0.2, [[[1, 1], [0, 1]], [[1, 0], [1, 0]]]),
        (0.5, [[[1, 0], [0, 1]], [[1, 0], [0, 0]]]),
        (1.0, [[[1, 0], [0, 0]], [[1, 0], [0, 0]]]),
    ],
)
def test_coarse_by_hand(threshold, expected):
    scores = torch.tensor([[[1.0, 0.25], [0.1, 0.5]], [[8.0, -9.0], [2.0, 1.0]]])  # each prompt has its own highest
    assert torch.equal(kn.coarse_neurons(scores, threshold), torch.tensor(expected, dtype=torch.bool))


def test_nothing_is_coarse_where_no_score_is_positive():
    assert not kn.coarse_neurons(torch.tensor([[[0.0, 0.0]], [[-1.0, -2.0]]])).any()


@pytest.mark.parametrize(
    "share, min_prompts, expected",
    [
        (0.7, 3, {0, 1, 2}),  # 14 of 20 prompts
        (0.71, 3, {0, 1}),
        (0.75, 3, {0, 1}),
        (1.0, 3, {0}),
        (0.05, 3, {0, 1, 2, 3}),
        (0.05, 2, {0, 1, 2, 3, 4}),
        (0.05, 19, {0}),
    ],
)
def test_refined_by_hand(share, min_prompts, expected):
    scores = scores_of(20, 18, 14, 3, 2, 0)
    assert kn.refine_neurons(scores, share=share, min_prompts=min_prompts) == neurons_of(*expected)


def test_refined_neurons_carry_their_layer():
    scores = torch.zeros(3, 2, 4)
    scores[:, 1, 2] = 1
    refined = kn.refine_neurons(scores)
    assert refined == {Neuron(1, 2)}
    assert all(type(neuron) is Neuron for neuron in refined)


# Whole scores and thresholds in eighths, so that the oracle's arithmetic is exact.
score_lists = st.integers(1, 5).flatmap(
    lambda n_neurons: st.lists(
        st.lists(st.integers(-8, 16), min_size=2 * n_neurons, max_size=2 * n_neurons), min_size=1, max_size=8
    )
)
thresholds = st.integers(1, 8).map(lambda eighths: eighths / 8)
twentieths = st.integers(1, 20)


def tensor_of(rows):
    return torch.tensor(rows, dtype=torch.float32).view(len(rows), 2, -1)  # (prompts, 2 layers, neurons)


def refine_plainly(rows, threshold, share_in_twentieths, min_prompts):
    """The definition, in plain Python."""
    width, kept = len(rows[0]) // 2, set()
    for i in range(len(rows[0])):
        count = sum(row[i] > 0 and row[i] >= threshold * max(row) for row in rows)
        if 20 * count >= share_in_twentieths * len(rows) and count >= min_prompts:
            kept.add((i // width, i % width))
    return kept


@given(score_lists, thresholds, twentieths, st.data())
def test_refined_equals_the_definition(rows, threshold, twentieth, data):
    min_prompts = data.draw(st.integers(1, len(rows)))
    refined = kn.refine_neurons(tensor_of(rows), threshold, twentieth / 20, min_prompts)
    assert refined == refine_plainly(rows, threshold, twentieth, min_prompts)


@given(score_lists, thresholds, twentieths)
def test_refined_lies_between_intersection_and_union(rows, threshold, twentieth):
    coarse = kn.coarse_neurons(tensor_of(rows), threshold)
    union, intersection = ({Neuron(*i) for i in c.nonzero().tolist()} for c in (coarse.any(0), coarse.all(0)))
    refined = kn.refine_neurons(tensor_of(rows), threshold, twentieth / 20, 1)
    assert intersection <= refined <= union
    assert kn.refine_neurons(tensor_of(rows), threshold, 1.0, 1) == intersection


@given(score_lists, st.tuples(thresholds, thresholds), st.tuples(twentieths, twentieths), st.data())
def test_stricter_keeps_no_more(rows, two_thresholds, two_shares, data):
    scores, (low, high), (few, many) = tensor_of(rows), sorted(two_thresholds), sorted(two_shares)
    one, more = sorted(data.draw(st.lists(st.integers(1, len(rows)), min_size=2, max_size=2)))
    loosest = kn.refine_neurons(scores, low, few / 20, one)
    assert kn.refine_neurons(scores, high, few / 20, one) <= loosest
    assert kn.refine_neurons(scores, low, many / 20, one) <= loosest
    assert kn.refine_neurons(scores, low, few / 20, more) <= loosest


@given(score_lists, thresholds, twentieths, st.randoms(use_true_random=False), st.integers(-6, 6))
def test_order_of_prompts_and_scale_do_not_matter(rows, threshold, twentieth, random, exponent):
    refined = kn.refine_neurons(tensor_of(rows), threshold, twentieth / 20, 1)
    shuffled = random.sample(rows, len(rows))
    assert kn.refine_neurons(tensor_of(shuffled), threshold, twentieth / 20, 1) == refined
    assert kn.refine_neurons(tensor_of(rows) * 2.0**exponent, threshold, twentieth / 20, 1) == refined


@pytest.mark.parametrize(
    "facts, expected",
    [
        pytest.param([scores_of(20, 20, 20)], 0.7, id="within: stays"),
        pytest.param([scores_of(*[20] * 8), scores_of(20, 20)], 0.7, id="the mean counts: 8 and 2 make 5"),
        pytest.param([scores_of(20, 20, 20, 15, 15, 15)], 0.8, id="too many: up until 3 are left"),
        pytest.param([scores_of(20, 12, 12)], 0.6, id="too few: down until there are 3"),
        pytest.param([scores_of(*[20] * 6)], 1.0, id="always too many: six moves up"),
        pytest.param([scores_of(20, 1)], 0.4, id="always too few: six moves down"),
        pytest.param([scores_of(20, *[13] * 9)], 0.7, id="one too few, but a step down brings ten: stays"),
    ],
)
def test_share_moves_into_the_range(facts, expected):
    assert kn.choose_share(facts) == pytest.approx(expected)


@pytest.mark.parametrize("start, scores, expected", [(0.9, scores_of(*[20] * 6), 1.0), (0.1, scores_of(20, 0), 0.05)])
def test_share_stays_in_its_interval(start, scores, expected):
    assert kn.choose_share([scores], start=start) == pytest.approx(expected)


@pytest.mark.parametrize(
    "options, expected",
    [({"step": 0.15}, 0.85), ({"low": 6, "high": 9}, 0.7), ({"low": 7, "high": 9}, 0.4), ({"high": 2}, 1.0)],
)
def test_share_heeds_its_options(options, expected):
    assert kn.choose_share([scores_of(20, 20, 20, 15, 15, 15)], **options) == pytest.approx(expected)


@given(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=10), min_size=1, max_size=3), st.integers(1, 20))
def test_share_never_ends_further_from_the_range(counts, twentieth):
    facts, start = [scores_of(*own) for own in counts], twentieth / 20

    def distance(share):
        mean = sum(len(kn.refine_neurons(scores, share=share)) for scores in facts) / len(facts)
        return max(2 - mean, mean - 5, 0)

    share = kn.choose_share(facts, start=start)
    assert 0 < share <= 1
    assert abs(share - start) <= 6 * 0.05 + 1e-6
    assert distance(share) <= distance(start)


def test_top_neurons_by_mean_score():
    scores = torch.tensor([[[1.0, 5.0], [0.0, 3.0]], [[3.0, -5.0], [1.0, 3.0]]])  # means 2, 0; 0.5, 3
    assert kn.top_neurons(scores, 1) == {Neuron(1, 1)}
    assert kn.top_neurons(scores, 3) == {Neuron(1, 1), Neuron(0, 0), Neuron(1, 0)}
    assert kn.top_neurons(scores, 0) == set()


def test_random_neurons_match_the_layers():
    neurons = {Neuron(0, 1), Neuron(2, 0), Neuron(2, 7), Neuron(2, 9)}
    drawn = kn.random_neurons(neurons, n_neurons=12)
    assert sorted(neuron.layer for neuron in drawn) == [0, 2, 2, 2]
    assert not drawn & neurons
    assert all(0 <= neuron.index < 12 for neuron in drawn)


def test_random_neurons_are_reproducible():
    neurons = neurons_of(*range(5))
    assert kn.random_neurons(neurons, 50, seed=3) == kn.random_neurons(neurons, 50, seed=3)
    assert kn.random_neurons(neurons, 50, seed=3) != kn.random_neurons(neurons, 50, seed=4)
    assert kn.random_neurons(set(), 50) == set()


SCORES = scores_of(20, 10)


@pytest.mark.parametrize("value", [0, -0.1, 1.01, float("nan")])
@pytest.mark.parametrize(
    "name, call",
    [
        ("threshold", lambda value: kn.coarse_neurons(SCORES, value)),
        ("threshold", lambda value: kn.refine_neurons(SCORES, threshold=value)),
        ("share", lambda value: kn.refine_neurons(SCORES, share=value)),
        ("threshold", lambda value: kn.choose_share([SCORES], threshold=value)),
        ("share", lambda value: kn.choose_share([SCORES], start=value)),
    ],
    ids=["coarse", "refine, threshold", "refine, share", "choose, threshold", "choose, start"],
)
def test_outside_the_unit_interval(name, call, value):
    with one_line_error(ValueError, name, value, "(0, 1]"):
        call(value)


def test_too_few_prompts():
    with one_line_error(ValueError, "2 prompts", "min_prompts is 3"):
        kn.refine_neurons(SCORES[:2])


def test_no_facts():
    with one_line_error(ValueError, "scores_per_fact is empty"):
        kn.choose_share([])


def test_another_facts_neurons_are_of_the_same_relation_and_another_answer():
    triples = [("Ireland", "P36", "Dublin"), ("Eire", "P36", "Dublin"), ("France", "P36", "Paris")]
    triples += [("Ireland", "P36", "Paris"), ("Peru", "P36", "Lima"), ("Peru", "P30", "America")]
    facts = [kn.Fact(*triple, ("[MASK]",)) for triple in triples]
    sets = [{kn.Neuron(0, i)} for i in range(len(facts))]
    allowed = [{2, 4}, {2, 3, 4}, {0, 1, 4}, {1, 4}, {0, 1, 2, 3}, set()]
    drawn = [set() for _ in facts]
    for seed in range(60):
        for mine, others in zip(drawn, kn.another_facts_neurons(facts, sets, seed), strict=True):
            mine |= {neuron.index for neuron in others}
    assert drawn == allowed
    assert kn.another_facts_neurons(facts, sets, 3) == kn.another_facts_neurons(facts, iter(sets), 3)
    with one_line_error(ValueError, "facts", "neurons"):
        kn.another_facts_neurons(facts, sets[1:])

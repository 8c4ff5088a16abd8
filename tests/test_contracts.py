"""What public functions may be given: every form of a right value gives one result, every wrong one gets one line."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from common import PROMPTS, assert_unchanged, one_line_error, snapshot, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

import kn_utils as kn
from kn_utils import Fact, Neuron, checks
from kn_utils.beyond import leaderboard
from kn_utils.beyond.answer_key import answer_key
from kn_utils.beyond.kin import ask_relatives, comparable_facts, relatives
from kn_utils.beyond.names import activation_steps, mean_activity, name_neurons
from kn_utils.beyond.planting import plant_fact
from kn_utils.beyond.variance import prompt_labels, variance_shares
from kn_utils.editing import factors_of
from kn_utils.paper import experiments, prompt_types, sharing
from kn_utils.refinement import coarse_counts, share_from_counts, shared_neurons
from kn_utils.stats import bootstrap

NAN, INF = math.nan, math.inf
N_LAYERS, N_NEURONS = 3, 40  # of the tiny model
FACTS = [
    Fact(answer, "P36(capital)", answer, tuple(PROMPTS[:3]), (PROMPTS[3],)) for answer in ("Dublin", "Paris", "Lima")
]
LABELS = prompt_labels(FACTS)
SCORES = torch.rand(3, N_LAYERS, N_NEURONS, generator=torch.Generator().manual_seed(0))


def with_nan(tensor, value=NAN):
    return tensor.clone().index_fill(-1, torch.tensor([2]), value)


# ---------------------------------------------------------------- neurons

neurons_in_the_model = st.sets(
    st.builds(Neuron, st.integers(0, N_LAYERS - 1), st.integers(0, N_NEURONS - 1)), max_size=6
)
FORMS = {
    "list": list,
    "tuple": tuple,
    "frozenset": frozenset,
    "iterator": iter,
    "generator": lambda neurons: (neuron for neuron in neurons),
    "lists": lambda neurons: [list(neuron) for neuron in neurons],
    "scores": lambda neurons: dict.fromkeys(neurons, 0.5),
    "reversed": lambda neurons: sorted(neurons)[::-1],
    "twice": lambda neurons: [*neurons, *neurons],
    "numpy": lambda neurons: np.array(sorted(neurons), dtype=np.int64).reshape(-1, 2),
    "numpy entries": lambda neurons: [(np.int32(layer), np.int64(index)) for layer, index in neurons],
    "tensor": lambda neurons: torch.tensor(sorted(neurons), dtype=torch.long).view(-1, 2),
    "0-d tensors": lambda neurons: [(torch.tensor(layer), torch.tensor(index)) for layer, index in neurons],
    "column": lambda neurons: pd.Series(list(neurons), dtype=object),
}
NO_NEURONS = {  # what is no list of pairs
    "a float index": [(0, 1.5)],
    "a whole float": [(0, 1.0)],
    "a float tensor": torch.tensor([[0.0, 1.0]]),
    "a float array": np.array([[0.0, 1.0]]),
    "a bool": [(True, 1)],
    "bools": np.array([[True, False]]),
    "three numbers": [(0, 1, 2)],
    "one number": [(0,)],
    "a single neuron": Neuron(0, 1),
    "a bare pair": (0, 1),
    "bare indices": [3, 5],
    "a name": "0:1",
    "names": ["01"],
    "None": None,
    "a number": 3,
    "a pair with None": [(0, None)],
    "a scalar tensor": torch.tensor(3),
    "a fact": FACTS[0],
    "a set": [{0, 1}],
    "digits": [("0", "1")],
    "a table": pd.DataFrame({"layer": [0], "index": [1]}),
}
OUTSIDE = [(N_LAYERS, 0), (-1, 0), (0, N_NEURONS), (0, -1), (10**30, 0), (np.int64(-1), 0)]


def in_table(neurons):
    return pd.DataFrame({"relation": ["P36"], "answer": ["Dublin"], "neurons": [neurons]})


TAKE_NEURONS = {  # every public function that takes neurons
    "suppress": lambda lm, n: distribution(lm, kn.suppress(lm, n)),
    "amplify": lambda lm, n: distribution(lm, kn.amplify(lm, n, 3.0)),
    "update": lambda lm, n: distribution(lm, kn.update_fact(lm, n, "Dublin", "Paris")),
    "erase": lambda lm, n: distribution(lm, kn.erase_relation(lm, n)),
    "ask_scaled": lambda lm, n: kn.ask_scaled(lm, FACTS[:1], [([n], 0.0)])[1].log_odds,
    "factors": lambda lm, n: factors_of(lm, [n], 2.0),
    "random": lambda lm, n: sorted(kn.random_neurons(n, N_NEURONS)),
    "relatives": lambda lm, n: ask_relatives(lm, FACTS[0], {}, {"own": n}).to_numpy().tolist(),
    "steps": lambda lm, n: sorted(activation_steps(torch.rand(3, lm.n_layers, N_NEURONS), FACTS, [n, [], []]).index),
    "prompts": lambda lm, n: prompt_types.prompt_activations(
        lm, pd.DataFrame({"fact": [0], "type": ["T1"], "prompt": PROMPTS[:1]}), [n]
    ),
}
every_taker = pytest.mark.parametrize("take", TAKE_NEURONS.values(), ids=TAKE_NEURONS)


def distribution(lm, edit):
    with edit:
        return kn.answer_distribution(lm, PROMPTS[:1])


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return np.array_equal(one, other, equal_nan=True) if isinstance(one, pd.Series) else one == other


@every_taker
@settings(max_examples=5, deadline=None)
@given(neurons=neurons_in_the_model)
def test_neurons_in_every_form(tiny, take, neurons):
    if take is TAKE_NEURONS["relatives"] and not neurons:
        return
    as_set = take(tiny, neurons)
    for name, form in FORMS.items():
        found = take(tiny, form(neurons))
        if take is TAKE_NEURONS["relatives"]:
            found, expected = found[0][1:2] + found[0][3:], as_set[0][1:2] + as_set[0][3:]
            assert found == expected, name
        else:
            assert same(found, as_set), name


@every_taker
@pytest.mark.parametrize("neurons", NO_NEURONS.values(), ids=NO_NEURONS)
def test_what_is_no_list_of_pairs(tiny, take, neurons):
    before = snapshot(tiny)
    with one_line_error(TypeError, "pass"):
        take(tiny, neurons)
    assert_unchanged(tiny, before)


@every_taker
@pytest.mark.parametrize("neuron", OUTSIDE)
def test_a_neuron_outside_the_model(tiny, take, neuron):
    if take is TAKE_NEURONS["random"] and neuron[0] >= N_LAYERS and neuron[1] < N_NEURONS:
        return  # it does not know how many layers there are
    with one_line_error(ValueError, "outside the model"):
        take(tiny, [(0, 0), neuron])


def test_planting_takes_neurons_and_indices(tiny):
    forms = [[3, 8], (8, 3), {3, 8}, iter([3, 8]), [3, 8, 3], np.array([3, 8]), torch.tensor([3, 8]), range(3, 9, 5),
             [Neuron(1, 3), Neuron(1, 8)], [Neuron(1, 3), 8], pd.Series([3, 8])]  # fmt: skip
    for neurons in forms:
        with plant_fact(tiny, FACTS[0], 1, neurons) as planted:
            assert planted == {Neuron(1, 3), Neuron(1, 8)}


@pytest.mark.parametrize(
    "neurons, error, name",
    [
        (Neuron(1, 3), TypeError, "Neuron(layer=1, index=3)"),
        ([Neuron(0, 3)], ValueError, "not in layer 1"),
        ([1.5], TypeError, "1.5"),
        ([True], TypeError, "True"),
        (["3"], TypeError, "'3'"),
        (3, TypeError, "list of indices"),
        ([-1], ValueError, "outside the model"),
        ([()], ValueError, "not in layer 1"),
    ],
)
def test_planting_names_what_is_no_neuron(tiny, neurons, error, name):
    before = snapshot(tiny)
    with one_line_error(error, name), plant_fact(tiny, FACTS[0], 1, neurons):
        pytest.fail("the block began")
    assert_unchanged(tiny, before)


@pytest.mark.parametrize("layer", [-1, 1.0, True, None, "1", N_LAYERS])
def test_planting_names_what_is_no_layer(tiny, layer):
    with one_line_error((TypeError, ValueError), "layer is"), plant_fact(tiny, FACTS[0], layer, [3]):
        pytest.fail("the block began")


# ---------------------------------------------------------------- facts

TAKE_FACTS = {
    "ask": lambda lm, facts: kn.ask(lm, facts).log_odds.tolist(),
    "ask_scaled": lambda lm, facts: kn.ask_scaled(lm, facts, [([[(0, 1)]] * 3, 0.0)])[1].log_odds.tolist(),
    "answer key": lambda lm, facts: answer_key(lm, facts, "zero").probability,
    "comparable": lambda lm, facts: len(comparable_facts(facts)),
    "activity": lambda lm, facts: mean_activity(lm, facts),
    "labels": lambda lm, facts: prompt_labels(facts).to_numpy().tolist(),
    "relatives": lambda lm, facts: sorted(f.answer for f in relatives(FACTS[0], facts, n=9)["same relation"]),
    "own": lambda lm, facts: experiments.own_neurons(facts, [{Neuron(0, 1)}] * 3),
    "coarse": lambda lm, facts: experiments.find_coarse(lm, facts).n_prompts.tolist(),
    "typed": lambda lm, facts: prompt_types.typed_prompts(facts, prompt_types.prompt_bags(FACTS)).prompt.tolist(),
}
every_asker = pytest.mark.parametrize("take", TAKE_FACTS.values(), ids=TAKE_FACTS)


@every_asker
def test_facts_in_every_form(tiny, take):
    as_list = take(tiny, FACTS)
    for form in (tuple, iter, pd.Series, lambda facts: (fact for fact in facts), lambda facts: np.array(facts, object)):
        assert same(take(tiny, form(FACTS)), as_list)


@every_asker
@pytest.mark.parametrize(
    "facts", [FACTS[0], {"fact": FACTS[0]}, "lab", None, 3, [*FACTS, "Dublin"], [FACTS], [None]], ids=repr
)
def test_what_is_no_list_of_facts(tiny, take, facts):
    with one_line_error(TypeError, "facts", "pass a list of"):
        take(tiny, facts)


def test_a_single_fact_is_told_the_remedy(tiny):
    with one_line_error(TypeError, "facts is a single Fact", "[fact]"):
        kn.ask(tiny, FACTS[0])


@pytest.mark.parametrize("changes", [([[]], 0.0), [([[]], 0.0, 1)], [[]], None, "suppress", [([], "0")]], ids=repr)
def test_what_is_no_change(tiny, changes):
    with one_line_error((TypeError, ValueError), "pass"):
        kn.ask_scaled(tiny, FACTS, changes)


# ---------------------------------------------------------------- numbers

NOT_FINITE = [NAN, INF, -INF, np.float32("nan"), torch.tensor(INF), 10**400]
NO_NUMBERS = [None, "2", True, 1j, [2.0], torch.ones(2), FACTS[0]]
TAKE_NUMBERS = {
    "factor": lambda lm, x: distribution(lm, kn.amplify(lm, [(0, 1)], x)),
    "factor of ask_scaled": lambda lm, x: kn.ask_scaled(lm, FACTS, [([[]] * 3, x)]),
    "lambda_old": lambda lm, x: distribution(lm, kn.update_fact(lm, [], "Dublin", "Paris", lambda_old=x)),
    "lambda_new": lambda lm, x: distribution(lm, kn.update_fact(lm, [], "Dublin", "Paris", lambda_new=x)),
    "probability": lambda lm, x: distribution(lm, plant_fact(lm, FACTS[0], 1, [3], probability=x)),
    "threshold": lambda lm, x: kn.coarse_neurons(SCORES, x),
    "threshold of counts": lambda lm, x: coarse_counts(SCORES, x),
    "share": lambda lm, x: kn.refine_neurons(SCORES, share=x),
    "start": lambda lm, x: kn.choose_share([SCORES], start=x),
    "step": lambda lm, x: kn.choose_share([SCORES], step=x),
    "low": lambda lm, x: kn.choose_share([SCORES], low=x),
    "high": lambda lm, x: kn.choose_share([SCORES], high=x),
    "level": lambda lm, x: bootstrap(lambda v, axis: v.mean(axis), [1, 2], level=x),
}


@pytest.mark.parametrize("take", TAKE_NUMBERS.values(), ids=TAKE_NUMBERS)
def test_what_is_no_finite_number(tiny, take):
    for value in NOT_FINITE:
        with one_line_error(ValueError, "is"):
            take(tiny, value)
    for value in NO_NUMBERS:
        with one_line_error(TypeError, "pass a number"):
            take(tiny, value)


@pytest.mark.parametrize("factor", [2, 2.0, np.float64(2), np.int8(2), torch.tensor(2.0), np.array(2)])
def test_numbers_in_every_form(tiny, factor):
    expected = distribution(tiny, kn.amplify(tiny, [(0, 1)]))
    assert torch.equal(distribution(tiny, kn.amplify(tiny, [(0, 1)], factor)), expected)


TAKE_COUNTS = {  # and the least that each takes
    "k": (lambda lm, n: kn.top_neurons(SCORES, n), 0),
    "k of top_answers": (lambda lm, n: kn.top_answers(lm, PROMPTS[0], n), 1),
    "k of agreement": (lambda lm, n: leaderboard.agreement(SCORES, SCORES, n), 1),
    "n_neurons": (lambda lm, n: kn.random_neurons([], n), 1),
    "n_steps": (lambda lm, n: kn.riemann_points("left", n), 1),
    "min_prompts": (lambda lm, n: kn.refine_neurons(SCORES, min_prompts=n), 0),
    "n_prompts": (lambda lm, n: shared_neurons({}, n), 1),
    "n of relatives": (lambda lm, n: relatives(FACTS[0], FACTS, n), 0),
    "n of prompts": (lambda lm, n: prompt_types.typed_prompts(FACTS, prompt_types.prompt_bags(FACTS), n), 1),
    "n_facts": (lambda lm, n: comparable_facts(FACTS, n), 1),
    "frequent": (lambda lm, n: experiments.frequent_neurons([], n), 0),
    "n_planted": (lambda lm, n: leaderboard.planted_leaderboard(lm, FACTS, FACTS, n_planted=n), 1),
}


@pytest.mark.parametrize("name", TAKE_COUNTS)
def test_what_is_no_count(tiny, name):
    take, least = TAKE_COUNTS[name]
    for value in (least - 1, -7):
        with one_line_error(ValueError, value, "pass at least"):
            take(tiny, value)
    for value in (1.5, 2.0, NAN, True, "2", [2], torch.tensor(2.0)):
        with one_line_error(TypeError, "pass a whole number"):
            take(tiny, value)


def test_no_more_than_there_are(tiny):
    for call in (
        lambda: kn.top_neurons(SCORES, SCORES[0].numel() + 1),
        lambda: leaderboard.agreement(SCORES, SCORES, SCORES[0].numel() + 1),
        lambda: kn.top_answers(tiny, PROMPTS[0], 10**6),
    ):
        with one_line_error(ValueError, "k is", "pass at most"):
            call()
    assert len(kn.top_neurons(SCORES, SCORES[0].numel())) == SCORES[0].numel()
    with one_line_error(ValueError, "layer 0 has 19 other neurons for 21", "at most 20"):
        kn.random_neurons([(0, i) for i in range(21)], N_NEURONS)
    assert len(kn.random_neurons([(0, i) for i in range(20)], N_NEURONS)) == 20


# ---------------------------------------------------------------- scores

TAKE_SCORES = {
    "coarse": lambda scores: kn.coarse_neurons(scores),
    "counts": lambda scores: coarse_counts(scores),
    "refine": lambda scores: kn.refine_neurons(scores),
    "top": lambda scores: kn.top_neurons(scores, 2),
    "share": lambda scores: kn.choose_share([scores]),
    "agreement": lambda scores: leaderboard.agreement(scores, SCORES, 2).to_numpy().tolist(),
    "key": lambda scores: leaderboard.agreement(SCORES, scores, 2).to_numpy().tolist(),
}
every_score_taker = pytest.mark.parametrize("take", TAKE_SCORES.values(), ids=TAKE_SCORES)


@every_score_taker
def test_scores_of_the_wrong_shape(take):
    with one_line_error(ValueError, "(3, 40)", "(prompts, layers, neurons)", "[None]"):
        take(SCORES[0])
    with one_line_error(ValueError, "(1, 3, 3, 40)", "(prompts, layers, neurons)"):
        take(SCORES[None])
    for empty in (SCORES[:0], SCORES[:, :0], SCORES[..., :0]):
        with one_line_error(ValueError, tuple(empty.shape), "at least one prompt"):
            take(empty)
    for wrong in (None, "scores", [[1, 2], [3]], SCORES.numpy().astype(object)):
        with one_line_error((TypeError, ValueError), "pass"):
            take(wrong)


@every_score_taker
@settings(max_examples=10, deadline=None)
@given(
    prompt=st.integers(0, 2), layer=st.integers(0, 2), index=st.integers(0, 39), value=st.sampled_from([NAN, INF, -INF])
)
def test_scores_that_are_not_finite(take, prompt, layer, index, value):
    scores = SCORES.clone()
    scores[prompt, layer, index] = value
    with one_line_error(ValueError, f"[{prompt}] holds NaN or infinity"):
        take(scores)


@every_score_taker
def test_scores_in_every_form(take):
    expected = take(SCORES)
    for form in (lambda s: s.numpy(), list, tuple, lambda s: s.double(), lambda s: s.clone().requires_grad_()):
        found = take(form(SCORES))
        assert found == expected if isinstance(found, (set, dict, float, list)) else torch.equal(found, expected)


def test_scores_of_several_facts_as_a_tensor_or_a_generator():
    facts = torch.stack([SCORES, SCORES.flip(0)])
    assert kn.choose_share(facts) == kn.choose_share(list(facts)) == kn.choose_share(scores for scores in facts)
    with one_line_error(ValueError, "scores_per_fact[0]", "[None]"):
        kn.choose_share(SCORES)
    with one_line_error(ValueError, "low is 5", "high is 2"):
        kn.choose_share([SCORES], low=5, high=2)
    with one_line_error(ValueError, "counts_per_fact is empty"):
        share_from_counts([])


def test_agreement_needs_one_shape_and_says_where_there_is_no_answer():
    with one_line_error(ValueError, "(3, 3, 40)", "(2, 3, 40)"):
        leaderboard.agreement(SCORES, SCORES[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = leaderboard.agreement(torch.zeros(1, 1, 4), torch.ones(1, 1, 4), 2).iloc[0]
    assert math.isnan(found.auc) and math.isnan(found.spearman)


# ---------------------------------------------------------------- logits and weights that are not finite

MEASURES = {
    "ask": lambda lm: kn.ask(lm, FACTS),
    "ask_scaled": lambda lm: kn.ask_scaled(lm, FACTS, [([[]] * 3, 0.0)]),
    "distribution": lambda lm: kn.answer_distribution(lm, PROMPTS),
    "probability": lambda lm: kn.answer_probability(lm, PROMPTS, "Dublin"),
    "top": lambda lm: kn.top_answers(lm, PROMPTS[0]),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize("value", [NAN, INF])
def test_logits_that_are_not_finite(tiny, measure, value):
    with kn.edit_activations(tiny, lambda layer, w: w * value), one_line_error(ValueError, "not finite", "this edit"):
        measure(tiny)


@pytest.mark.parametrize("factor", [1e30, -1e38, 1e300])
def test_a_factor_beyond_the_models_arithmetic(tiny, factor):
    with one_line_error(ValueError, "not finite", "smaller factors"):
        kn.ask_scaled(tiny, FACTS, [([[(2, 1)]] * 3, factor)])
    with kn.amplify(tiny, [(2, 1)], factor), one_line_error(ValueError, "not finite", "smaller factors"):
        kn.ask(tiny, FACTS)


@pytest.mark.parametrize("value", [3e38, 1e300])
def test_a_lambda_beyond_the_models_arithmetic(tiny, value):
    before = snapshot(tiny)
    with (
        one_line_error(ValueError, "not finite", "smaller lambdas"),
        kn.update_fact(tiny, [(0, 1)], "Dublin", "Paris", lambda_new=value),
    ):
        pytest.fail("the edit began")
    assert_unchanged(tiny, before)


def test_planting_in_damaged_weights():
    for name in ("bert.encoder.layer.0.attention.self.value.weight", "bert.encoder.layer.2.output.dense.weight"):
        lm = tiny_model()
        lm.model.get_parameter(name)[0, 0] = NAN
        with one_line_error(ValueError, "not finite", "damaged"), plant_fact(lm, FACTS[0], 1, [3]):
            pytest.fail("the block began")


def test_variance_shares_of_damaged_activations():
    with one_line_error(ValueError, "NaN or infinity"):
        variance_shares(with_nan(torch.rand(len(LABELS), 4)), LABELS)
    with one_line_error(ValueError, "labels lacks", "template"):
        variance_shares(torch.rand(len(LABELS), 4), LABELS.drop(columns="template"))
    with one_line_error(ValueError, "labels is empty"):
        variance_shares(torch.rand(0, 4), LABELS[:0])


def test_steps_of_damaged_activity():
    for damaged in (with_nan(torch.rand(3, 2, 4)), torch.rand(3, 4), None):
        with one_line_error((TypeError, ValueError), "activity", "pass"):
            activation_steps(damaged, FACTS, [[], [], []])


# ---------------------------------------------------------------- samples

samples = st.lists(st.floats(0.01, 1), min_size=1, max_size=6)


@settings(max_examples=20, deadline=None)
@given(samples)
def test_samples_in_every_form(values):
    forms = (tuple, iter, np.array, pd.Series, lambda v: torch.tensor(v, dtype=torch.float64), lambda v: map(float, v))
    for form in forms:
        assert np.array_equal(kn.mean_interval(form(values)), kn.mean_interval(values), equal_nan=True)
        change = kn.relative_change(form(values), form(values[::-1]))
        assert np.array_equal(change, kn.relative_change(values, values[::-1]), equal_nan=True)
        logs = [-value for value in values]
        assert kn.perplexity(form(logs)) == kn.perplexity(logs)


@settings(max_examples=30, deadline=None)
@given(samples, samples)
def test_unequal_samples_are_never_broadcast(one, other):
    if len(one) == len(other):
        assert kn.relative_change(one, other).value == pytest.approx(np.mean(other) / np.mean(one) - 1)
        return
    with one_line_error(ValueError, len(one), len(other), "one for each"):
        kn.relative_change(one, other)
    with one_line_error(ValueError, len(one), len(other), "one for each"):
        bootstrap(lambda a, b, axis: a.mean(axis) - b.mean(axis), one, other)


@pytest.mark.parametrize("call", [kn.mean_interval, kn.perplexity, lambda v: kn.relative_change(v, v)])
def test_samples_that_are_none(call):
    for wrong in (None, "0.5", 0.5, [[0.5]], ["a"], [None, "x"], [1j], {"a": "b"}):
        with one_line_error(TypeError, "pass a list"):
            call(wrong)
    for infinite in ([0.5, INF], [-INF]):
        with one_line_error(ValueError, "infinity"):
            call(infinite)
    with one_line_error(ValueError, "empty"):
        call([])


def test_nan_in_a_sample_gives_nan_and_no_infinity_comes_out():
    assert np.isnan(kn.mean_interval([0.5, NAN, 0.1])).all()
    assert np.isnan(kn.relative_change([0.5, NAN], [0.5, 0.5])).all()
    assert math.isnan(kn.perplexity([NAN]))
    with one_line_error(ValueError, "before has mean 0"):
        kn.relative_change([0, 0], [0.5, 0.5])
    with one_line_error(ValueError, "log_probability holds 0.5"):
        kn.perplexity([0.5, -1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        change = kn.relative_change([0, 0, 0.5], [0.1, 0.1, 0.1])  # a resample may have mean 0 before
    assert change.value == pytest.approx(0.3 / 0.5 - 1)
    assert not np.isinf(change).any()
    grown = bootstrap(lambda v, axis: np.where(v.mean(axis) > 0, np.inf, 1.0), [1.0, 2.0])
    assert np.isnan(grown).all()


# ---------------------------------------------------------------- which fact is it


def test_other_answers_of_the_edited_fact_are_no_bystanders(tiny, monkeypatch):
    """A subject with two answers: when one is rewritten, the other one is neither asked as another fact nor written."""
    twice = [replace(FACTS[0], answer="Rome"), *FACTS]
    assert twice[0].subject == twice[1].subject
    asked = []
    monkeypatch.setattr(experiments, "ask", lambda lm, facts: asked.append(facts) or kn.ask(lm, facts))
    edits = pd.DataFrame({"fact": [1], "new": ["Lima"]})
    experiments.update_facts(tiny, twice, pd.DataFrame({"knowledge": [{Neuron(0, 0)}] * 4}), edits)
    own, renamed, *near = asked[0]
    assert (own, renamed) == (twice[1], replace(twice[1], answer="Lima"))
    assert {fact.subject for fact in near} == {"Paris", "Lima"}


def test_other_answers_of_the_edited_fact_are_no_new_answers(tiny):
    twice = [replace(FACTS[0], answer="Rome"), FACTS[0], FACTS[1]]
    for seed in range(10):
        edits = experiments.choose_edits(tiny, twice, [{Neuron(0, 0)}] * 3, [True] * 3, seed)
        assert edits[edits.fact < 2].new.tolist() == ["Paris"] * 2
    assert leaderboard._other_answers(twice[0], twice) == ["Paris"]
    with one_line_error(ValueError, "P36(capital)", "'Dublin'", "no other answer"):
        leaderboard.planted_leaderboard(tiny, twice[:1], twice[:2])


def test_a_subject_with_several_answers_is_a_relative_once():
    fact, *others = FACTS
    both = [replace(others[0], answer="Dublin"), others[0]]
    groups = relatives(fact, [fact, *both, others[1]], n=9)
    assert groups["same answer"] == both[:1]
    assert groups["same relation"] == [others[1]]


def test_a_repeated_fact_is_no_neighbour_of_itself():
    sets = [{Neuron(0, 0)}, {Neuron(0, 0)}, {Neuron(1, 1)}]
    facts = [FACTS[0], FACTS[0], FACTS[1]]
    assert experiments.own_neurons(facts, sets) == sets
    table = pd.DataFrame([(f.subject, f.relation, f.answer) for f in facts], columns=["subject", "relation", "answer"])
    table["neurons"] = sets
    shares, sizes = sharing.holder_shares(table)
    assert sizes["same relation"].tolist() == [1, 1, 2]
    assert shares["same relation"].tolist() == [0, 0, 0]
    assert sizes[sharing.CELLS[0]].tolist() == [0, 0, 0]
    assert sharing.identical(table)["any"].value == 0
    assert sharing.intersections(table).set_index("cell").number["same relation"].value == 0
    assert math.isnan(sharing.intersections(table).set_index("cell").number["other relation"].value)


def test_tables_that_lack_columns_or_rows():
    table = in_table({Neuron(0, 1)})
    for column in table.columns:
        with one_line_error(ValueError, "facts lacks", column):
            sharing.describe(table.drop(columns=column), 3)
    with one_line_error(ValueError, "facts is empty"):
        sharing.intersections(table[:0])
    with one_line_error(ValueError, "layer 3", "0..2"):
        sharing.describe(in_table({Neuron(3, 1)}), 3)
    with one_line_error(TypeError, "single Neuron"):
        sharing.describe(in_table(Neuron(0, 1)), 3)
    with one_line_error(ValueError, "activation_steps()"):
        name_neurons(table)


def test_lists_of_unequal_length(tiny):
    own = [{Neuron(0, 1)}] * 2
    edits = pd.DataFrame({"fact": [0], "new": ["Lima"]})
    for call in (
        lambda: experiments.own_neurons(FACTS, own),
        lambda: experiments.choose_edits(tiny, FACTS, own, [True] * 3),
        lambda: experiments.update_facts(tiny, FACTS, pd.DataFrame({"knowledge": own}), edits),
        lambda: experiments.erase_relations(tiny, FACTS, pd.DataFrame({"knowledge": own}), [0]),
        lambda: experiments.suppress_amplify(tiny, FACTS, pd.DataFrame({"knowledge": own})),
        lambda: prompt_types.typed_prompts(FACTS, prompt_types.prompt_bags(FACTS[:2])),
    ):
        with one_line_error(ValueError, "2 entries", "3"):
            call()
    with one_line_error(ValueError, "a fact of edits is 3", "at most 2"):
        experiments.update_facts(tiny, FACTS, pd.DataFrame({"knowledge": own + own[:1]}), edits.assign(fact=3))
    with one_line_error(ValueError, "a fact of measured is -1"):
        experiments.erase_relations(tiny, FACTS, pd.DataFrame({"knowledge": own + own[:1]}), [-1])
    with one_line_error(ValueError, "a fact of prompts is 3"):
        prompts = pd.DataFrame({"fact": [3], "type": ["T1"], "prompt": PROMPTS[:1]})
        prompt_types.prompt_activations(tiny, prompts, [set()] * 3)


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize("value", [SCORES, pd.DataFrame({"a": range(99)}), "x\ny" * 99, [[1] * 99] * 99], ids=type)
def test_a_message_has_one_short_line(value):
    assert "\n" not in checks.shown(value)
    assert len(checks.shown(value)) < 100


def test_tables_are_read_by_place_not_by_label(tiny):
    coarse = experiments.find_coarse(tiny, FACTS)
    expected = experiments.refine(FACTS, coarse, N_NEURONS)
    found = experiments.refine(FACTS, coarse.set_axis([7, 0, 1]), N_NEURONS)
    assert found.reset_index(drop=True).equals(expected)

"""Edits against plain hooks and hand-computed slots; every one of them leaves the model as it was."""

from contextlib import ExitStack

import pytest
import torch
from common import (
    PROMPTS,
    asked_within,
    assert_unchanged,
    hooked,
    one_line_error,
    plain_probability,
    snapshot,
    tiny_model,
)
from transformers import ElectraConfig, ElectraForMaskedLM

import kn_utils as kn
from kn_utils import Neuron
from kn_utils.editing import factors_of

NEURONS = [Neuron(0, 3), Neuron(1, 0), Neuron(1, 17), Neuron(2, 39)]
OLD, NEW = "Dublin", "Paris"

EDITS = {
    "suppress": kn.suppress,
    "amplify": kn.amplify,
    "update": lambda lm, neurons: kn.update_fact(lm, neurons, OLD, NEW),
    "erase": kn.erase_relation,
}
every_edit = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)


def multiplied(layer, factor):
    """The plain counterpart of suppress and amplify on one layer's part of NEURONS."""
    indices = [neuron.index for neuron in NEURONS if neuron.layer == layer]

    def change(w):
        w = w.clone()
        w[:, indices] = w[:, indices] * factor
        return w

    return change


@pytest.mark.parametrize(
    "edit, factor",
    [
        (lambda lm: kn.suppress(lm, NEURONS), 0),
        (lambda lm: kn.amplify(lm, NEURONS), 2),
        (lambda lm: kn.amplify(lm, NEURONS, factor=-3.5), -3.5),
    ],
    ids=["suppress", "amplify", "another factor"],
)
def test_equals_plain_hooks(tiny, edit, factor):
    expected = []
    for prompt in PROMPTS:
        with ExitStack() as hooks:
            for layer in range(tiny.n_layers):
                hooks.enter_context(hooked(tiny, layer, multiplied(layer, factor)))
            expected.append(plain_probability(tiny, prompt, OLD))
    with edit(tiny):
        edited = kn.answer_probability(tiny, PROMPTS, OLD)
    assert (edited - kn.answer_probability(tiny, PROMPTS, OLD)).abs().max() > 1e-3
    torch.testing.assert_close(edited, torch.cat(expected), atol=1e-6, rtol=0)


def test_only_the_mask_is_edited(tiny):
    """At the edited layer the other tokens keep their activations, and the edited neurons are off at the mask."""
    neurons, seen = [Neuron(0, 3), Neuron(0, 5)], []

    def keep_inputs(module, args):
        seen.append(args[0].clone())

    with torch.no_grad():
        for edited in ([], neurons):
            with kn.suppress(tiny, edited):
                handle = tiny.down_projections[0].register_forward_pre_hook(keep_inputs)
                inputs, position = kn.engine.encode(tiny, PROMPTS)
                tiny.model(**inputs)
                handle.remove()
    before, after = seen
    rows = torch.arange(len(PROMPTS))
    assert before[rows, position][:, [3, 5]].ne(0).all()
    before[rows[:, None], position[:, None], [3, 5]] = 0
    assert torch.equal(after, before)


def test_no_neurons_no_change(tiny):
    before = kn.answer_distribution(tiny, PROMPTS)
    for edit in EDITS.values():
        with edit(tiny, []):
            assert torch.equal(kn.answer_distribution(tiny, PROMPTS), before)


def test_nested_suppression_adds_up(tiny):
    with kn.suppress(tiny, NEURONS):
        together = kn.answer_distribution(tiny, PROMPTS)
    with kn.suppress(tiny, NEURONS[:2]), kn.suppress(tiny, NEURONS[1:]):
        nested = kn.answer_distribution(tiny, PROMPTS)
    assert torch.equal(nested, together)


def test_nested_amplification_multiplies(tiny):
    with kn.amplify(tiny, NEURONS, 6.0):
        together = kn.answer_distribution(tiny, PROMPTS)
    with kn.amplify(tiny, NEURONS, 2.0), kn.amplify(tiny, NEURONS, 3.0):
        nested = kn.answer_distribution(tiny, PROMPTS)
    torch.testing.assert_close(nested, together, atol=1e-6, rtol=0)


def test_a_repeated_neuron_counts_once(tiny):
    for edit in EDITS.values():
        with edit(tiny, NEURONS):
            once = kn.answer_distribution(tiny, PROMPTS)
        with edit(tiny, NEURONS + NEURONS):
            assert torch.equal(kn.answer_distribution(tiny, PROMPTS), once)


@every_edit
def test_restores_bit_for_bit(tiny, edit):
    before, answers = snapshot(tiny), kn.answer_distribution(tiny, PROMPTS)
    with edit(tiny, NEURONS):
        assert not torch.equal(kn.answer_distribution(tiny, PROMPTS), answers)
    assert_unchanged(tiny, before)
    assert torch.equal(kn.answer_distribution(tiny, PROMPTS), answers)


class Interrupted(Exception):
    """Raised inside an edit."""


@every_edit
def test_restores_through_exceptions(tiny, edit):
    before = snapshot(tiny)
    with pytest.raises(Interrupted), edit(tiny, NEURONS):
        raise Interrupted
    assert_unchanged(tiny, before)


@pytest.mark.parametrize("error", [None, Interrupted, KeyboardInterrupt])
def test_restores_when_nested(tiny, error):
    before = snapshot(tiny)
    try:
        with (
            kn.update_fact(tiny, NEURONS, OLD, NEW),
            kn.erase_relation(tiny, NEURONS[1:]),
            kn.suppress(tiny, NEURONS),
            kn.update_fact(tiny, NEURONS[2:], NEW, OLD, rescale=False),
        ):
            assert kn.answer_probability(tiny, PROMPTS, OLD).isfinite().all()
            if error:
                raise error
    except (Interrupted, KeyboardInterrupt):
        pass
    assert_unchanged(tiny, before)


def test_an_inner_edit_leaves_the_outer_one(tiny):
    with kn.erase_relation(tiny, NEURONS):
        outer = kn.answer_distribution(tiny, PROMPTS)
        with kn.update_fact(tiny, NEURONS, OLD, NEW, rescale=False):
            assert not torch.equal(kn.answer_distribution(tiny, PROMPTS), outer)
        assert torch.equal(kn.answer_distribution(tiny, PROMPTS), outer)


@every_edit
def test_a_second_use_is_like_the_first(tiny, edit):
    answers = []
    for _ in range(3):
        with edit(tiny, NEURONS):
            answers.append(kn.answer_distribution(tiny, PROMPTS))
        kn.knowledge_attribution(tiny, PROMPTS[:1], OLD, n_steps=2)
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


def norm(vector):
    return sum(x * x for x in vector) ** 0.5


@pytest.mark.parametrize("rescale", [True, False])
def test_update_formula(tiny, rescale):
    neuron = NEURONS[2]
    embeddings = tiny.model.bert.embeddings.word_embeddings.weight.tolist()
    e_old, e_new = (embeddings[tiny.tokenizer.convert_tokens_to_ids(token)] for token in (OLD, NEW))
    slot = tiny.model.bert.encoder.layer[neuron.layer].output.dense.weight[:, neuron.index].tolist()
    old_scale, new_scale = (norm(slot) / norm(e) if rescale else 1.0 for e in (e_old, e_new))
    expected = [v - 0.5 * old_scale * o + 3.0 * new_scale * n for v, o, n in zip(slot, e_old, e_new, strict=True)]

    before = tiny.down_projections[neuron.layer].weight.clone()
    with kn.update_fact(tiny, [neuron], OLD, NEW, lambda_old=0.5, lambda_new=3.0, rescale=rescale):
        after = tiny.down_projections[neuron.layer].weight.clone()
    torch.testing.assert_close(after[:, neuron.index], torch.tensor(expected), atol=1e-5, rtol=1e-5)
    others = [i for i in range(tiny.n_neurons) if i != neuron.index]
    assert torch.equal(after[:, others], before[:, others])


def test_update_defaults_are_the_papers(tiny):
    with kn.update_fact(tiny, NEURONS, OLD, NEW):
        default = kn.answer_distribution(tiny, PROMPTS)
    with kn.update_fact(tiny, NEURONS, OLD, NEW, lambda_old=1.0, lambda_new=8.0, rescale=True):
        assert torch.equal(kn.answer_distribution(tiny, PROMPTS), default)


def test_erase_sets_the_slots_to_zero(tiny):
    before = [module.weight.clone() for module in tiny.down_projections]
    with kn.erase_relation(tiny, NEURONS):
        for layer, (module, weight) in enumerate(zip(tiny.down_projections, before, strict=True)):
            weight[:, [neuron.index for neuron in NEURONS if neuron.layer == layer]] = 0
            assert torch.equal(module.weight, weight)


@pytest.fixture(scope="module")
def lab_sample(lab, lab_facts):
    """A few facts of the lab's world with their knowledge neurons."""
    facts = [fact for fact in lab_facts if fact.relation == "P27(country of citizenship)"][:8]
    return facts, [kn.refine_neurons(scores) for scores in kn.knowledge_attributions(lab, facts)]


def test_update_makes_the_new_answer_likelier(lab, lab_sample):
    ratios = []
    for fact, neurons in zip(*lab_sample, strict=True):
        new = "Peru" if fact.answer != "Peru" else "Cuba"
        before = kn.answer_probability(lab, fact.heldout_prompts, new).mean()
        with kn.update_fact(lab, neurons, fact.answer, new):
            ratios.append((kn.answer_probability(lab, fact.heldout_prompts, new).mean() / before).item())
    assert sorted(ratios)[len(ratios) // 2] > 2  # the median fact
    assert sum(ratio > 1 for ratio in ratios) >= 0.75 * len(ratios)


def test_suppression_takes_more_than_random_neurons_do(lab, lab_sample):
    facts, neurons = lab_sample
    random = [kn.random_neurons(own, lab.n_neurons, seed=i) for i, own in enumerate(neurons)]
    before, after, control = (
        asked_within(lab, facts, [kn.suppress(lab, own) for own in sets]).probability.mean()
        for sets in ([[]] * len(facts), neurons, random)
    )
    assert after < 0.9 * before
    assert abs(control - before) < 0.25 * (before - after)


@pytest.mark.parametrize("neuron", [(3, 0), (-1, 0), (0, 40), (0, -1)])
@every_edit
def test_neuron_outside_the_model(tiny, edit, neuron):
    before = snapshot(tiny)
    with one_line_error(ValueError, Neuron(*neuron), "0..2", "0..39"), edit(tiny, [*NEURONS, neuron]):
        pytest.fail("the edit began")
    assert_unchanged(tiny, before)


@pytest.mark.parametrize("old, new, name", [("Atlantis", NEW, "Atlantis"), (OLD, "Iceland", "Iceland")])
def test_update_with_an_answer_that_is_no_token(tiny, old, new, name):
    before = snapshot(tiny)
    with one_line_error(ValueError, repr(name)), kn.update_fact(tiny, NEURONS, old, new):
        pytest.fail("the edit began")
    assert_unchanged(tiny, before)


def test_update_needs_embeddings_as_wide_as_slots():
    lm = tiny_model(ElectraForMaskedLM, ElectraConfig, embedding_size=16)
    with one_line_error(ValueError, "16", "24", "no update"), kn.update_fact(lm, NEURONS, OLD, NEW):
        pytest.fail("the edit began")


def test_each_set_has_its_own_factors(tiny):
    factors = factors_of(tiny, [{kn.Neuron(0, 1)}, set(), [kn.Neuron(2, 5), kn.Neuron(1, 0)]], 3.0)
    assert (factors != 1).nonzero().tolist() == [[0, 0, 1], [2, 1, 0], [2, 2, 5]]
    assert factors.unique().tolist() == [1, 3]
    assert (factors_of(tiny, [set()], 3.0) == 1).all()

"""Changed weights are a stack that belongs to one thread: whatever is left, the model is as it was, bit for bit."""

from contextlib import suppress
from threading import Thread

import pytest
import torch
from common import FACTS, PROMPTS, assert_unchanged, one_line_error, snapshot, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from transformers import AlbertConfig, AlbertForMaskedLM

import kn_utils as kn
from kn_utils import Neuron
from kn_utils.beyond.planting import plant_fact
from kn_utils.engine.weights import Change, changed_weights, one_thread

NEURONS = [Neuron(0, 3), Neuron(1, 0), Neuron(1, 17)]
EDITS = {
    "update": lambda lm: kn.update_fact(lm, NEURONS, "Dublin", "Paris"),
    "erase": lambda lm: kn.erase_relation(lm, NEURONS[1:]),
    "plant": lambda lm: plant_fact(lm, FACTS[0], 1, [0, 17]),
}
every_pair = pytest.mark.parametrize("first", EDITS)


@every_pair
@pytest.mark.parametrize("second", EDITS)
def test_edits_left_in_the_wrong_order_are_all_undone(tiny, first, second):
    before, one, other = snapshot(tiny), EDITS[first](tiny), EDITS[second](tiny)
    one.__enter__()
    other.__enter__()
    with one_line_error(RuntimeError, "another order", "nested"):
        one.__exit__(None, None, None)
    assert_unchanged(tiny, before)
    with one_line_error(RuntimeError, "have been undone"):  # its block went on without it
        other.__exit__(None, None, None)
    assert_unchanged(tiny, before)
    with EDITS[first](tiny):
        pass  # the model can be edited again
    assert_unchanged(tiny, before)


def test_an_edit_that_was_undone_leaves_later_ones_alone(tiny):
    before = snapshot(tiny)
    one, other = EDITS["update"](tiny), EDITS["erase"](tiny)
    one.__enter__()
    other.__enter__()
    with suppress(RuntimeError):
        one.__exit__(None, None, None)
    with kn.erase_relation(tiny, NEURONS):
        erased = snapshot(tiny)
        with suppress(RuntimeError):
            other.__exit__(None, None, None)
        assert_unchanged(tiny, erased)
    assert_unchanged(tiny, before)


def in_a_thread(function):
    """What the function raises in another thread."""
    raised = []

    def run():
        try:
            function()
        except Exception as error:
            raised.append(error)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None


@every_pair
@pytest.mark.parametrize("second", EDITS)
def test_a_second_thread_is_refused(tiny, first, second):
    def edit():
        with EDITS[second](tiny):
            pytest.fail("the edit began")

    before = snapshot(tiny)
    with EDITS[first](tiny):
        edited = snapshot(tiny)
        with one_line_error(RuntimeError, "another thread", "once per thread"):
            raise in_a_thread(edit)
        assert_unchanged(tiny, edited)
    assert_unchanged(tiny, before)


def test_threads_may_take_turns_and_edit_their_own_models(tiny):
    def edit(lm):
        with kn.erase_relation(lm, NEURONS), kn.update_fact(lm, NEURONS, "Dublin", "Paris"):
            assert kn.answer_distribution(lm, PROMPTS).isfinite().all()

    own = tiny_model()
    before = snapshot(tiny)
    assert in_a_thread(lambda: edit(tiny)) is None
    with kn.erase_relation(tiny, NEURONS):
        assert in_a_thread(lambda: edit(own)) is None
    assert in_a_thread(lambda: edit(tiny)) is None
    assert_unchanged(tiny, before)


def test_one_thread_may_nest(tiny):
    with one_thread(tiny.model), one_thread(tiny.model), kn.erase_relation(tiny, NEURONS):
        assert isinstance(in_a_thread(lambda: one_thread(tiny.model).__enter__()), RuntimeError)
    assert in_a_thread(lambda: one_thread(tiny.model).__enter__()) is None


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), max_size=5), max_size=4),
    st.sampled_from([None, KeyboardInterrupt, ValueError]),
)
def test_nested_changes_that_overlap(blocks, error):
    """The innermost value counts, the last one within a block; after every block all is as it was before it."""
    model = torch.nn.Linear(4, 1, bias=False).requires_grad_(False)
    weights = model.weight[0]

    def enter(blocks):
        if not blocks:
            if error:
                raise error
            return
        expected = weights.clone()
        for index, value in blocks[0]:
            expected[index] = value
        before = weights.clone()
        try:
            with changed_weights(model, [Change(weights, (index,), float(value)) for index, value in blocks[0]]):
                assert torch.equal(weights, expected)
                enter(blocks[1:])
        finally:
            assert torch.equal(weights, before)

    with suppress(*filter(None, [error])):
        enter(blocks)


def test_layers_that_share_their_weights():
    lm = tiny_model(AlbertForMaskedLM, AlbertConfig, embedding_size=24)
    before = snapshot(lm)
    with kn.update_fact(lm, [Neuron(0, 3)], "Dublin", "Paris"):
        once = lm.value_slots(0).clone()
    with kn.update_fact(lm, [Neuron(0, 3), Neuron(2, 3), Neuron(1, 3)], "Dublin", "Paris"):
        assert torch.equal(lm.value_slots(0), once)
        with kn.erase_relation(lm, [Neuron(1, 3)]):
            assert not lm.value_slots(2)[:, 3].any()
        assert torch.equal(lm.value_slots(0), once)
    assert_unchanged(lm, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.tensor([1.0, -torch.inf])])
def test_values_that_are_not_finite_are_never_written(value):
    model = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
    before = model.weight.clone()
    change = Change(model.weight, (0,), value)
    with one_line_error(ValueError, "not finite", "lambdas"), changed_weights(model, [change]):
        pytest.fail("the edit began")
    assert torch.equal(model.weight, before)

"""Change what a model says through a few neurons: context managers that leave no trace (sections 4 and 5)."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .forward import edit_activations
from .models import LanguageModel, Neuron


@contextmanager
def suppress(lm: LanguageModel, neurons: Iterable[Neuron]) -> Iterator[None]:
    """Set the neurons' activations at the mask to 0 (section 4.3).

    >>> with suppress(lm, neurons):
    ...     answer_probability(lm, fact.heldout_prompts, fact.answer)
    """
    with amplify(lm, neurons, factor=0.0):
        yield


@contextmanager
def amplify(lm: LanguageModel, neurons: Iterable[Neuron], factor: float = 2.0) -> Iterator[None]:
    """Multiply the neurons' activations at the mask by `factor` (section 4.3)."""
    (factors,) = factors_of(lm, [neurons], factor)
    with edit_activations(lm, lambda layer, w: w * factors[layer]):
        yield


def factors_of(lm: LanguageModel, sets: Sequence[Iterable[Neuron]], factor: float) -> Tensor:
    """`factor` for each set's neurons, 1 for all others.  # (sets, layers, neurons)"""
    where = [(i, *neuron) for i, neurons in enumerate(sets) for neuron in _checked(lm, neurons)]
    factors = torch.ones(len(sets), lm.n_layers, lm.n_neurons)
    if where:
        factors[tuple(zip(*where, strict=True))] = factor
    return factors.to(lm.device, lm.dtype)


def has_update(lm: LanguageModel) -> bool:
    """Whether a word embedding can be written into a value slot: ALBERT's and ELECTRA's are of another width."""
    return lm.model.get_input_embeddings().embedding_dim == lm.hidden_size


def check_update(lm: LanguageModel) -> None:
    """Raise a ValueError if the model has no update."""
    if not has_update(lm):
        width = lm.model.get_input_embeddings().embedding_dim
        raise ValueError(f"embeddings have {width} entries, value slots {lm.hidden_size}: the model has no update")


@contextmanager
def update_fact(
    lm: LanguageModel,
    neurons: Iterable[Neuron],
    old: str,
    new: str,
    lambda_old: float = 1.0,
    lambda_new: float = 8.0,
    rescale: bool = True,
) -> Iterator[None]:
    """Rewrite a fact in its neurons' value slots: v - lambda_old e(old) + lambda_new e(new) (section 5.1).

    Args:
        old, new: the present and the wanted answer, one token each; e is the word embedding.
        rescale: first scale each embedding to the slot's own norm, as the released code does and the formula does not.

    Raises:
        ValueError: an answer that is not one token, a neuron outside the model, or a model that has no update.
    """
    check_update(lm)
    e_old, e_new = lm.embedding(old), lm.embedding(new)  # (hidden,)

    def updated(slot: Tensor) -> Tensor:
        scale_old, scale_new = (slot.norm() / e.norm() if rescale else 1.0 for e in (e_old, e_new))
        return slot - lambda_old * scale_old * e_old + lambda_new * scale_new * e_new

    with _edit_value_slots(lm, neurons, updated):
        yield


@contextmanager
def erase_relation(lm: LanguageModel, neurons: Iterable[Neuron]) -> Iterator[None]:
    """Set the neurons' value slots to 0; with a relation's 20 most frequent knowledge neurons (section 5.2)."""
    with _edit_value_slots(lm, neurons, torch.zeros_like):
        yield


@contextmanager
def _edit_value_slots(lm, neurons, edit) -> Iterator[None]:
    """Replace each neuron's value slot by edit(slot); put the saved copies back at the end, whatever happens."""
    neurons = _checked(lm, neurons)
    saved = {neuron: lm.value_slot(neuron).clone() for neuron in neurons}
    try:
        with torch.no_grad():
            for neuron, slot in saved.items():
                lm.value_slot(neuron).copy_(edit(slot))
        yield
    finally:
        with torch.no_grad():
            for neuron, slot in saved.items():
                lm.value_slot(neuron).copy_(slot)


def _checked(lm: LanguageModel, neurons: Iterable[Neuron]) -> list[Neuron]:
    neurons, n_layers, n_neurons = [Neuron(*neuron) for neuron in neurons], lm.n_layers, lm.n_neurons
    for neuron in neurons:
        if not (0 <= neuron.layer < n_layers and 0 <= neuron.index < n_neurons):
            raise ValueError(f"{neuron} is outside the model: layers are 0..{n_layers - 1}, indices 0..{n_neurons - 1}")
    return neurons

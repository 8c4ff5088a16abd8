"""Change what a model says through a few neurons: context managers that leave no trace (sections 4 and 5)."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .checks import finite, neuron_set, neuron_sets
from .engine import edit_activations
from .engine.weights import Change, changed_weights
from .models import LanguageModel, Neuron


@contextmanager
def suppress(lm: LanguageModel, neurons: Iterable[Neuron]) -> Iterator[None]:
    """Set the neurons' activations at the mask to 0 (section 4.3).

    Args:
        neurons: any (layer, index) pairs of this model; each counts once.

    Raises:
        ValueError: a neuron outside the model.
        TypeError: what is no list of (layer, index) pairs.
        RuntimeError: another thread is editing this model.

    Example:
        >>> with kn.suppress(lm, neurons):
        ...     asked = kn.ask(lm, [fact])
        >>> f"{asked.probability[0]:.0%}"  # 65 % outside
        '39%'
    """
    with amplify(lm, neurons, factor=0.0):
        yield


@contextmanager
def amplify(lm: LanguageModel, neurons: Iterable[Neuron], factor: float = 2.0) -> Iterator[None]:
    """Multiply the neurons' activations at the mask by `factor` (section 4.3).

    Args:
        neurons: as for `suppress`.

    Raises:
        ValueError: a neuron outside the model, or a factor that is not finite.
        TypeError: what is no list of (layer, index) pairs.
        RuntimeError: another thread is editing this model.

    Example:
        >>> with kn.amplify(lm, neurons):
        ...     asked = kn.ask(lm, [fact])
        >>> f"{asked.probability[0]:.0%}"  # 65 % outside
        '79%'
    """
    (factors,) = factors_of(lm, [neurons], factor)
    with edit_activations(lm, lambda layer, w: w * factors[layer]):
        yield


def factors_of(lm: LanguageModel, sets: Iterable[Iterable[Neuron]], factor: float) -> Tensor:
    """`factor` for each set's neurons, 1 for all others.  # (sets, layers, neurons)"""
    sets, factor = neuron_sets(lm, sets), finite("factor", factor)
    where = [(i, *neuron) for i, neurons in enumerate(sets) for neuron in neurons]
    factors = torch.ones(len(sets), lm.n_layers, lm.n_neurons)
    if where:
        factors[tuple(zip(*where, strict=True))] = torch.tensor(factor, dtype=torch.float64).to(factors)
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
        ValueError: an answer that is not one token, a neuron outside the model, a lambda or a new value slot that is
            not finite, or a model that has no update.
        RuntimeError: another thread is editing the model, or edits are left in another order than nested ones.

    Example:
        >>> with kn.update_fact(lm, neurons, old="Tirana", new="Lima"):
        ...     answers = kn.top_answers(lm, "The capital of Albania is [MASK].")
        >>> answers[0][0]
        'Lima'
    """
    check_update(lm)
    lambda_old, lambda_new = finite("lambda_old", lambda_old), finite("lambda_new", lambda_new)
    e_old, e_new = lm.embedding(old), lm.embedding(new)  # (hidden,)

    def updated(slot: Tensor) -> Tensor:
        scale_old, scale_new = (slot.norm() / e.norm() if rescale else 1.0 for e in (e_old, e_new))
        return slot - lambda_old * scale_old * e_old + lambda_new * scale_new * e_new

    with changed_weights(lm.model, _changed_slots(lm, neurons, updated)):
        yield


@contextmanager
def erase_relation(lm: LanguageModel, neurons: Iterable[Neuron]) -> Iterator[None]:
    """Set the neurons' value slots to 0; with a relation's 20 most frequent knowledge neurons (section 5.2).

    Args:
        neurons: as for `suppress`.

    Raises:
        ValueError: a neuron outside the model.
        TypeError: what is no list of (layer, index) pairs.
        RuntimeError: another thread is editing the model, or edits are left in another order than nested ones.

    Example:
        >>> with kn.erase_relation(lm, neurons):
        ...     asked = kn.ask(lm, [fact])
        >>> f"{asked.probability[0]:.0%}"  # 65 % outside
        '39%'
    """
    with changed_weights(lm.model, _changed_slots(lm, neurons, torch.zeros_like)):
        yield


@torch.no_grad()
def _changed_slots(lm: LanguageModel, neurons: Iterable[Neuron], edit: Callable[[Tensor], Tensor]) -> list[Change]:
    """Each neuron's value slot replaced by edit(slot)."""
    changes = []
    for layer, index in neuron_set(lm, neurons):
        slots = lm.value_slots(layer)  # (hidden, neurons)
        changes.append(Change(slots, (slice(None), index), edit(slots[:, index])))
    return changes

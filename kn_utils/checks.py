"""What a caller may pass: each check returns the value in one form, or raises one line that names it and the remedy.

The wrong kind of thing is a TypeError, a wrong value a ValueError.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterable, Mapping
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from .models import LanguageModel, Neuron

SHOWN = 80  # characters of a wrong value that a message repeats


def finite(name: str, value, least: float = -math.inf) -> float:
    """A number that is neither NaN nor infinite, and at least `least`."""
    is_scalar = isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0
    number = value.item() if is_scalar else value
    if isinstance(number, (bool, np.bool_)) or not isinstance(number, Real):
        raise TypeError(f"{name} is {shown(value)}: pass a number")
    try:
        number = float(number)
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is {shown(value)}: pass a finite number")
    if number < least:
        raise ValueError(f"{name} is {shown(value)}: pass at least {least:g}")
    return number


def fraction(name: str, value) -> float:
    """A number in (0, 1]."""
    is_nan = isinstance(value, Real) and value != value
    if is_nan or not 0 < finite(name, value) <= 1:
        raise ValueError(f"{name} is {shown(value)}: choose it in (0, 1]")
    return finite(name, value)


def integer(name: str, value) -> int:
    """A whole number: an int, or what NumPy, pandas and torch have for one; 1.0 and True are none."""
    is_bool = isinstance(value, (bool, np.bool_)) or getattr(value, "dtype", None) in (torch.bool, np.dtype(bool))
    try:
        if is_bool:
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {shown(value)}: pass a whole number") from None


def count(name: str, value, least: int = 1, most: int | None = None) -> int:
    """A whole number from `least` to `most`."""
    number = integer(name, value)
    if number < least:
        raise ValueError(f"{name} is {number}: pass at least {least}")
    if most is not None and number > most:
        raise ValueError(f"{name} is {number}: pass at most {most}")
    return number


def one_of(name: str, value, choices: Collection[str]) -> str:
    """One of a few names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} {shown(value)} is unknown: choose one of {tuple(choices)}")
    return value


def list_of(name: str, values, kind: type) -> list:
    """The values as a list: any iterable of `kind`, such as a tuple, a generator or a column of a table."""
    what = kind.__name__
    if isinstance(values, kind):
        raise TypeError(f"{name} is a single {what}: pass a list of them, such as [{what.lower()}]")
    is_one = isinstance(values, (str, bytes, Mapping)) or getattr(values, "ndim", 1) != 1
    if is_one or not isinstance(values, Iterable):
        raise TypeError(f"{name} is {shown(values)}: pass a list of {what}")
    values = list(values)
    for i, value in enumerate(values):
        if not isinstance(value, kind):
            raise TypeError(f"{name}[{i}] is {shown(value)}: pass a list of {what}")
    return values


def same_length(**lists: Collection) -> None:
    """All of them have as many entries as the first."""
    (first, expected), *others = lists.items()
    for name, values in others:
        if len(values) != len(expected):
            raise ValueError(f"{name} has {len(values)} entries, {first} has {len(expected)}: pass one for each")


def numbers(name: str, values) -> np.ndarray:
    """A sample: one float per fact, NaN allowed, infinity not.  # (facts,)"""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
    elif not isinstance(values, (np.ndarray, str)) and isinstance(values, Iterable):
        values = list(values)
    try:
        array = np.asarray(values)
        array = array.astype(float) if array.dtype.kind in "biufO" else None
    except (TypeError, ValueError, RuntimeError):
        array = None
    if array is None or array.ndim != 1:
        raise TypeError(f"{name} is {shown(values)}: pass a list with one number per fact")
    if np.isinf(array).any():
        raise ValueError(f"{name} holds infinity (entry {np.isinf(array).argmax()}): pass finite numbers")
    return array


def scores_3d(scores, name: str = "scores") -> Tensor:
    """Scores or activations of some prompts, all finite.  # (prompts, layers, neurons)"""
    try:
        if isinstance(scores, (list, tuple)) and len(scores):
            scores = torch.stack([torch.as_tensor(own) for own in scores])
        scores = torch.as_tensor(scores).detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} is {shown(scores)}: pass a tensor (prompts, layers, neurons)") from None
    if scores.dim() != 3:
        remedy = f"; of one prompt {name}[None]" if scores.dim() == 2 else ""
        raise ValueError(f"{name} has shape {tuple(scores.shape)}: pass (prompts, layers, neurons){remedy}")
    if not scores.numel():
        raise ValueError(f"{name} has shape {tuple(scores.shape)}: pass the scores of at least one prompt")
    if scores.is_complex():
        raise TypeError(f"{name} is complex: pass real numbers")
    scores = scores if scores.is_floating_point() else scores.to(torch.get_default_dtype())
    if not (is_finite := scores.isfinite().flatten(1).all(1)).all():
        raise ValueError(f"{name}[{(~is_finite).int().argmax()}] holds NaN or infinity: pass finite scores")
    return scores


def finite_logits(logits: Tensor) -> Tensor:
    """The logits, all finite: NaN would be no larger than any other, and every answer rank first."""
    if not logits.isfinite().all():
        raise ValueError(
            "the model's logits are not finite inside this edit: choose smaller factors or lambdas, or load weights "
            "that are not damaged"
        )
    return logits


def neuron_set(lm_or_shape: LanguageModel | tuple[int | None, int], neurons, name: str = "neurons") -> list[Neuron]:
    """The neurons, each once, in order of appearance; any iterable of (layer, index) pairs, which is read once.

    Args:
        lm_or_shape: the model they lie in, or (n_layers, n_neurons); None for any number of layers.
    """
    from .models import Neuron  # here, so that models.py may use this file, too

    is_shape = isinstance(lm_or_shape, tuple)
    n_layers, n_neurons = lm_or_shape if is_shape else (lm_or_shape.n_layers, lm_or_shape.n_neurons)
    if isinstance(neurons, Neuron):
        raise TypeError(f"{name} is the single {neurons}: pass a list of them, [{neurons}]")
    if isinstance(neurons, (str, bytes)) or not isinstance(neurons, Iterable) or getattr(neurons, "ndim", 1) == 0:
        raise TypeError(f"{name} is {shown(neurons)}: pass a list of (layer, index) pairs")
    found = list(dict.fromkeys(Neuron(*_pair(name, neuron)) for neuron in neurons))
    for neuron in found:
        if not (neuron.layer >= 0 and (n_layers is None or neuron.layer < n_layers) and 0 <= neuron.index < n_neurons):
            layers = "layers are from 0" if n_layers is None else f"layers are 0..{n_layers - 1}"
            raise ValueError(f"{neuron} is outside the model: {layers}, indices 0..{n_neurons - 1}")
    return found


def neuron_sets(lm_or_shape: LanguageModel | tuple[int | None, int], sets, name: str = "neurons") -> list[list[Neuron]]:
    """`neuron_set` of each of several sets, one per fact."""
    if isinstance(sets, (str, bytes, Mapping)) or not isinstance(sets, Iterable):
        raise TypeError(f"{name} is {shown(sets)}: pass a list with one set of neurons per fact")
    return [neuron_set(lm_or_shape, own, f"{name}[{i}]") for i, own in enumerate(sets)]


def shown(value) -> str:
    """A value as a message repeats it: in one line, and shortened."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _pair(name: str, neuron) -> tuple[int, int]:
    if type(neuron) in (str, bytes) or not isinstance(neuron, Iterable) or isinstance(neuron, (Mapping, set)):
        raise TypeError(f"{name} holds {shown(neuron)}: pass a list of (layer, index) pairs, such as [(0, 3)]")
    if getattr(neuron, "ndim", 1) == 0 or len(pair := tuple(neuron)) != 2:
        raise TypeError(f"{name} holds {shown(neuron)}: pass a list of (layer, index) pairs, such as [(0, 3)]")
    return integer(f"a layer of {name}", pair[0]), integer(f"an index of {name}", pair[1])

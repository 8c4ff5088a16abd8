"""What a figure may be given: the data in the form in which it is drawn, or one line that names it and the remedy."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ..checks import shown
from .style import COLOURS


def layers_by_neurons(name: str, values: Tensor) -> np.ndarray:
    """One finite value per neuron.  # (layers, neurons)"""
    values = torch.as_tensor(values).detach().cpu().float()
    if values.dim() != 2 or not values.numel():
        remedy = f", such as {name}.mean(0)" if values.dim() == 3 else ""
        raise ValueError(f"{name} has shape {tuple(values.shape)}: pass (layers, neurons){remedy}")
    if not values.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity: pass finite values")
    return values.numpy()


def value_low_high(name: str, intervals: Iterable) -> np.ndarray:
    """Intervals as three rows; NaN where there is nothing to show.  # (3, intervals)"""
    intervals = list(intervals)
    try:
        rows = np.array([tuple(interval) for interval in intervals], dtype=float)
        if rows.shape != (len(intervals), 3) or not len(rows):
            raise ValueError
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {shown(intervals)}: pass an Interval in each place") from None
    return rows.T


def colour(kind: str) -> tuple[float, float, float]:
    """The colour of a kind of neurons."""
    if kind not in COLOURS:
        raise ValueError(f"kind {shown(kind)} has no colour: choose one of {', '.join(COLOURS)}")
    return COLOURS[kind]

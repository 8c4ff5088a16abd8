"""Change a model's weights for a while: the one place that writes them, and puts them back bit for bit.

Changes of one model are a stack, and belong to one thread. Entered in a second thread, or left in another order than
that of nested `with` blocks, they would leave weights of one another behind; that is refused.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock, get_ident
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn


class Change(NamedTuple):
    """New values for a part of some weights: `weights[index] = values`."""

    weights: Tensor  # a parameter, or a view into one
    index: tuple
    values: Tensor | float


@dataclass(eq=False)
class _Saved:
    """The values that a change has overwritten."""

    parts: list[Change]

    @torch.no_grad()
    def put_back(self) -> None:
        for weights, index, values in reversed(self.parts):
            weights[index] = values


@dataclass
class _Open:
    """What is being edited in one model."""

    thread: int
    n_edits: int = 0
    changes: list[_Saved] = field(default_factory=list)  # the innermost last


_open: WeakKeyDictionary[nn.Module, _Open] = WeakKeyDictionary()
_passes: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()  # a model's, held by the thread that runs it
_lock = RLock()  # of the two above


@contextmanager
def one_pass(model: nn.Module) -> Iterator[None]:
    """Within the block, passes of the model in other threads wait: the hooks of one would read the other's.

    Raises:
        RuntimeError: another thread is editing the model, which this pass would see.
    """
    with _lock:
        own = _passes.setdefault(model, RLock())
    with own:
        _check_thread(_open.get(model))
        yield


@contextmanager
def one_thread(model: nn.Module) -> Iterator[_Open]:
    """Within the block, other threads can neither edit nor run the model: they would see this thread's edits.

    Raises:
        RuntimeError: another thread is editing it.
    """
    with one_pass(model), _lock:
        there = _open.setdefault(model, _Open(get_ident()))
        there.n_edits += 1
    try:
        yield there
    finally:
        with _lock:
            there.n_edits -= 1
            if not there.n_edits:
                _open.pop(model, None)


def is_edited(model: nn.Module) -> bool:
    """Whether an edit of the model is open."""
    return model in _open


def _check_thread(there: _Open | None) -> None:
    if there is not None and there.thread != get_ident():
        raise RuntimeError("another thread is editing this model: let it finish, or load the model once per thread")


@contextmanager
def changed_weights(model: nn.Module, changes: Sequence[Change]) -> Iterator[None]:
    """Within the block, parts of the weights have other values. Parts may overlap; the last value counts.

    Raises:
        ValueError: a new value is NaN or infinite.
        RuntimeError: another thread is editing the model, or changes are left in the wrong order, which undoes all.
    """
    for change in changes:
        if not torch.as_tensor(change.values).isfinite().all():
            raise ValueError(
                "this edit would write weights that are not finite: choose smaller lambdas, or load weights that are "
                "not damaged"
            )
    with one_thread(model) as there:
        saved = _Saved([Change(weights, index, weights[index].clone()) for weights, index, _ in changes])
        there.changes.append(saved)
        try:
            with torch.no_grad():
                for weights, index, values in changes:
                    weights[index] = values
            yield
        finally:
            _leave(there.changes, saved)


def _leave(changes: list[_Saved], saved: _Saved) -> None:
    """Put back what the innermost change has overwritten; if that is another than `saved`, what all of them have."""
    if changes and changes[-1] is saved:
        saved.put_back()
        changes.pop()
        return
    is_first_to_leave = saved in changes
    while is_first_to_leave and changes:
        changes.pop().put_back()
    raise RuntimeError(
        "edits of one model were left in another order than nested ones, so all of them have been undone: leave the "
        "one that began last first, as nested `with` blocks do"
    )

"""An attention function of our own in transformers' registry: the usual one, whose keys and values can be replaced.

With it a layer runs for one token of a prompt only, and still attends to all of them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

NAME = "kn_utils"

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # keys and values, (rows, heads, tokens, head size) each

_change: ContextVar[Change | None] = ContextVar("change_of_keys_and_values", default=None)


def install(model: PreTrainedModel) -> bool:
    """Let the model attend through `attend`, where transformers can do so; whether it does now."""
    verbosity = logging.get_verbosity()
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
        from transformers.masking_utils import sdpa_mask

        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        logging.set_verbosity_error()  # it warns of models that attend in their own way
        model.set_attn_implementation(NAME)
    except Exception:  # whatever another version may do
        return False
    finally:
        logging.set_verbosity(verbosity)
    return is_installed(model)


def is_installed(model: PreTrainedModel) -> bool:
    return implementation(model) == NAME


def remove(model: PreTrainedModel, before: str | None = None) -> None:
    """Let the model attend as it did `before`, if it attends through `attend`."""
    if is_installed(model):
        model.set_attn_implementation(before or "sdpa")


def implementation(model: PreTrainedModel) -> str | None:
    """The name of the model's attention function in the registry."""
    return getattr(model.config, "_attn_implementation", None)


def attend(module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options):
    """Scaled dot-product attention, as the registry's "sdpa", over the keys and values that `changed` says."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if (change := _change.get()) is not None:
        key, value = change(key, value)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


@contextmanager
def changed(change: Change) -> Iterator[None]:
    """Within the block, every layer attends to `change(keys, values)`."""
    token = _change.set(change)
    try:
        yield
    finally:
        _change.reset(token)

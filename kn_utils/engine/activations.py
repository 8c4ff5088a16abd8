"""Reading and changing the activations of one token per prompt, with hooks."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import signature
from threading import get_ident

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from ..models import LanguageModel
from .weights import one_pass, one_thread

Edit = Callable[[int, Tensor], Tensor | None]


@dataclass
class Progress:
    """How far a forward pass is."""

    position: Tensor | None  # (rows,) the token of each row where the model answers; None: it does not answer
    layer: int = -1  # that runs, or has run


# The pass that the engine itself is running; None where somebody else calls the model.
_engine_pass: ContextVar[Progress | None] = ContextVar("engine_pass", default=None)


@contextmanager
def engine_pass(lm: LanguageModel, position: Tensor | None) -> Iterator[Progress]:
    """Within the block, the model runs once, or its layers are called one by one, and the answers are at `position`."""
    if lm.model.training:
        raise RuntimeError("the model is in training mode, where dropout makes every answer another: call model.eval()")
    progress = Progress(position)
    with one_pass(lm.model):
        token = _engine_pass.set(progress)
        try:
            with _counted_layers(lm, lambda: progress):
                yield progress
        finally:
            _engine_pass.reset(token)


@contextmanager
def edit_activations(lm: LanguageModel, edit: Edit) -> Iterator[None]:
    """Within the block, each layer's FFN activations where the model answers become `edit(layer, activations)`.

    They have shape (prompts, neurons); `edit` returns new ones, or changes them in place and returns None. Reading is
    editing that changes nothing. Every forward pass of `lm.model` is affected, and nothing remains afterwards.

    A masked model answers at its mask, a causal model after the last token that is not padding, a seq2seq model after
    the decoder's last token. Within `generate`, with its cache, each new token is answered, and edited, in its turn.

    Raises:
        ValueError: a forward pass within the block that does not tell where the model answers: a text without a mask
            or with several, embeddings in place of a masked model's tokens, a part of the model called on its own; or
            `edit` returns another shape.
        RuntimeError: another thread is editing this model.

    Example:
        >>> seen = {}
        >>> def look(layer, activations):
        ...     seen[layer] = activations.shape
        >>> with kn.edit_activations(lm, look):
        ...     answers = kn.top_answers(lm, fact.prompts[0])
        >>> seen[3]  # the last layer's, (prompts, neurons)
        torch.Size([1, 512])
    """
    own = Progress(None)  # of a pass that somebody else runs

    def progress() -> Progress:
        return _engine_pass.get() or own

    thread, before = get_ident(), None  # the tokens that the last pass read

    def start(module, args, kwargs):
        nonlocal before
        if _engine_pass.get() is not None:
            return
        if get_ident() != thread:
            raise RuntimeError("another thread is editing this model: let it finish, or load the model once per thread")
        named = named_arguments(module, args, kwargs)
        own.position, own.layer = answer_position(lm, named), -1
        if named.get("use_cache") is False and is_continued(before, named.get("input_ids")):
            raise ValueError("generate without a cache reads earlier answers again, unedited: pass use_cache=True")
        before = named.get("input_ids")

    def stop(module, args, output):
        own.position = None

    def change(module, args):
        running = progress()
        if running.position is None:
            if running is own:
                raise ValueError("a part of the model was called inside an edit: call lm.model, which tells the tokens")
            return None  # the tokens before the answer
        w = at(args[0], running.position).clone()
        edited = edit(running.layer, w)
        edited = w if edited is None else edited
        if not isinstance(edited, Tensor) or edited.is_complex():
            raise TypeError(f"an edit returned {type(edited).__name__}: return a tensor of real numbers, or None")
        if edited.shape != w.shape:
            raise ValueError(f"an edit returned {tuple(edited.shape)}: return {tuple(w.shape)}, (prompts, neurons)")
        return (write_at(args[0].clone(), running.position, edited.to(w.dtype)), *args[1:])

    with ExitStack() as hooks:
        hooks.enter_context(one_thread(lm.model))
        hooks.enter_context(lm.model.register_forward_pre_hook(start, with_kwargs=True))
        hooks.enter_context(lm.model.register_forward_hook(stop, always_call=True))
        hooks.enter_context(_counted_layers(lm, lambda: own if _engine_pass.get() is None else None))
        for module in set(lm.down_projections):
            hooks.enter_context(module.register_forward_pre_hook(change))
        yield


def named_arguments(model: PreTrainedModel, args: tuple, kwargs: dict) -> dict:
    """What a model is called with, by the names of its forward method."""
    try:
        return kwargs | signature(model.forward).bind_partial(*args, **kwargs).arguments
    except TypeError:  # the model itself will say what is wrong
        return kwargs


def is_continued(before: Tensor | None, ids: Tensor | None) -> bool:
    """Whether a pass reads the texts of the pass before it, and one token more."""
    if before is None or ids is None or ids.shape != (before.shape[0], before.shape[1] + 1):
        return False
    return torch.equal(ids[:, :-1], before)


def answer_position(lm: LanguageModel, named: dict) -> Tensor:
    """Where the model answers, of inputs that do not come from this library.  # (prompts,)"""
    if lm.kind == "masked":
        return _mask_position(lm, named.get("input_ids"))
    prefix = "decoder_" if lm.kind == "seq2seq" else ""
    ids, embeddings = (named.get(f"{prefix}{name}") for name in ("input_ids", "inputs_embeds"))
    read = embeddings if ids is None else ids
    if read is None:
        raise ValueError(f"a pass inside an edit has no {prefix}input_ids: pass them, they tell where it answers")
    n_rows, n_tokens = read.shape[:2]
    if n_tokens > 1 and any(isinstance(v, Cache) and v.get_seq_length() > 0 for v in named.values()):
        raise ValueError("a pass inside an edit reads several tokens after a cache: pass them one by one")
    mask = named.get(f"{prefix}attention_mask")
    if mask is None:
        return torch.full((n_rows,), n_tokens - 1, device=read.device)
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        raise ValueError("a pass inside an edit has an attention mask of its own form: pass one of (prompts, tokens)")
    is_text = mask[:, -n_tokens:] != 0  # with a cache, only the newest token is read
    if not is_text.any(1).all():
        raise ValueError("a pass inside an edit reads padding only in one of its rows: leave this row out")
    return n_tokens - 1 - is_text.flip(1).int().argmax(1)


def _mask_position(lm: LanguageModel, ids: Tensor | None) -> Tensor:
    """Where the mask of each text is.  # (prompts,)"""
    if ids is None:
        raise ValueError("a masked model inside an edit needs input_ids: embeddings do not tell where the mask is")
    is_mask = ids == lm.tokenizer.mask_token_id
    if (wrong := (is_mask.sum(1) != 1).nonzero()).numel():
        row = int(wrong[0])
        raise ValueError(
            f"text {row} of a pass inside an edit has {int(is_mask[row].sum())} masks: give each text exactly one"
        )
    return is_mask.int().argmax(1)


@contextmanager
def _counted_layers(lm: LanguageModel, progress: Callable[[], Progress | None]) -> Iterator[None]:
    """Within the block, each layer that starts is counted: one module may be several layers."""

    def count(module, args):
        if (running := progress()) is not None:
            running.layer += 1

    with ExitStack() as hooks:
        for module in set(lm.layers):
            hooks.enter_context(module.register_forward_pre_hook(count, prepend=True))
        yield


def at(states: Tensor, position: Tensor) -> Tensor:
    """(prompts, tokens, n) -> (prompts, n), one token of each prompt; some FFNs flatten it to (prompts * tokens, n)."""
    by_prompt = states.view(len(position), -1, states.shape[-1])
    if by_prompt.shape[1] == 1:  # only this token runs
        return by_prompt[:, 0]
    return by_prompt[torch.arange(len(position), device=position.device), position]


def write_at(states: Tensor, position: Tensor, values: Tensor) -> Tensor:
    """Put `values` (prompts, n) into `states` at one token of each prompt, in place."""
    by_prompt = states.view(len(position), -1, states.shape[-1])
    token = position.clamp(max=by_prompt.shape[1] - 1)
    by_prompt[torch.arange(len(position), device=position.device), token] = values
    return states

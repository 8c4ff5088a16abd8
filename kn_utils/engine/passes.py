"""Forward passes that are asked at one token per prompt, and run again from any FFN on.

What the FFN of a layer writes where the model answers is linear in its neurons: `z = b + w W2`. Scaling w, or losing
one neuron, only changes z. So many copies of a prompt that differ in z share everything below: the layers before are
not run again, nor this layer's attention, and the down projection itself is needed once instead of once per copy. In a
causal model they share the tokens before the last, too, in all layers.

Each function here has a plain path, whole passes of the model with hooks, in `whole_passes.py`. It is the reference
for the tests, and does the work where the fast path cannot.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from inspect import signature

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ..models import LanguageModel
from . import attention, whole_passes
from .activations import Progress, at, edit_activations, engine_pass, write_at
from .cached_run import Recorder, Run, hidden_states
from .measures import log_odds
from .weights import one_pass


def answer_logits(lm: LanguageModel, inputs: dict[str, Tensor], position: Tensor) -> Tensor:
    """Logits over the vocabulary where the model answers; the head runs there only.  # (prompts, vocabulary)"""
    with engine_pass(lm, position) as progress, lm.autocast(), ExitStack() as shortcut:
        if _is_fast(lm, inputs):
            shortcut.enter_context(_answer_row_only(lm, progress))
        return whole_passes.logits_at(lm, inputs, progress)


def run_with_cache(lm: LanguageModel, inputs: dict[str, Tensor], position: Tensor, target: Tensor | None = None) -> Run:
    """Run the model once and keep what `rerun_from` and the attribution need.

    Args:
        target: the answers (prompts,), for the gradients of their log-odds; they cost a backward pass.
    """
    shifts = torch.zeros(len(position), lm.n_layers, lm.hidden_size, device=lm.device, dtype=lm.dtype)
    shifts.requires_grad_(target is not None)
    recorder = Recorder(lm, position, shifts if target is not None else None)
    fast = _is_fast(lm, inputs)
    with lm.autocast(), torch.set_grad_enabled(target is not None), ExitStack() as hooks:
        newest = _read_tokens_before(lm, inputs) if fast else inputs
        progress = hooks.enter_context(engine_pass(lm, position))
        hooks.enter_context(recorder.recorded(progress))
        if fast:
            hooks.enter_context(_answer_row_only(lm, progress))
        logits = whole_passes.logits_at(lm, newest, progress)
        slopes = None if target is None else torch.autograd.grad(log_odds(logits, target).sum(), shifts)[0]
    w, z = (torch.stack(states, 1).detach() for states in (recorder.activations, recorder.written))
    return Run(inputs, position, w, z, logits.detach(), slopes, recorder.layers() if fast else None)


def rerun_from(
    lm: LanguageModel,
    run: Run,
    written: dict[int, Tensor],
    of: dict[int, Tensor] | None = None,
    later_layers: bool = True,
) -> dict[int, Tensor]:
    """The logits where the model answers if the FFN of a layer wrote z there; gradients reach z.

    Copies that begin at different layers travel together from where they meet.

    Args:
        written: layer -> z (copies, prompts, hidden), some variants for prompts of the run.
        of: layer -> which prompts these are, (prompts,); by default all.
        later_layers: False leaves them out: the head reads this layer's output, as in the logit lens.

    Returns:
        layer -> (copies, prompts, vocabulary).
    """
    everyone = torch.arange(len(run.position), device=lm.device)
    owner = {layer: (everyone if of is None else of[layer]).repeat(len(z)) for layer, z in sorted(written.items())}
    rows = {layer: written[layer].flatten(0, 1) for layer in owner}
    with lm.autocast():
        if run.layers is None:
            parts = [whole_passes.logits_if_written(lm, run, n, z, owner[n], later_layers) for n, z in rows.items()]
        elif later_layers:
            parts = _run_later_layers(lm, run, rows, owner).split([len(z) for z in rows.values()])
        else:
            with engine_pass(lm, None):
                parts = [_head(lm, _row(lm, run, layer, z, owner[layer])) for layer, z in rows.items()]
    return {n: part.to(lm.dtype).unflatten(0, written[n].shape[:2]) for n, part in zip(rows, parts, strict=True)}


@torch.no_grad()
def scaled_logits(lm: LanguageModel, run: Run, factors: Tensor) -> Tensor:
    """The logits where the model answers if the activations there are multiplied; layers below the change do not run.

    Args:
        factors: (copies, prompts, layers, neurons), for the prompts of the run.

    Returns:
        (copies, prompts, vocabulary).
    """
    changed = (factors != 1).any(3)
    lowest = torch.where(changed.any(2), changed.int().argmax(2), lm.n_layers)  # (copies, prompts)
    where = {layer: (lowest == layer).nonzero(as_tuple=True) for layer in range(lm.n_layers) if (lowest == layer).any()}
    logits = run.logits.repeat(len(factors), 1, 1)
    if not where:
        return logits
    travelling = torch.cat([factors[copy, prompt] for copy, prompt in where.values()])
    if run.layers is None:
        copy, prompt = (torch.cat(numbers) for numbers in zip(*where.values(), strict=True))
        with one_pass(lm.model), edit_activations(lm, lambda layer, w: w * travelling[:, layer]):
            inputs = {name: tensor[prompt] for name, tensor in run.inputs.items()}
            logits[copy, prompt] = answer_logits(lm, inputs, run.position[prompt])
        return logits
    written = {}
    for layer, (copy, prompt) in where.items():
        change = (factors[copy, prompt, layer] - 1) * run.activations[prompt, layer]
        written[layer] = (run.written[prompt, layer] + change @ lm.value_slots(layer).T)[None]
    with one_pass(lm.model), edit_activations(lm, lambda layer, w: w * travelling[: len(w), layer]):
        found = rerun_from(lm, run, written, {layer: prompt for layer, (_, prompt) in where.items()})
    for layer, copy_and_prompt in where.items():
        logits[copy_and_prompt] = found[layer][0]
    return logits


# ---------------------------------------------------------------- the fast path

def _is_fast(lm: LanguageModel, inputs: dict[str, Tensor]) -> bool:
    """Whether these inputs may take the fast path: prompts of one length, and the model's attention is still ours."""
    return lm.fast and "attention_mask" not in inputs and (lm.kind == "masked" or attention.is_installed(lm.model))


def _read_tokens_before(lm: LanguageModel, inputs: dict[str, Tensor]) -> dict:
    """Let a causal model read all tokens but the last; what is left to run. A masked model runs whole."""
    ids = inputs["input_ids"]
    if lm.kind != "causal" or ids.shape[1] == 1:
        return inputs
    before = {_cache_argument(lm.model): DynamicCache()}
    with torch.no_grad(), engine_pass(lm, None):
        lm.model.base_model(input_ids=ids[:, :-1], use_cache=True, **before)
    return {"input_ids": ids[:, -1:], "use_cache": True, **before}


def _cache_argument(model: PreTrainedModel) -> str:
    """By which name a model takes a cache: "past_key_values" is on its way out since transformers 5.24."""
    return "cache" if "cache" in signature(model.forward).parameters else "past_key_values"


@contextmanager
def _answer_row_only(lm: LanguageModel, progress: Progress) -> Iterator[None]:
    """Within the block, the last layer of a masked model computes the answer's row only, and attends to all tokens."""
    last = lm.n_layers - 1
    maps = lm.key_and_value_maps(last)
    if lm.kind != "masked" or maps is None or not attention.is_installed(lm.model):
        yield
        return
    tokens = None  # what the last layer would read, (prompts, tokens, hidden)

    def keep_row(module, args, kwargs):
        nonlocal tokens
        if progress.layer == last:
            tokens = args[0]
            return (at(tokens, progress.position)[:, None], *args[1:]), kwargs

    def of_all_tokens(key, value):
        if progress.layer < last:
            return key, value
        size = key.shape[-1]
        return tuple(to(tokens).unflatten(2, (-1, size)).transpose(1, 2) for to in maps)

    hook = lm.layers[last].register_forward_pre_hook(keep_row, with_kwargs=True)
    with hook, attention.changed(of_all_tokens):
        yield


def _run_later_layers(lm: LanguageModel, run: Run, written: dict[int, Tensor], owner: dict[int, Tensor]) -> Tensor:
    """The logits of all rows, those of lower layers first.

    Args:
        written: layer -> z (rows, hidden).
        owner: layer -> which prompts of the run these are, (rows,).
    """
    first, rows = min(written), torch.empty(0, dtype=torch.long, device=lm.device)
    hidden = None

    def with_tokens_before(key, value):
        layer = run.layers[progress.layer]
        return torch.cat([layer.keys[rows], key], 2), torch.cat([layer.values[rows], value], 2)

    with engine_pass(lm, None) as progress, _answer_row_only(lm, progress), ExitStack() as hooks:
        if lm.kind == "causal":
            hooks.enter_context(attention.changed(with_tokens_before))
        for layer in range(first, lm.n_layers):
            progress.position, progress.layer = run.position[rows], layer - 1  # the call below counts one
            if hidden is not None:
                args, kwargs = run.layers[layer].called_with
                hidden = hidden_states(lm.layers[layer](hidden, *args, **kwargs))
            if hidden is not None and layer == lm.n_layers - 1:
                hidden = at(hidden, run.position[rows])[:, None]
            if layer in written:
                own = _row(lm, run, layer, written[layer], owner[layer])
                if layer < lm.n_layers - 1:
                    before = run.layers[layer].output[owner[layer]]
                    own = write_at(before, run.position[owner[layer]], own[:, 0].to(before.dtype))
                hidden = own if hidden is None else torch.cat([hidden, own])
                rows = torch.cat([rows, owner[layer]])
        return _head(lm, hidden)


def _row(lm: LanguageModel, run: Run, layer: int, z: Tensor, owner: Tensor) -> Tensor:
    """What a layer gives where the model answers if its FFN writes z (rows, hidden) there.  # (rows, 1, hidden)"""
    row = run.layers[layer].residual[owner] + z
    norm = lm.norm(layer)
    return (row if norm is None else norm(row))[:, None]


def _head(lm: LanguageModel, hidden: Tensor) -> Tensor:
    """The logits of the last layer's output, (rows, 1, hidden) -> (rows, vocabulary)."""
    for module in lm.head:
        hidden = module(hidden)
    return hidden[:, 0].to(lm.dtype)

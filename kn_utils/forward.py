"""Forward passes: asked at one position, edited on the way, and taken up again after any FFN.

What the FFN of a layer writes at the position is linear in its neurons: `z = b + w W2`. Scaling w, or losing one
neuron, only changes z. So many copies of a prompt that differ in z share everything below: the layers before are not
run again, nor this layer's attention, and the down projection itself is needed once instead of once per copy.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from .models import LanguageModel

Edit = Callable[[int, Tensor], Tensor]

_asked_position: ContextVar[Tensor | None] = ContextVar("asked_position", default=None)


@contextmanager
def edit_activations(lm: LanguageModel, edit: Edit) -> Iterator[None]:
    """Within the block, each layer's FFN activations at the mask become `edit(layer, activations)`.

    They have shape (prompts, neurons). Reading is editing by the identity. A causal model has no mask: there it is
    the last token. Every forward pass of `lm.model` is affected, and nothing remains afterwards.

    >>> with edit_activations(lm, lambda layer, w: 0 * w):   # switch off every neuron at the mask
    ...     answer_probability(lm, ["The capital of Ireland is [MASK]."], "Dublin")
    """
    position = n_tokens = None  # (prompts,) of the forward pass that is running, and the length of its prompts

    def find_position(module, args, kwargs):
        nonlocal position, n_tokens
        inputs = kwargs if "input_ids" in kwargs else {"input_ids": args[0], **kwargs}
        position = _answer_position(lm, inputs) if _asked_position.get() is None else _asked_position.get()
        n_tokens = inputs["decoder_input_ids" if lm.kind == "seq2seq" else "input_ids"].shape[1]

    def edit_at_position(module, args):
        activations = args[0]
        n_prompts = len(activations) // (n_tokens if activations.dim() == 2 else 1)
        own = position[:n_prompts]  # where a pass is resumed, a layer may have the first of the copies only
        at_position = _at(activations, own)
        edited = edit(running(), at_position)
        if edited is at_position:
            return None  # read only
        return _write_at(activations.clone(), own, edited.to(activations.dtype))

    with ExitStack() as hooks:
        hooks.enter_context(lm.model.register_forward_pre_hook(find_position, with_kwargs=True))
        running = hooks.enter_context(_running_layer(lm))
        for module in set(lm.down_projections):
            hooks.enter_context(module.register_forward_pre_hook(edit_at_position))
        yield


def answer_logits(lm: LanguageModel, inputs: dict[str, Tensor], position: Tensor) -> Tensor:
    """Logits over the vocabulary where the model answers; the head runs there only.  # (prompts, vocabulary)"""

    def after_last_layer(module, args, output):
        if running() == lm.n_layers - 1:
            return _with_hidden(output, _at(_hidden(output), position)[:, None])

    def before_head(module, args):  # (prompts, tokens, hidden) -> (prompts, 1, hidden)
        return _at(args[0], position)[:, None]

    asked = _asked_position.set(position)
    try:
        with _running_layer(lm) as running, lm.arithmetic():
            if lm.kind == "masked":  # its head begins with a layer of its own
                with lm.layers[-1].register_forward_hook(after_last_layer):
                    logits = lm.model(**inputs).logits
            else:
                with lm.model.get_output_embeddings().register_forward_pre_hook(before_head):
                    logits = lm.model(**inputs, use_cache=False).logits
        return logits[:, 0].to(lm.dtype)
    finally:
        _asked_position.reset(asked)


def log_odds(logits: Tensor, target: Tensor) -> Tensor:
    """log(P / (1 - P)) of each row's target token, exact also where P is close to 0 or 1.  # (rows,)

    P is its sigmoid, log P its log-sigmoid.
    """
    others = logits.scatter(1, target[:, None], -torch.inf)
    return logits.gather(1, target[:, None])[:, 0] - others.logsumexp(1)


class Pass(NamedTuple):
    """What a forward pass of some prompts leaves behind."""

    inputs: dict[str, Tensor]  # each (prompts, tokens)
    position: Tensor  # (prompts,) where the model answers
    calls: list[tuple[tuple, dict]]  # how each layer was called
    outputs: list  # what it returned
    activations: Tensor  # w at the position, (prompts, layers, neurons)
    written: Tensor  # z, what each FFN writes there, (prompts, layers, hidden)
    logits: Tensor  # there, (prompts, vocabulary)
    slopes: Tensor | None  # how the answers' log-odds change with z, (prompts, layers, hidden), if they were asked for
    flat: bool  # the FFN sees prompts and tokens in one dimension

    def part(self, rows: Tensor) -> "Pass":
        """The pass of some of the prompts."""
        return Pass(*_map_rows(lambda t: t[rows], tuple(self), len(self.position)))


def remember(
    lm: LanguageModel, inputs: dict[str, Tensor], position: Tensor, target: Tensor | None = None
) -> Pass:
    """Run the model once and keep what `resume` and the attribution need.

    Args:
        target: the answers (prompts,), for the gradients of their log-odds; they cost a backward pass.
    """
    calls, outputs, activations, written, flat = [], [], [], [], False
    shifts = torch.zeros(len(position), lm.n_layers, lm.hidden_size, device=lm.device, dtype=lm.dtype)
    shifts.requires_grad_(target is not None)

    def keep_call(module, args, kwargs):
        calls.append((args, kwargs))

    def keep_output(module, args, output):
        outputs.append(output)

    def keep_activations(module, args, output):
        nonlocal flat
        flat = output.dim() == 2
        z = _at(output, position).to(lm.dtype) + shifts[:, len(written)]
        activations.append(_at(args[0], position).to(lm.dtype))
        written.append(z)
        return None if target is None else _write_at(output.to(lm.dtype, copy=True), position, z)

    with ExitStack() as hooks:
        for layer in set(lm.layers):
            hooks.enter_context(layer.register_forward_pre_hook(keep_call, with_kwargs=True))
            hooks.enter_context(layer.register_forward_hook(keep_output))
        for down_projection in set(lm.down_projections):
            hooks.enter_context(down_projection.register_forward_hook(keep_activations))
        hooks.enter_context(torch.set_grad_enabled(target is not None))
        logits = answer_logits(lm, inputs, position)
    slopes = None
    if target is not None:
        with lm.arithmetic():
            (slopes,) = torch.autograd.grad(log_odds(logits, target).sum(), shifts)
    at_position = (torch.stack(states, 1) for states in (activations, written))
    seen = (inputs, position, calls, outputs, *at_position, logits, slopes, flat)
    return Pass(*_map_rows(Tensor.detach, seen, len(position)))


def resume(
    lm: LanguageModel, past: Pass, written: dict[int, Tensor], later_layers: bool = True
) -> dict[int, Tensor]:
    """The logits where the model answers if the FFN of a layer wrote z there; gradients reach z.

    Copies that begin at different layers travel together from where they meet.

    Args:
        written: layer -> z (copies, prompts, hidden), some variants for every prompt of the remembered pass.
        later_layers: False leaves them out: the head reads this layer's output, as in the logit lens.

    Returns:
        layer -> (copies, prompts, vocabulary).
    """
    n_prompts, n_copies = len(past.position), [len(written[layer]) for layer in sorted(written)]
    position = past.position.repeat(sum(n_copies))
    one_row = lm.attention is not None and "attention_mask" not in past.inputs  # the last layer is needed there only

    def take_up(forward, layer):
        z = written[layer]
        own = past.position.repeat(len(z))

        def write(module, args, output):
            if past.flat:
                return _write_at(output.to(z.dtype, copy=True), own, z.flatten(0, 1))
            copies = _write_at(output.to(z.dtype).repeat(len(z), 1, 1), own, z.flatten(0, 1))
            return copies.unflatten(0, z.shape[:2])  # (copies, prompts, tokens, hidden)

        call = _map_rows(lambda t: t.repeat(len(z), *[1] * (t.dim() - 1)), past.calls[layer], n_prompts)
        args, kwargs = call if past.flat else past.calls[layer]
        with lm.down_projections[layer].register_forward_hook(write):
            hidden = _hidden(forward(*args, **kwargs))  # after an FFN all is element by element: copies broadcast
        return hidden if past.flat else hidden.flatten(0, 1)

    def go_on(forward, layer, args, kwargs):
        args, kwargs = _map_rows(lambda t: t[: len(args[0])], (args, kwargs), len(position))
        if not later_layers:
            return args[0]
        if one_row and layer == lm.n_layers - 1:
            return forward(_at(args[0], position[: len(args[0])])[:, None], past_key_values=_Tokens(lm, args[0]))
        return _hidden(forward(*args, **kwargs))

    def run(forward):
        def instead(*args, **kwargs):
            layer = running()
            if layer < min(written):
                return past.outputs[layer]
            parts = [go_on(forward, layer, args, kwargs)] if layer > min(written) else []
            if layer in written:
                parts.append(take_up(forward, layer))
            if len({part.shape[1] for part in parts}) > 1:
                parts[1] = _at(parts[1], position[: len(parts[1])])[:, None]
            return _with_hidden(past.outputs[layer], torch.cat(parts))

        return instead

    inputs = {name: tensor.repeat(sum(n_copies), 1) for name, tensor in past.inputs.items()}
    with _running_layer(lm) as running, _forward_replaced(lm, run):
        logits = answer_logits(lm, inputs, position).unflatten(0, (sum(n_copies), n_prompts))
    return dict(zip(sorted(written), logits.split(n_copies), strict=True))


class _Tokens:
    """The keys and values of a whole prompt, for a layer that runs at one position: where it expects a cache."""

    def __init__(self, lm: LanguageModel, hidden: Tensor):
        def by_head(states):  # (prompts, tokens, hidden) -> (prompts, heads, tokens, head size)
            return states.unflatten(2, (-1, lm.attention.attention_head_size)).transpose(1, 2)

        self.keys, self.values = by_head(lm.attention.key(hidden)), by_head(lm.attention.value(hidden))

    def update(self, keys, values, layer):
        return self.keys, self.values


@contextmanager
def _running_layer(lm: LanguageModel) -> Iterator[Callable[[], int]]:
    """Within the block, a function that tells which layer is running: a shared module is several layers."""
    layer = -1

    def start(module, args, kwargs):
        nonlocal layer
        layer = -1

    def count(module, args, kwargs):
        nonlocal layer
        layer += 1

    with ExitStack() as hooks:
        hooks.enter_context(lm.model.register_forward_pre_hook(start, with_kwargs=True))
        for module in set(lm.layers):
            hooks.enter_context(module.register_forward_pre_hook(count, with_kwargs=True, prepend=True))
        yield lambda: layer


@contextmanager
def _forward_replaced(lm: LanguageModel, run: Callable) -> Iterator[None]:
    """Within the block, each layer runs `run(forward)` in place of its `forward`."""
    own = {module: vars(module).get("forward") for module in lm.layers}  # where other libraries have replaced it
    try:
        for module in own:
            module.forward = run(module.forward)
        yield
    finally:
        for module, forward in own.items():
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward


def _answer_position(lm: LanguageModel, inputs: dict[str, Tensor]) -> Tensor:
    """Where the model answers, of inputs that do not come from this library.  # (prompts,)"""
    ids = inputs["decoder_input_ids" if lm.kind == "seq2seq" else "input_ids"]
    if lm.kind == "masked":
        return (ids == lm.tokenizer.mask_token_id).int().argmax(1)
    if lm.kind == "causal" and inputs.get("attention_mask") is not None:
        return inputs["attention_mask"].sum(1) - 1
    return torch.full((len(ids),), ids.shape[1] - 1, device=ids.device)


def _hidden(output) -> Tensor:
    """The hidden states among what a layer returns."""
    return output[0] if isinstance(output, tuple) else output


def _with_hidden(output, hidden: Tensor):
    """What a layer returns, with other hidden states."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def _at(states: Tensor, position: Tensor) -> Tensor:
    """(prompts, tokens, n) -> (prompts, n), one token of each prompt; OPT's FFN has (prompts * tokens, n)."""
    by_prompt = states.view(len(position), -1, states.shape[-1])
    if by_prompt.shape[1] == 1:  # it runs at the position only
        return by_prompt[:, 0]
    return by_prompt[torch.arange(len(position), device=position.device), position]


def _write_at(states: Tensor, position: Tensor, values: Tensor) -> Tensor:
    """Put `values` (prompts, n) into `states` at one token of each prompt."""
    by_prompt = states.view(len(position), -1, states.shape[-1])
    token = position.clamp(max=by_prompt.shape[1] - 1)
    by_prompt[torch.arange(len(position), device=position.device), token] = values
    return states


def _map_rows(change: Callable[[Tensor], Tensor], value, n_rows: int):
    """What a layer was called with, each tensor that has `n_rows` changed."""
    if isinstance(value, Tensor):
        return change(value) if value.dim() and len(value) == n_rows else value
    if isinstance(value, (tuple, list)):
        return type(value)(_map_rows(change, entry, n_rows) for entry in value)
    if isinstance(value, dict):
        return {name: _map_rows(change, entry, n_rows) for name, entry in value.items()}
    return value

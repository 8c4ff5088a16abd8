"""Forward passes: asked at one position, edited on the way, and taken up again after any FFN.

What the FFN of a layer writes at the position is linear in its neurons: `z = b + w W2`. Scaling w, or losing one
neuron, only changes z. So many copies of a prompt that differ in z share everything below: the layers before are not
run again, nor this layer's attention, and the down projection itself is needed once instead of once per copy. In a
causal model they share the tokens before the last, too, in all layers.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from .models import LanguageModel

Edit = Callable[[int, Tensor], Tensor]
Run = Callable[..., object]  # run(layer, forward, hidden, ...) -> what the layer returns

MAPS = ("query", "key", "value")

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


def answer_logits(lm: LanguageModel, inputs: dict[str, Tensor], position: Tensor, run: Run | None = None) -> Tensor:
    """Logits over the vocabulary where the model answers; the head runs there only.  # (prompts, vocabulary)

    Args:
        run: what each layer does in place of its forward pass.
    """

    def before_head(module, args):  # (prompts, tokens, hidden) -> (prompts, 1, hidden)
        return _at(args[0], position)[:, None]

    asked = _asked_position.set(position)
    try:
        with _layers_run(lm, run or _plainly(lm, position, all_tokens=True)), lm.arithmetic():
            if lm.kind == "masked":  # its last layer has left the position only
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
    before: DynamicCache | None  # keys and values of a causal model's tokens before the last; the last is the input
    outputs: list  # what each layer returned
    maps: list[dict[str, Tensor]]  # its queries, keys and values, where they are known, each (prompts, tokens, hidden)
    activations: Tensor  # w at the position, (prompts, layers, neurons)
    written: Tensor  # z, what each FFN writes there, (prompts, layers, hidden)
    residual: Tensor  # what z is added to, (prompts, layers, hidden)
    logits: Tensor  # there, (prompts, vocabulary)
    slopes: Tensor | None  # how the answers' log-odds change with z, (prompts, layers, hidden), if they were asked for

    @property
    def n_tokens(self) -> int:
        """Of each prompt, those of the decoder included."""
        n_before = 0 if self.before is None else self.before.get_seq_length()
        return n_before + sum(ids.shape[1] for name, ids in self.inputs.items() if name.endswith("input_ids"))


def remember(lm: LanguageModel, inputs: dict[str, Tensor], position: Tensor, target: Tensor | None = None) -> Pass:
    """Run the model once and keep what `resume` and the attribution need.

    Args:
        target: the answers (prompts,), for the gradients of their log-odds; they cost a backward pass.
    """
    inputs, before = _read_before(lm, inputs, position)
    outputs, maps, activations, written, residual = [], [], [], [], []
    shifts = torch.zeros(len(position), lm.n_layers, lm.hidden_size, device=lm.device, dtype=lm.dtype)
    shifts.requires_grad_(target is not None)
    plainly = _plainly(lm, position, all_tokens="attention_mask" in inputs)

    def run(layer, forward, hidden, *args, **kwargs):
        maps.append({})
        outputs.append(plainly(layer, forward, hidden, *args, **kwargs))
        if lm.norm(layer) is None:
            residual.append(_at(_hidden(outputs[-1]), position) - written[-1])
        return outputs[-1]

    def keep_activations(module, args, output):
        z = _at(output, position).to(lm.dtype) + shifts[:, len(written)]
        activations.append(_at(args[0], position).to(lm.dtype))
        written.append(z)
        return None if target is None else _write_at(output.to(lm.dtype, copy=True), position, z)

    def keep_residual(module, args):
        residual.append(_at(args[0], position) - written[-1])

    def keep_map(name):
        def keep(module, args, output):
            maps[-1].setdefault(name, output)  # a layer that runs at one position has mapped all tokens before

        return keep

    with ExitStack() as hooks:
        for down_projection in set(lm.down_projections):
            hooks.enter_context(down_projection.register_forward_hook(keep_activations))
        for norm in {lm.norm(layer) for layer in range(lm.n_layers)} - {None}:
            hooks.enter_context(norm.register_forward_pre_hook(keep_residual))
        for attention in {lm.attention(layer) for layer in range(lm.n_layers)} - {None}:
            for name in MAPS:
                hooks.enter_context(getattr(attention, name).register_forward_hook(keep_map(name)))
        hooks.enter_context(torch.set_grad_enabled(target is not None))
        everyone = torch.arange(len(position), device=position.device)
        logits = answer_logits(lm, _after(before, inputs, everyone), position, run)
    slopes = None
    if target is not None:
        with lm.arithmetic():
            (slopes,) = torch.autograd.grad(log_odds(logits, target).sum(), shifts)
    at_position = (torch.stack(states, 1) for states in (activations, written, residual))
    seen = (inputs, position, before, outputs, maps, *at_position, logits, slopes)
    return Pass(*_map_rows(Tensor.detach, seen, len(position)))


def resume(
    lm: LanguageModel,
    past: Pass,
    written: dict[int, Tensor],
    of: dict[int, Tensor] | None = None,
    later_layers: bool = True,
) -> dict[int, Tensor]:
    """The logits where the model answers if the FFN of a layer wrote z there; gradients reach z.

    Copies that begin at different layers travel together from where they meet.

    Args:
        written: layer -> z (copies, prompts, hidden), some variants for prompts of the remembered pass.
        of: layer -> which prompts these are, (prompts,); by default all.
        later_layers: False leaves them out: the head reads this layer's output, as in the logit lens.

    Returns:
        layer -> (copies, prompts, vocabulary).
    """
    layers = sorted(written)
    everyone = torch.arange(len(past.position), device=lm.device)
    owner = {layer: (everyone if of is None else of[layer]).repeat(len(written[layer])) for layer in layers}
    owners = torch.cat(list(owner.values()))  # of all variants, as they travel: those of lower layers first
    plainly = _plainly(lm, past.position[owners], all_tokens="attention_mask" in past.inputs)

    def begin(layer):
        row = past.residual[owner[layer], layer] + written[layer].flatten(0, 1)
        if norm := lm.norm(layer):
            row = norm(row)
        if lm.kind == "masked" and layer == lm.n_layers - 1:
            return row[:, None]
        hidden = _hidden(past.outputs[layer])[owner[layer]]
        return _write_at(hidden, past.position[owner[layer]], row.to(hidden.dtype))

    def go_on(layer, forward, hidden, called_with):
        if not later_layers:
            read = lm.kind == "masked" and layer == lm.n_layers - 1
            return _at(hidden, past.position[owners])[:, None] if read else hidden
        rows = owners[: len(hidden)]
        args, kwargs = _map_rows(lambda t: t[rows], called_with, len(past.position))
        with _rows_mapped(lm, past, layer, owner.get(layer - 1)):
            return _hidden(plainly(layer, forward, hidden, *args, **kwargs))

    def run(layer, forward, hidden, *args, **kwargs):
        if layer < layers[0]:
            return past.outputs[layer]
        parts = [go_on(layer, forward, hidden, (args, kwargs))] if layer > layers[0] else []
        if layer in written:
            parts.append(begin(layer))
        return _with_hidden(past.outputs[layer], torch.cat(parts))

    logits = answer_logits(lm, _after(past.before, past.inputs, owners), past.position[owners], run)
    sizes = [z.shape[:2] for z in (written[layer] for layer in layers)]
    parts = logits.split([copies * prompts for copies, prompts in sizes])
    return {layer: part.unflatten(0, size) for layer, part, size in zip(layers, parts, sizes, strict=True)}


@torch.no_grad()
def scaled_logits(lm: LanguageModel, past: Pass, factors: Tensor) -> Tensor:
    """The logits where the model answers if the activations there are multiplied; layers below the change do not run.

    Args:
        factors: (copies, prompts, layers, neurons), for the prompts of the remembered pass.

    Returns:
        (copies, prompts, vocabulary).
    """
    changed = (factors != 1).any(3)
    lowest = torch.where(changed.any(2), changed.int().argmax(2), lm.n_layers)  # (copies, prompts)
    where = {layer: (lowest == layer).nonzero(as_tuple=True) for layer in range(lm.n_layers) if (lowest == layer).any()}
    logits = past.logits.repeat(len(factors), 1, 1)
    if not where:
        return logits
    travelling = torch.cat([factors[copy, prompt] for copy, prompt in where.values()])
    written = {}
    for layer, (copy, prompt) in where.items():
        change = (factors[copy, prompt, layer] - 1) * past.activations[prompt, layer]
        written[layer] = (past.written[prompt, layer] + change @ lm.value_slots(layer).T)[None]
    with edit_activations(lm, lambda layer, w: w * travelling[: len(w), layer]):
        found = resume(lm, past, written, {layer: prompt for layer, (_, prompt) in where.items()})
    for layer, copy_and_prompt in where.items():
        logits[copy_and_prompt] = found[layer][0]
    return logits


def _read_before(lm: LanguageModel, inputs: dict[str, Tensor], position: Tensor) -> tuple[dict, DynamicCache | None]:
    """What is left to run. Where nothing before a prompt's last token can change, that is the last token.

    Returns:
        inputs, and the keys and values of the tokens before them, if there are any. Padded prompts remain whole.
    """
    if lm.kind != "causal" or "attention_mask" in inputs:
        return inputs, None
    cache = DynamicCache()
    with torch.no_grad():
        answer_logits(lm, {**inputs, "past_key_values": cache}, position)
    cache.crop(-1)
    return {"input_ids": inputs["input_ids"][:, -1:]}, cache


def _after(before: DynamicCache | None, inputs: dict[str, Tensor], owner: Tensor) -> dict:
    """The inputs of a pass, and what was read before them. Each row is a copy of its owner, a remembered prompt."""
    return inputs if before is None else {**inputs, "past_key_values": _TokensBefore(before, owner)}


class _TokensBefore(DynamicCache):
    """What a layer takes for its cache: the keys and values before the last token, in front of its own in each copy."""

    def __init__(self, before: DynamicCache, owner: Tensor):
        super().__init__()
        self.layers, self.owner = before.layers, owner

    def update(self, keys, values, layer, *args, **kwargs):  # (copies, heads, 1, head size)
        before, owner = self.layers[layer], self.owner[: len(keys)]
        return torch.cat([before.keys[owner], keys], 2), torch.cat([before.values[owner], values], 2)


def _plainly(lm: LanguageModel, position: Tensor, all_tokens: bool) -> Run:
    """A layer as it is. The last of a masked model gives the position only, and runs there only if it can and may."""

    def run(layer, forward, hidden, *args, **kwargs):
        if lm.kind != "masked" or layer < lm.n_layers - 1:
            return forward(hidden, *args, **kwargs)
        if lm.attention(layer) is None or all_tokens:
            output = forward(hidden, *args, **kwargs)
            return _with_hidden(output, _at(_hidden(output), position[: len(hidden)])[:, None])
        row = _at(hidden, position[: len(hidden)])[:, None]
        return forward(row, past_key_values=_Tokens(lm.attention(layer), hidden))

    return run


class _Tokens:
    """The keys and values of a whole prompt, for a layer that runs at one position: where it expects a cache."""

    def __init__(self, attention: nn.Module, hidden: Tensor):
        def by_head(states):  # (prompts, tokens, hidden) -> (prompts, heads, tokens, head size)
            return states.unflatten(2, (-1, attention.attention_head_size)).transpose(1, 2)

        self.keys, self.values = by_head(attention.key(hidden)), by_head(attention.value(hidden))

    def update(self, keys, values, layer):
        return self.keys, self.values


@contextmanager
def _rows_mapped(lm: LanguageModel, past: Pass, layer: int, owner: Tensor | None) -> Iterator[None]:
    """Within the block, a layer maps one token of the variants that began just below: their others are as they were.

    Args:
        owner: which prompts these variants belong to, the last of all that arrive; None if there are none.
    """
    if owner is None or lm.attention(layer) is None:
        yield
        return
    position = past.position[owner]

    @cache  # all three maps read the same states
    def parted(hidden):
        n_before = len(hidden) - len(owner)
        return hidden[:n_before], hidden[torch.arange(n_before, len(hidden), device=hidden.device), position]

    def map_rows(forward, remembered):
        def instead(hidden):
            if hidden.shape[1] == 1:
                return forward(hidden)
            before, new = parted(hidden)
            mapped = _write_at(remembered[owner], position, forward(new))
            return torch.cat([forward(before), mapped]) if len(before) else mapped

        return instead

    modules = {name: getattr(lm.attention(layer), name) for name in MAPS}
    forwards = {module: map_rows(module.forward, past.maps[layer][name]) for name, module in modules.items()}
    with _forwards_replaced(forwards):
        yield


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
def _layers_run(lm: LanguageModel, run: Run) -> Iterator[None]:
    """Within the block, in which the model runs once, each layer does `run(layer, forward, hidden, ...)`."""
    order = count()

    def instead_of(forward):
        return lambda *args, **kwargs: run(next(order), forward, *args, **kwargs)

    with _forwards_replaced({module: instead_of(module.forward) for module in lm.layers}):
        yield


@contextmanager
def _forwards_replaced(forwards: dict[nn.Module, Callable]) -> Iterator[None]:
    own = {module: vars(module).get("forward") for module in forwards}  # where other libraries have replaced it
    try:
        for module, forward in forwards.items():
            module.forward = forward
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
    by_prompt = states if states.dim() == 3 else states.view(len(position), -1, states.shape[-1])
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

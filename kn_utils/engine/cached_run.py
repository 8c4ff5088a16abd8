"""What a forward pass leaves behind: its cache, and the hooks that record it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from torch import Tensor
from transformers import Cache

from ..models import LanguageModel
from . import attention
from .activations import Progress, at, write_at


class Layer(NamedTuple):
    """What one layer leaves behind of a pass."""

    called_with: tuple[tuple, dict]  # beside the hidden states: the same for all prompts of one length
    output: Tensor  # (prompts, tokens, hidden)
    residual: Tensor  # what its FFN's output is added to where the model answers, (prompts, hidden)
    keys: Tensor | None  # of a causal model's tokens before the last, (prompts, heads, tokens, head size)
    values: Tensor | None


class Run(NamedTuple):
    """A forward pass of some prompts, and its cache."""

    inputs: dict[str, Tensor]  # each (prompts, tokens)
    position: Tensor  # (prompts,) where the model answers
    activations: Tensor  # w there, (prompts, layers, neurons)
    written: Tensor  # z, what each FFN writes there, (prompts, layers, hidden)
    logits: Tensor  # there, (prompts, vocabulary)
    slopes: Tensor | None  # how the answers' log-odds change with z, (prompts, layers, hidden), if they were asked for
    layers: tuple[Layer, ...] | None  # None: whole passes only

    @property
    def n_tokens(self) -> int:
        """Of each prompt, those of the decoder included."""
        return sum(ids.shape[1] for name, ids in self.inputs.items() if name.endswith("input_ids"))


class Recorder:
    """Hooks that keep what a pass computes where the model answers, layer by layer."""

    def __init__(self, lm: LanguageModel, position: Tensor, shifts: Tensor | None):
        """`shifts` (prompts, layers, hidden), all 0, are added to what the FFNs write, for the gradients."""
        self.lm, self.position, self.shifts = lm, position, shifts
        self.activations, self.written, self.outputs, self.called_with, self.residual = [], [], [], [], []
        self.keys_and_values: dict[int, tuple[Tensor, Tensor]] = {}

    @contextmanager
    def recorded(self, progress: Progress) -> Iterator[None]:
        lm = self.lm

        def keep_ffn(module, args, output):
            z = at(output, self.position).to(lm.dtype)
            self.activations.append(at(args[0], self.position).to(lm.dtype))
            if self.shifts is not None:
                z = z + self.shifts[:, progress.layer]
                output = write_at(output.to(lm.dtype, copy=True), self.position, z)
            self.written.append(z)
            return output

        def keep_call(module, args, kwargs):
            self.called_with.append((_of_one_row(args[1:]), _of_one_row(kwargs)))

        def keep_output(module, args, output):
            hidden = hidden_states(output)
            self.outputs.append(hidden.detach())
            if lm.norm(progress.layer) is None:
                self.residual.append(at(hidden, self.position).detach() - self.written[-1].detach())

        def keep_residual(module, args):
            self.residual.append(at(args[0], self.position).detach() - self.written[-1].detach())

        def keep_keys(key, value):
            self.keys_and_values[progress.layer] = key.detach()[:, :, :-1], value.detach()[:, :, :-1]
            return key, value

        with ExitStack() as hooks:
            for module in set(lm.down_projections):
                hooks.enter_context(module.register_forward_hook(keep_ffn))
            for module in set(lm.layers):
                hooks.enter_context(module.register_forward_pre_hook(keep_call, with_kwargs=True))
                hooks.enter_context(module.register_forward_hook(keep_output))
            for module in {lm.norm(layer) for layer in range(lm.n_layers)} - {None}:
                hooks.enter_context(module.register_forward_pre_hook(keep_residual))
            if lm.kind == "causal":
                hooks.enter_context(attention.changed(keep_keys))
            yield

    def layers(self) -> tuple[Layer, ...]:
        pairs = [self.keys_and_values.get(layer, (None, None)) for layer in range(self.lm.n_layers)]
        parts = zip(self.called_with, self.outputs, self.residual, pairs, strict=True)
        return tuple(Layer(call, output, residual, *pair) for call, output, residual, pair in parts)


def _of_one_row(value):
    """What a layer was called with, for any number of rows.

    Of prompts of one length, unpadded, only the hidden states differ. All else is alike in every row, so that the
    first row stands for all; it is spread over as many rows as there are. Keys and values are kept elsewhere.
    """
    if isinstance(value, Tensor):
        return value[:1] if value.dim() > 1 else value
    if isinstance(value, (tuple, list)):
        return type(value)(_of_one_row(entry) for entry in value)
    if isinstance(value, dict):
        return {name: _of_one_row(entry) for name, entry in value.items()}
    return None if isinstance(value, Cache) else value


def hidden_states(output) -> Tensor:
    """The hidden states among what a layer returns."""
    return output[0] if isinstance(output, tuple) else output

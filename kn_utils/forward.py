"""A forward pass, remembered, so that it can be taken up again after any FFN with something else written there.

What the FFN of a layer writes at the mask is linear in its neurons: `z = b + w W2`. Scaling w, or losing one neuron,
only changes z. So many copies of a prompt that differ in z share everything below: the layers before are not run
again, nor this layer's attention, and the down projection itself is needed once instead of once per copy.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .models import LanguageModel, mask_logits


class Pass(NamedTuple):
    """What a forward pass of some prompts leaves behind."""

    inputs: dict[str, Tensor]  # each (prompts, tokens)
    position: Tensor  # (prompts,) of the mask
    calls: list[tuple[tuple, dict]]  # how each layer was called
    activations: Tensor  # w at the mask, (prompts, layers, neurons)
    written: Tensor  # z, what each FFN writes at the mask, (prompts, layers, hidden)
    logits: Tensor  # at the mask, (prompts, vocabulary)


@torch.no_grad()
def remember(lm: LanguageModel, inputs: dict[str, Tensor], position: Tensor) -> Pass:
    """Run the model once and keep what `resume` and the attribution need."""
    calls, activations, written = [], [], []
    rows = torch.arange(len(position), device=lm.device)

    def keep_activations(module, args, output):
        activations.append(args[0][rows, position])
        written.append(output[rows, position])

    with ExitStack() as hooks:
        for layer, down_projection in zip(lm.layers, lm.down_projections, strict=True):
            keep_call = lambda module, args, kwargs: calls.append((args, kwargs))  # noqa: E731
            hooks.enter_context(layer.register_forward_pre_hook(keep_call, with_kwargs=True))
            hooks.enter_context(down_projection.register_forward_hook(keep_activations))
        logits = mask_logits(lm, inputs, position)
    return Pass(inputs, position, calls, torch.stack(activations, 1), torch.stack(written, 1), logits)


def resume(lm: LanguageModel, past: Pass, layer: int, z: Tensor, later_layers: bool = True) -> Tensor:
    """The logits at the mask if the FFN of `layer` wrote z there; gradients reach z.

    Args:
        z: (copies, prompts, hidden), some variants for every prompt of the remembered pass.
        later_layers: False leaves them out: the head reads this layer's output, as in the logit lens.

    Returns:
        (copies, prompts, vocabulary).
    """
    n_copies, n_prompts, _ = z.shape
    rows = torch.arange(n_prompts, device=z.device)

    def write(module, args, output):  # (prompts, tokens, hidden) -> (copies, prompts, tokens, hidden)
        copies = output.expand(n_copies, *output.shape).clone()
        copies[:, rows, past.position] = z
        return copies

    args, kwargs = past.calls[layer]
    with lm.down_projections[layer].register_forward_hook(write):
        hidden = lm.layers[layer](*args, **kwargs)  # after an FFN everything is element by element: copies broadcast
    inputs = {name: tensor.repeat(n_copies, 1) for name, tensor in past.inputs.items()}
    with _instead(lm.layers[: layer + 1] if later_layers else lm.layers, hidden.flatten(0, 1)):
        return mask_logits(lm, inputs, past.position.repeat(n_copies)).unflatten(0, (n_copies, n_prompts))


@contextmanager
def _instead(layers: Sequence[nn.Module], hidden: Tensor) -> Iterator[None]:
    """Within the block, the first layers do not run: each passes `hidden` on."""
    try:
        for layer in layers:
            layer.forward = lambda *args, **kwargs: hidden
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)

"""The plain, exact path: whole forward passes of the model as it comes, and hooks. The reference for all that is fast.

It works for every architecture whose layers and down projections are known, and with every version of transformers.
"""

from contextlib import ExitStack

from torch import Tensor

from ..models import LanguageModel
from .activations import Progress, at, engine_pass, write_at
from .cached_run import Run


def logits_at(lm: LanguageModel, inputs: dict, progress: Progress) -> Tensor:
    """The logits of one pass at the position where it answers; the vocabulary is reached there only.

    Returns:
        (prompts, vocabulary).
    """

    def keep_answer(module, args):  # (prompts, tokens, hidden) -> (prompts, 1, hidden)
        return at(args[0], progress.position)[:, None]

    options = {} if lm.kind == "masked" else {"use_cache": False}
    with lm.model.get_output_embeddings().register_forward_pre_hook(keep_answer):
        return lm.model(**(options | inputs)).logits[:, 0].to(lm.dtype)


def logits_if_written(
    lm: LanguageModel, run: Run, layer: int, z: Tensor, owner: Tensor, later_layers: bool = True
) -> Tensor:
    """The logits where the model answers if the FFN of `layer` wrote z (rows, hidden) there.

    Args:
        owner: which prompts of the run the rows are copies of, (rows,).
        later_layers: False lets the last layer give what `layer` gave: the head reads it at once.

    Returns:
        (rows, vocabulary).
    """
    position, output_of_layer = run.position[owner], None

    def write(module, args, output):
        if progress.layer == layer:
            return write_at(output.to(z.dtype, copy=True), position, z)

    def skip(module, args, output):
        nonlocal output_of_layer
        if progress.layer == layer:
            output_of_layer = output
        if progress.layer == lm.n_layers - 1 and not later_layers:
            return output_of_layer

    with engine_pass(lm, position) as progress, ExitStack() as hooks:
        for module in set(lm.down_projections):
            hooks.enter_context(module.register_forward_hook(write))
        for module in set(lm.layers):
            hooks.enter_context(module.register_forward_hook(skip))
        return logits_at(lm, {name: tensor[owner] for name, tensor in run.inputs.items()}, progress)

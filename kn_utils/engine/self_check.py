"""Is the fast path right for this model and these versions? Compared on one tiny input when a model is wrapped."""

import warnings
from dataclasses import replace

import torch
import transformers

from ..models import LanguageModel
from . import attention
from .passes import rerun_from, run_with_cache

TOLERANCE = 1e-4  # of the largest number compared; wrong wiring differs by about as much as the numbers themselves
N_TOKENS = 4


def with_fast_path(lm: LanguageModel) -> LanguageModel:
    """The model with the fast path where it gives the numbers of whole passes; where not, one line says so."""
    if not lm.architecture.head:  # whole passes only
        return lm
    attention.remove(lm.model)  # of a model that is wrapped again
    before = attention.implementation(lm.model)
    try:
        expected = _numbers(replace(lm, fast=False))
        if not attention.install(lm.model) and lm.kind == "causal":
            return lm  # it attends in its own way
        reason = _difference(expected, _numbers(replace(lm, fast=True)))
    except Exception as error:  # whatever another version may do
        reason = f"it raises {type(error).__name__}"
    if reason is None:
        return replace(lm, fast=True)
    attention.remove(lm.model, before)
    warnings.warn(
        f"{type(lm.model).__name__} takes the plain, slower path, with the same numbers: the fast one is not right "
        f"with transformers {transformers.__version__} ({reason})",
        stacklevel=4,
    )
    return lm


def _numbers(lm: LanguageModel) -> list[torch.Tensor]:
    """All that the engine computes, of two prompts of a few tokens: any will do."""
    lm = replace(lm, precision="float32")
    ids = (5 + torch.arange(2 * N_TOKENS, device=lm.device).view(2, N_TOKENS)) % lm.model.config.vocab_size
    position = torch.full((2,), 1 if lm.kind == "masked" else N_TOKENS - 1, device=lm.device)
    run = run_with_cache(lm, {"input_ids": ids}, position, target=ids[:, 0])
    layers = sorted({0, lm.n_layers // 2, lm.n_layers - 1})
    with torch.no_grad():
        variants = {layer: torch.stack([0.5 * run.written[:, layer], run.written[:, layer] + 1]) for layer in layers}
        logits = rerun_from(lm, run, variants)
    return [run.activations, run.written, run.logits, run.slopes, *logits.values()]


def _difference(expected: list[torch.Tensor], found: list[torch.Tensor]) -> str | None:
    """By how much the two differ, in words; None if they do not."""
    for one, other in zip(expected, found, strict=True):
        allowed = TOLERANCE * one.abs().max()
        if not (error := (one - other).abs().max()) <= allowed:
            return f"it differs by {error / one.abs().max():.0e}"
    return None

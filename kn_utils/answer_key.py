"""The answer key: what each neuron really does, by switching off every one of them, one at a time.

No attribution is involved, so the key can judge attributions. It has a limit of its own: it changes single neurons,
and two neurons that can stand in for each other hide each other's effect.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from .attribution import ffn_activations, knowledge_attribution
from .facts import Fact
from .metrics import answer_probability
from .models import LanguageModel, weights_digest

CHUNK = 32  # facts whose ablations are saved together


class AnswerKey(NamedTuple):
    """The effect of every single ablation on the answer of one prompt per fact."""

    prompts: list[str]
    probability: Tensor  # P(w) - P(w_i at its baseline), (facts, layers, neurons)
    log_probability: Tensor  # the same of log P


def one_prompt_each(facts: Sequence[Fact]) -> list[str]:
    """The prompts of the key: fact number i is asked in its wording number i, so that all wordings take part."""
    return [fact.prompts[i % len(fact.prompts)] for i, fact in enumerate(facts)]


def mean_activation(lm: LanguageModel, facts: Sequence[Fact]) -> Tensor:
    """Each neuron's mean activation over the facts' key prompts: what it does when nothing is known.

    Returns:
        (layers, neurons).
    """
    return ffn_activations(lm, one_prompt_each(facts)).mean(0)


def answer_key(
    lm: LanguageModel, facts: Sequence[Fact], baseline: str = "mean", out: str | Path | None = None
) -> AnswerKey:
    """Ablate every neuron of the model alone, for every fact.

    Args:
        baseline: "zero" switches a neuron off; "mean" sets it to its mean over all the facts' prompts, so that it
            loses what it says about this fact but not what it always does.
        out: a folder for the finished chunks. The same call continues there after a stop.

    Raises:
        ValueError: an unknown baseline, or `out` holds the key of another model, other facts or another baseline.
    """
    if baseline not in ("zero", "mean"):
        raise ValueError(f"baseline {baseline!r} is unknown: choose 'zero' or 'mean'")
    prompts = one_prompt_each(facts)
    start = mean_activation(lm, facts) if baseline == "mean" else torch.zeros(lm.n_layers, lm.n_neurons)
    folder = _claim(out, lm, prompts, facts, baseline)
    chunks = []
    with tqdm(total=len(facts), desc="Ablation", unit="fact") as progress:
        for first in range(0, len(facts), CHUNK):
            path = folder and folder / f"{first:06d}.safetensors"
            chunk = _read(path)
            if chunk is None:
                asked, answers = prompts[first : first + CHUNK], [f.answer for f in facts[first : first + CHUNK]]
                chunk = _ablate(lm, asked, answers, start)
                _write(chunk, path)
            chunks.append(chunk)
            progress.update(len(chunk["probability"]))
    return AnswerKey(prompts, *(torch.cat([c[name] for c in chunks]) for name in ("probability", "log_probability")))


def _ablate(lm, prompts, answers, start) -> dict[str, Tensor]:
    options = {"path": "neuron", "baseline": start, "measure": "log_probability"}
    log_effect = knowledge_attribution(lm, prompts, answers, **options)  # log P(w) - log P(w_i at its baseline)
    p = answer_probability(lm, prompts, answers)[:, None, None]
    return {"probability": -p * torch.expm1(-log_effect), "log_probability": log_effect}


# ---------------------------------------------------------------- chunks that survive a stop


def _claim(out, lm, prompts, facts, baseline) -> Path | None:
    """Make `out` the folder of this key, or continue in it."""
    if out is None:
        return None
    folder, about = Path(out), repr((weights_digest(lm), prompts, [fact.answer for fact in facts], baseline))
    key = hashlib.sha256(about.encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "key.json"
    if mark.exists() and json.loads(mark.read_text()) != {"key": key}:
        raise ValueError(f"{str(folder)!r} holds the key of another model, facts or baseline: choose another folder")
    mark.write_text(json.dumps({"key": key}))
    return folder


def _read(path: Path | None) -> dict[str, Tensor] | None:
    if path is None or not path.exists():
        return None
    try:
        return load_file(path)
    except SafetensorError:  # cut short: ablate again
        return None


def _write(chunk: dict[str, Tensor], path: Path | None) -> None:
    if path is not None:
        partial = path.with_suffix(".part")
        save_file({name: tensor.cpu().contiguous() for name, tensor in chunk.items()}, partial)
        partial.replace(path)  # at once: a stop leaves no half chunk

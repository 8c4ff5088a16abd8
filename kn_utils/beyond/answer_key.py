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
from torch import Tensor
from tqdm.auto import tqdm

from ..asking import answer_probability
from ..attribution import ffn_activations, knowledge_attribution
from ..checks import list_of, one_of
from ..data.files import write_atomically
from ..data.shipped import versions
from ..data.store import TENSORS, Store
from ..engine.weights import is_edited
from ..facts import Fact
from ..models import LanguageModel, model_digest

BASELINES = ("zero", "mean")
EFFECTS = ("probability", "log_probability")
CHUNK = 32  # facts whose ablations are saved together


class AnswerKey(NamedTuple):
    """The effect of every single ablation on the answer of one prompt per fact."""

    prompts: list[str]
    probability: Tensor  # P(w) - P(w_i at its baseline), (facts, layers, neurons)
    log_probability: Tensor  # the same of log P
    about: dict  # how it was made: command, versions, digests of model and facts


def one_prompt_each(facts: Sequence[Fact]) -> list[str]:
    """The prompts of the key: fact number i is asked in its wording number i, so that all wordings take part."""
    facts = list_of("facts", facts, Fact)
    if not facts:
        raise ValueError("facts is empty: pass at least one fact")
    if bare := [fact for fact in facts if not fact.prompts]:
        raise ValueError(f"fact {bare[0].subject!r} has no prompts: give it at least one")
    return [fact.prompts[i % len(fact.prompts)] for i, fact in enumerate(facts)]


def mean_activation(lm: LanguageModel, facts: Sequence[Fact]) -> Tensor:
    """Each neuron's mean activation over the facts' key prompts: what it does when nothing is known.

    Returns:
        (layers, neurons).
    """
    return ffn_activations(lm, one_prompt_each(facts)).mean(0)


def answer_key(
    lm: LanguageModel, facts: Sequence[Fact], baseline: str | Tensor = "mean", out: str | Path | None = None
) -> AnswerKey:
    """Ablate every neuron of the model alone, for every fact.

    Args:
        baseline: "zero" switches a neuron off; "mean" sets it to its mean over all the facts' prompts, so that it
            loses what it says about this fact but not what it always does; or a tensor (layers, neurons).
        out: a folder for the finished chunks. The same call continues there after a stop, or beside another process.

    Raises:
        ValueError: an unknown baseline, one of another shape or with NaN or infinity; or `out` holds the key of another
            model, other facts or another baseline, or is damaged.
        OSError: `out` cannot be written.
    """
    facts = list_of("facts", facts, Fact)
    prompts = one_prompt_each(facts)
    start, about = _start(lm, facts, baseline), describe_key(lm, facts)

    def ablate(rows):
        return _ablate(lm, [prompts[i] for i in rows], [facts[i].answer for i in rows], start)

    rows = range(len(facts))
    if out is not None and is_edited(lm.model):
        raise ValueError("the model is edited now: leave the edit, or make its key without `out`, which would mix them")
    if out is None:
        starts = tqdm(rows[::CHUNK], desc="Ablation", unit="chunk")
        chunks = [ablate(rows[first : first + CHUNK]) for first in starts]
    else:
        digest = key_digest(about, baseline)
        chunks = Store(claimed(out, digest), digest).chunks("ablation", rows, ablate, CHUNK, TENSORS)
    effects = (torch.cat([chunk[name].to(lm.device) for chunk in chunks]) for name in EFFECTS)
    return AnswerKey(prompts, *effects, about)


def _start(lm: LanguageModel, facts: Sequence[Fact], baseline: str | Tensor) -> Tensor:
    """The activations to which neurons are set.  # (layers, neurons)"""
    if isinstance(baseline, Tensor):
        if baseline.shape != (lm.n_layers, lm.n_neurons):
            shapes = f"{tuple(baseline.shape)}: pass a tensor (layers, neurons), {(lm.n_layers, lm.n_neurons)}"
            raise ValueError(f"baseline has shape {shapes}")
        if not baseline.isfinite().all():
            raise ValueError("baseline holds NaN or infinity: pass finite activations")
        return baseline.to(lm.device, lm.dtype)
    one_of("baseline", baseline, BASELINES)
    return mean_activation(lm, facts) if baseline == "mean" else torch.zeros(lm.n_layers, lm.n_neurons)


def _ablate(lm, prompts, answers, start) -> dict[str, Tensor]:
    options = {"path": "neuron", "baseline": start, "measure": "log_probability"}
    log_effect = knowledge_attribution(lm, prompts, answers, **options)  # log P(w) - log P(w_i at its baseline)
    p = answer_probability(lm, prompts, answers)
    return {"probability": effect_on_probability(p, log_effect), "log_probability": log_effect}


def effect_on_probability(p: Tensor, log_effect: Tensor) -> Tensor:
    """P(w) - P(w_i at its baseline) from P(w) and the effect on log P.

    Args:
        p: (facts,).
        log_effect: (facts, layers, neurons).
    """
    return -p[:, None, None] * torch.expm1(-log_effect)


def claimed(folder: str | Path, about: str) -> Path:
    """The folder of one key, made if it is not there, and marked by key.json.

    Raises:
        ValueError: the folder holds another key, its mark is damaged, or it is no folder.
        OSError: it cannot be written.
    """
    if not str(folder):
        raise ValueError("out is empty: name a folder, or leave it out")
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is a file: choose a folder")
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "key.json"
    if not mark.exists():
        write_atomically(mark, lambda partial: partial.write_text(json.dumps({"key": about}), encoding="utf-8"))
    try:
        there = json.loads(mark.read_text(encoding="utf-8"))["key"]
    except (ValueError, KeyError, TypeError, RecursionError, OSError):  # cut, nested, a list, not a text, a folder
        raise ValueError(f"{str(mark)!r} is damaged: delete its folder, or choose another") from None
    if there != about:
        raise ValueError(f"{str(folder)!r} holds the key of another model, facts or baseline: choose another folder")
    return folder


def describe_key(lm: LanguageModel, facts: Sequence[Fact]) -> dict:
    """How a key of this model and these facts is made, whatever its baseline."""
    asked = one_prompt_each(facts), [fact.answer for fact in facts]
    return {
        "command": "answer_key",
        "model_digest": model_digest(lm),
        "n_facts": len(facts),
        "facts_digest": hashlib.sha256(repr(asked).encode()).hexdigest(),
        "versions": versions(),
    }


def key_digest(about: dict, baseline: str | Tensor) -> str:
    """sha256 of all that a key depends on.

    Args:
        about: of `describe_key`.
    """
    if isinstance(baseline, Tensor):
        baseline = baseline.double().cpu().tolist()
    wanted = repr((about["model_digest"], about["facts_digest"], baseline))
    return hashlib.sha256(wanted.encode()).hexdigest()

"""What a model answers, how an edit changes it, and how sure we can be."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from .facts import Fact
from .models import LanguageModel, answer_id, encode, mask_logits

BATCH = 256  # prompts in one forward pass


class Interval(NamedTuple):
    """An estimate and its bootstrap confidence interval; `f"{interval:+.1%}"` prints "-45.6 % [-50.1, -41.0]"."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        value, low, high = (format(x, spec).removesuffix("%") for x in self)
        return f"{value}{' %' if spec.endswith('%') else ''} [{low}, {high}]"


def answer_distribution(lm: LanguageModel, prompts: Sequence[str]) -> Tensor:
    """The model's distribution over its vocabulary at each mask.  # (prompts, vocabulary)"""
    encode(lm, prompts)  # check every prompt before the first batch runs
    batches = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
    return torch.cat([_log_distribution(lm, batch).exp() for batch in batches])


def answer_probability(lm: LanguageModel, prompts: Sequence[str], answer: str | Sequence[str]) -> Tensor:
    """P(answer) at the mask of each prompt.  # (prompts,)

    Args:
        answer: one token, the same for every prompt, or one answer per prompt.

    Raises:
        ValueError: a prompt without exactly one mask, no prompts, or an answer that is not one token.
    """
    answers = [answer] * len(prompts) if isinstance(answer, str) else answer
    targets = torch.tensor([answer_id(lm, a) for a in answers], device=lm.device)
    return answer_distribution(lm, prompts).gather(1, targets[:, None])[:, 0]


def top_answers(lm: LanguageModel, prompt: str, k: int = 5) -> list[tuple[str, float]]:
    """The k likeliest answers to a prompt and their probabilities."""
    probability, token = answer_distribution(lm, [prompt])[0].topk(k)
    words = lm.tokenizer.convert_ids_to_tokens(token.tolist())
    return list(zip(words, probability.tolist(), strict=True))


def ask(lm: LanguageModel, facts: Sequence[Fact], heldout: bool = True) -> pd.DataFrame:
    """Ask the model every fact, on its held-out prompts or on those that find its neurons.

    Returns:
        One row per fact: subject, relation, answer, and means over its prompts of probability, log_probability
        (natural) and top1, which is 1 where the answer comes first.
    """
    if len(facts) == 0:
        raise ValueError("facts is empty: pass at least one fact")
    prompts = [fact.heldout_prompts if heldout else fact.prompts for fact in facts]
    for fact, own in zip(facts, prompts, strict=True):
        if not own:
            raise ValueError(f"fact {fact.subject!r} has no held-out prompts: give it some, or pass heldout=False")
    targets = [answer_id(lm, fact.answer) for fact in facts]
    rows = [(i, prompt, targets[i]) for i, own in enumerate(prompts) for prompt in own]
    owner, flat, targets = zip(*rows, strict=True)
    answers = []
    for start in range(0, len(flat), BATCH):
        log_p = _log_distribution(lm, flat[start : start + BATCH])  # (batch, vocabulary)
        target = torch.tensor(targets[start : start + BATCH], device=lm.device)
        log_p_answer = log_p.gather(1, target[:, None])[:, 0]
        answers.append(torch.stack([log_p_answer.exp(), log_p_answer, (log_p.argmax(1) == target).to(log_p)], 1))
    table = pd.DataFrame(torch.cat(answers).cpu().numpy(), columns=["probability", "log_probability", "top1"])
    means = table.groupby(list(owner)).mean()
    about = pd.DataFrame([(fact.subject, fact.relation, fact.answer) for fact in facts])
    return pd.concat([about.set_axis(["subject", "relation", "answer"], axis=1), means], axis=1)


@torch.no_grad()
def _log_distribution(lm: LanguageModel, prompts: Sequence[str]) -> Tensor:
    return mask_logits(lm, *encode(lm, prompts)).log_softmax(-1)


def ask_edited(
    lm: LanguageModel, facts: Sequence[Fact], edits: Iterable[AbstractContextManager], heldout: bool = True
) -> pd.DataFrame:
    """`ask` each fact inside its own edit.

    >>> after = ask_edited(lm, facts, [suppress(lm, neurons) for neurons in neurons_per_fact])
    """
    tables = []
    for fact, edit in zip(tqdm(facts, desc="Editing", unit="fact"), edits, strict=True):
        with edit:
            tables.append(ask(lm, [fact], heldout))
    return pd.concat(tables, ignore_index=True)


def perplexity(log_probability: Sequence[float]) -> float:
    """exp of the mean -log P(answer): 1 when the model is always sure and right (section 5)."""
    return float(np.exp(-np.mean(log_probability)))


def relative_change(before: Sequence[float], after: Sequence[float]) -> Interval:
    """(mean after - mean before) / mean before, with facts resampled in pairs; -0.29 is a fall by 29 %.

    A ratio of means, as in the paper's code: the mean of ratios explodes on facts that the model does not know.
    """
    return bootstrap(lambda b, a, axis: a.mean(axis) / b.mean(axis) - 1, before, after)


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean and its interval over facts."""
    return bootstrap(lambda v, axis: v.mean(axis), values)


def bootstrap(statistic, *samples: Sequence[float], level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile bootstrap of `statistic(*samples, axis)`, the samples resampled together, one entry per fact."""
    samples = tuple(np.asarray(sample, dtype=float) for sample in samples)
    if len(samples[0]) == 0:
        raise ValueError("the sample is empty: pass the value of at least one fact")
    value = float(statistic(*samples, axis=-1))
    if len(samples[0]) < 2:
        return Interval(value, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    result = stats.bootstrap(
        samples, statistic, paired=True, vectorized=True, n_resamples=2000, confidence_level=level,
        method="percentile", rng=rng,
    )  # fmt: skip
    return Interval(value, float(result.confidence_interval.low), float(result.confidence_interval.high))

"""Attribution methods judged by a key that is known: the effect of every neuron's ablation, or planted neurons."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from ..asking import answer_probability, ask_scaled
from ..attribution import ABLATED, ffn_activations, knowledge_attribution
from ..checks import count, integer, list_of, scores_3d
from ..engine import batches, rerun_from, run_with_cache
from ..facts import Fact
from ..models import LanguageModel, Neuron
from ..prompts import questions_for
from .answer_key import one_prompt_each
from .planting import Inseparable, plant_fact

Method = Callable[[LanguageModel, Sequence[str], Sequence[str]], Tensor]  # -> (prompts, layers, neurons)


def gradient_times_activation(lm: LanguageModel, prompts: Sequence[str], answers: Sequence[str]) -> Tensor:
    """w dP/dw, the gradient taken at w only.  # (prompts, layers, neurons)"""
    return knowledge_attribution(lm, prompts, answers, n_steps=1, rule="right")


def gradient(lm: LanguageModel, prompts: Sequence[str], answers: Sequence[str]) -> Tensor:
    """dP/dw, whatever the activation; 0 for a neuron that is exactly silent.  # (prompts, layers, neurons)"""
    w = ffn_activations(lm, prompts)
    return torch.where(w == 0, w, gradient_times_activation(lm, prompts, answers) / w)


@torch.no_grad()
def value_slot_increase(lm: LanguageModel, prompts: Sequence[str], answers: Sequence[str]) -> Tensor:
    """How much one neuron's value slot alone raises log P(answer) where its layer is read by the head at once.

    A static score (Yu and Ananiadou 2024): no later layer runs, nothing is switched off.  # (prompts, layers, neurons)
    """
    scores = torch.empty(len(prompts), lm.n_layers, lm.n_neurons, device=lm.device, dtype=lm.dtype)
    asked = questions_for(lm, prompts, answers)
    for rows, inputs, position in batches(lm, asked.questions, ABLATED):
        past, target = run_with_cache(lm, inputs, position), asked.targets[rows]
        for layer in range(lm.n_layers):
            w, slots = past.activations[:, layer], lm.value_slots(layer).T
            silent = (past.written[:, layer] - w @ slots)[None]  # what the FFN writes when all its neurons are off

            def log_p(z, past=past, layer=layer, target=target):  # (copies, prompts, hidden) -> (copies, prompts)
                logits = rerun_from(lm, past, {layer: z}, later_layers=False)[layer]
                return logits.log_softmax(-1)[:, range(len(target)), target]

            for neurons in torch.arange(lm.n_neurons, device=lm.device).split(ABLATED):
                z = silent + w.T[neurons, :, None] * slots[neurons, None]
                scores[rows[:, None], layer, neurons] = (log_p(z) - log_p(silent)).T
    return scores


METHODS: dict[str, Method] = {
    "IG, layer, left sum": knowledge_attribution,  # the released code
    "IG, layer, Gauss-Legendre": lambda *a: knowledge_attribution(*a, rule="gauss-legendre"),
    "formula (= zero ablation)": lambda *a: knowledge_attribution(*a, path="neuron"),
    "gradient x activation": gradient_times_activation,
    "gradient": gradient,
    "activation": lambda lm, prompts, answers: ffn_activations(lm, prompts),
    "value slot alone": value_slot_increase,
}


def agreement(scores: Tensor, key: Tensor, k: int = 10) -> pd.DataFrame:
    """How well scores find what the key knows, one row per prompt.

    Args:
        scores, key: (prompts, layers, neurons), both finite.
        k: of the precision, from 1 to as many neurons as there are.

    Returns:
        precision: the share of the k highest scores that are among the k highest of the key.
        auc: the area under the ROC of the scores, for the key's coarse neurons (at least 0.2 of its highest value):
            the chance that such a neuron scores above another. NaN where the key has no others.
        spearman: rank correlation over all neurons. NaN where all scores, or all values of the key, are equal.
    """
    scores, key = scores_3d(scores), scores_3d(key, "key")
    if scores.shape != key.shape:
        raise ValueError(
            f"scores has shape {tuple(scores.shape)}, key {tuple(key.shape)}: pass both of the same prompts"
        )
    k = count("k", k, most=scores[0].numel())
    scores, key = (t.flatten(1).double().cpu().numpy() for t in (scores, key))
    top = [np.argsort(-values, axis=1, kind="stable")[:, :k] for values in (scores, key)]
    precision = [len(set(ours) & set(theirs)) / k for ours, theirs in zip(*top, strict=True)]
    ranks = stats.rankdata(scores, axis=1)
    true = key >= 0.2 * key.max(1, keepdims=True)
    n_true, n_other = true.sum(1), (~true).sum(1)
    pairs = np.where(n_other > 0, n_true * n_other, np.nan)
    auc = ((ranks * true).sum(1) - n_true * (n_true + 1) / 2) / pairs
    spearman = [_rank_correlation(ours, theirs) for ours, theirs in zip(scores, key, strict=True)]
    return pd.DataFrame({"precision": precision, "auc": auc, "spearman": spearman})


def _rank_correlation(ours: np.ndarray, theirs: np.ndarray) -> float:
    return stats.spearmanr(ours, theirs).statistic if np.ptp(ours) > 0 < np.ptp(theirs) else np.nan


def leaderboard(
    lm: LanguageModel, facts: Sequence[Fact], keys: dict[str, Tensor], methods: dict[str, Method] = METHODS, k: int = 10
) -> pd.DataFrame:
    """Judge every method on the same facts, each asked by its key prompt.

    Args:
        keys: by name, each (facts, layers, neurons).
        k: neurons that each method may name for the precision, and for the suppression.

    Returns:
        One row per method, key and fact: precision, auc and spearman (see `agreement`); before and after, the mean
        P(answer) on the held-out prompts untouched and with the method's k neurons suppressed; seconds per prompt.
    """
    facts = list_of("facts", facts, Fact)
    prompts, answers = one_prompt_each(facts), [fact.answer for fact in facts]
    k = count("k", k, most=lm.n_layers * lm.n_neurons)
    if not keys or not methods:
        raise ValueError("keys or methods is empty: pass at least one of each")
    found, changes, tables = [], [], []
    for method in tqdm(methods.values(), desc="Leaderboard", unit="method"):
        start = time.perf_counter()
        scores = scores_3d(method(lm, prompts, answers))
        seconds = (time.perf_counter() - start) / len(prompts)
        highest = scores.flatten(1).topk(k).indices.tolist()
        changes.append(([{Neuron(*divmod(i, lm.n_neurons)) for i in own} for own in highest], 0.0))
        found.append((scores, seconds))
    before, *after = (table.probability for table in ask_scaled(lm, facts, changes))
    for name, (scores, seconds), p in zip(methods, found, after, strict=True):
        for key_name, key in keys.items():
            about = {"method": name, "key": key_name, "fact": range(len(facts)), "seconds": seconds}
            tables.append(agreement(scores, key, k).assign(**about, before=before, after=p))
    return pd.concat(tables, ignore_index=True)


def planted_leaderboard(
    lm: LanguageModel,
    facts: Sequence[Fact],
    every_fact: Sequence[Fact],
    methods: dict[str, Method] = METHODS,
    n_planted: int = 4,
    seed: int = 0,
) -> pd.DataFrame:
    """Plant each fact anew, with another answer of its relation, and see which method finds the planted neurons.

    Fact number i goes into layer i mod layers. The key is certain here, for these neurons were written by us. A fact
    that no key separates from others in its layer is left out.

    Args:
        every_fact: where other answers come from, and facts of the relation that must not wake the neurons.

    Returns:
        One row per method and fact, with its layer; precision (k = n_planted), auc and spearman over the fact's
        prompts, each prompt judged alone; probability, the mean P(answer) that the planting reached.

    Raises:
        ValueError: no facts or methods, a relation without another answer, or no fact that could be planted.
    """
    facts, every_fact = list_of("facts", facts, Fact), list_of("every_fact", every_fact, Fact)
    n_planted = count("n_planted", n_planted, most=lm.n_neurons)
    rng, tables = Random(integer("seed", seed)), []
    for i, fact in enumerate(tqdm(facts, desc="Planting", unit="fact")):
        layer, neurons = i % lm.n_layers, rng.sample(range(lm.n_neurons), n_planted)
        relation = [f for f in every_fact if f.relation == fact.relation]
        new = replace(fact, answer=rng.choice(_other_answers(fact, relation)))
        subject = [f for f in every_fact if f.subject == fact.subject]
        others = subject + rng.sample(relation, min(40, len(relation)))
        key = torch.zeros(len(fact.prompts), lm.n_layers, lm.n_neurons)
        key[:, layer, neurons] = 1
        try:
            with plant_fact(lm, new, layer, neurons, others):
                p = answer_probability(lm, new.prompts, new.answer).mean().item()
                for name, method in methods.items():
                    scores = method(lm, new.prompts, [new.answer] * len(new.prompts))
                    means = agreement(scores, key, n_planted).mean().to_frame().T
                    tables.append(means.assign(method=name, fact=i, layer=layer, probability=p))
        except Inseparable:
            continue
    if not tables:
        raise ValueError(f"none of {len(facts)} facts could be planted with {len(methods)} methods: pass other facts")
    return pd.concat(tables, ignore_index=True)


def _other_answers(fact: Fact, relation: Sequence[Fact]) -> list[str]:
    """The answers of the relation that are no answers of this subject."""
    own = {fact.answer, *(f.answer for f in relation if f.subject == fact.subject)}
    others = sorted({f.answer for f in relation} - own)
    if not others:
        raise ValueError(
            f"{fact.relation} has no other answer for {fact.subject!r}: pass more of its facts as every_fact"
        )
    return others

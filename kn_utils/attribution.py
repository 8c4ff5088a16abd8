"""Knowledge attribution: how much each FFN neuron adds to the probability of a fact's answer (section 3.1)."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .checks import finite_logits, list_of, one_of, shown
from .engine import batches, n_rows, run_with_cache, unique
from .engine.gradients import gradients_at, odds_if_written, runs
from .engine.integration import integrate
from .engine.measures import MEASURES, log_odds, measured
from .engine.quadrature import riemann_points
from .facts import Fact
from .models import LanguageModel
from .prompts import Questions, as_list, first_questions, questions_for

PATHS = ("layer", "neuron")
BASELINES = ("zero", "mean")
ONE_PROMPT = "its mean is itself and leaves nothing to attribute; pass more prompts, or baseline='zero'"
ABLATED = 256  # neurons of a prompt, each switched off in its own copy, in one pass


def ffn_activations(lm: LanguageModel, prompts: Sequence[str]) -> Tensor:
    """The FFN neurons' activations at the mask. As scores, they are the paper's baseline (section 4.1).

    Returns:
        (prompts, layers, neurons), after the GELU.

    Raises:
        ValueError: no prompts, one that does not suit the model, or logits that are not finite.

    Example:
        >>> kn.ffn_activations(lm, fact.prompts).shape
        torch.Size([9, 4, 512])
    """
    questions, which = unique(lm, first_questions(lm, prompts))
    activations = _empty(lm, len(questions))
    for rows, inputs, position in batches(lm, questions):
        run = run_with_cache(lm, inputs, position)
        finite_logits(run.logits)
        activations[rows] = run.activations
    return activations if len(questions) == len(which) else activations[which]


def knowledge_attribution(
    lm: LanguageModel,
    prompts: Sequence[str],
    answer: str | Sequence[str],
    n_steps: int = 20,
    rule: str = "left",
    path: str = "layer",
    baseline: str | Tensor = "zero",
    measure: str = "probability",
    exact_steps: bool = False,
    per_token: bool = False,
) -> Tensor:
    """Integrated gradients of P(answer) over each layer's FFN neurons at the mask, from a baseline to activation w.

    `path="layer"` moves all neurons of a layer together, as the released code does. A layer's scores then sum to
    P(w) - P(layer at its baseline). `path="neuron"` moves one neuron alone, as the formula is written. Its integral
    is exactly P(w) - P(w_i at its baseline), so it is computed as that ablation: `n_steps` and `rule` play no part.

    An answer of several tokens is a sum over its tokens, each of them asked for at its own position, where the
    neurons are: log P(answer) is the sum of its tokens' log P.

    Args:
        answer: the same for every prompt, or one answer per prompt.
        n_steps: m, the points of the Riemann sum.
        rule: "left" takes k = 0..m-1 (released code), "right" k = 1..m (the paper's sum), "midpoint" k + 1/2;
            "gauss-legendre" is close to the true integral with few points.
        baseline: "zero" (the paper), "mean" (each neuron's mean over these prompts; `knowledge_attributions` takes it
            over each fact's own), or a tensor (layers, neurons), or (prompts, layers, neurons) with one per prompt.
        measure: "probability" or "log_probability" (natural); only the latter for answers of several tokens.
        exact_steps: evaluate every point of a sum. By default a Radau rule with fewer nodes stands for it wherever
            that is right to 1e-5 of the highest score (1e-3 with products coarser than float32). A model with ReLUs
            has kinks that few nodes can miss: there every point is evaluated always.
        per_token: do not sum over an answer's tokens. Each has a row of its own, prompt by prompt.

    Returns:
        (prompts, layers, neurons), in units of the measure.

    Raises:
        ValueError: an unknown rule, path, baseline or measure, n_steps below 1, a prompt that does not suit the model,
            an answer outside the vocabulary, or of several tokens if the measure is "probability".

    Example:
        >>> scores = kn.knowledge_attribution(lm, fact.prompts, fact.answer)
        >>> scores.shape
        torch.Size([9, 4, 512])
        >>> scores.sum((0, 2)).argmax().item()  # the layer whose neurons add the most
        2
    """
    one_of("path", path, PATHS)
    prompts = as_list(prompts)
    answers = [answer] * len(prompts) if isinstance(answer, str) else list_of("answer", answer, str)
    asked = questions_for(lm, prompts, answers)
    check_measure(measure, asked, answers)
    start = _baseline(lm, prompts, baseline)[asked.prompt]  # (questions, layers, neurons)
    points = riemann_points(rule, n_steps)
    if path == "neuron":
        scores = ablation_effects(lm, asked, start, measure)
    elif exact_steps or rule == "gauss-legendre" or not lm.is_smooth:
        scores = sum_over_points(lm, asked, start, points, measure)
    else:
        scores = integrate(lm, asked.questions, asked.targets, start, points, measure)
    if per_token or len(scores) == len(prompts):
        return scores
    return torch.zeros_like(scores[: len(prompts)]).index_add_(0, asked.prompt, scores)


def sum_over_points(
    lm: LanguageModel, asked: Questions, baseline: Tensor, points: tuple[Tensor, Tensor], measure: str
) -> Tensor:
    """The definition (section 3.1), a layer's neurons moved together as in the released code. With baseline 0::

        Attr(w_i) = w_i * sum over k of weight_k * dP(alpha_k w) / dw_i

    Args:
        baseline: (questions, layers, neurons).
        points: the alphas and weights of the sum, (points,) each.

    Returns:
        (questions, layers, neurons).
    """
    alpha, weight = (numbers.to(lm.device, lm.dtype)[:, None, None] for numbers in points)
    scores = _empty(lm, len(asked.questions))
    for rows, run, target in runs(lm, asked.questions, asked.targets, n_copies=len(alpha)):
        for layer in range(lm.n_layers):
            w, start = run.activations[:, layer], baseline[rows, layer]  # (prompts, neurons)
            gradients = gradients_at(lm, run, target, layer, start + alpha * (w - start), measure)
            scores[rows, layer] = (w - start) * (weight * gradients).sum(0)  # gradients: (points, prompts, neurons)
    return scores


@torch.no_grad()
def ablation_effects(lm: LanguageModel, asked: Questions, baseline: Tensor, measure: str) -> Tensor:
    """The formula read literally, one neuron moved alone: its integral is P(w) - P(w_i at its baseline), exactly.

    Args:
        baseline: (questions, layers, neurons).

    Returns:
        (questions, layers, neurons).
    """
    effects = _empty(lm, len(asked.questions))
    for rows, run, target in runs(lm, asked.questions, asked.targets, n_copies=ABLATED):
        at_w = measured(log_odds(run.logits, target), measure)  # (prompts,)
        for layer in range(lm.n_layers):
            change, slots = run.activations[:, layer] - baseline[rows, layer], lm.value_slots(layer).T
            for neurons in torch.arange(lm.n_neurons, device=lm.device).split(ABLATED):
                z = run.written[:, layer] - change.T[neurons, :, None] * slots[neurons, None]  # one neuron less
                odds = odds_if_written(lm, run, target, {layer: z})[layer]  # (some neurons, prompts)
                effects[rows[:, None], layer, neurons] = (at_w - measured(odds, measure)).T
    return effects


def check_measure(measure: str, asked: Questions, answers: Sequence[str]) -> None:
    """Raise a ValueError if the measure is unknown, or is the probability where an answer has several tokens."""
    one_of("measure", measure, MEASURES)
    if measure == "probability" and len(asked.questions) > len(answers):
        answer = answers[int((asked.prompt.bincount() > 1).nonzero()[0])]
        raise ValueError(
            f"answer {answer!r} takes several tokens: choose the measure 'log_probability', which sums over them"
        )


def knowledge_attributions(lm: LanguageModel, facts: Iterable[Fact], **options) -> list[Tensor]:
    """`knowledge_attribution` of each fact, with a progress bar.  # one (prompts, layers, neurons) per fact

    A fact's scores do not depend on the facts beside it: baseline "mean" is each neuron's mean over the fact's own
    prompts.

    Args:
        options: of `knowledge_attribution`.

    Raises:
        TypeError: what is no list of facts.
        ValueError: baseline "mean" for a fact with one prompt, and what `knowledge_attribution` raises.

    Example:
        >>> scores = kn.knowledge_attributions(lm, facts[:2])
        >>> [tuple(own.shape) for own in scores]
        [(9, 4, 512), (9, 4, 512)]
    """
    facts, scores, baseline = list_of("facts", facts, Fact), [], options.pop("baseline", "zero")
    for fact in facts:
        if not fact.prompts:
            raise ValueError(f"fact {fact.subject!r} has no prompts that find neurons: give it some, or leave it out")
    if not isinstance(baseline, str) and getattr(baseline, "ndim", 2) != 2:
        raise ValueError("baseline is one for each prompt: pass one for all facts, (layers, neurons), or a name")
    with tqdm(total=len(facts), desc="Attribution", unit="fact") as progress:
        size = max(8, n_rows(lm, 12) // 8)  # so that the prompts of one length fill a pass
        for start in range(0, len(facts), size):
            group = facts[start : start + size]
            sizes = [len(fact.prompts) for fact in group]
            prompts, answers = zip(*((prompt, fact.answer) for fact in group for prompt in fact.prompts), strict=True)
            joint = knowledge_attribution(lm, prompts, answers, baseline=_by_fact(lm, group, baseline), **options)
            scores += joint.split(sizes)
            progress.update(len(group))
    return scores


def _by_fact(lm, facts: Sequence[Fact], baseline: str | Tensor) -> str | Tensor:
    """The baseline of each of the facts' prompts, where it is a mean over the fact's own."""
    if not isinstance(baseline, str) or baseline != "mean":
        return baseline
    sizes = [len(fact.prompts) for fact in facts]
    if min(sizes) < 2:
        raise ValueError(f"fact {facts[sizes.index(min(sizes))].subject!r} has one prompt: {ONE_PROMPT}")
    activations = ffn_activations(lm, [prompt for fact in facts for prompt in fact.prompts]).split(sizes)
    return torch.cat([own.mean(0, keepdim=True).expand_as(own) for own in activations])


def _baseline(lm, prompts: Sequence[str], baseline: str | Tensor) -> Tensor:
    """One baseline per prompt.  # (prompts, layers, neurons)"""
    shape, n_prompts = (lm.n_layers, lm.n_neurons), len(prompts)
    if isinstance(baseline, str) and baseline in BASELINES:
        if baseline == "mean" and n_prompts < 2:
            raise ValueError(f"prompts has one entry: {ONE_PROMPT}")
        zero = torch.zeros(shape, device=lm.device, dtype=lm.dtype)
        return (zero if baseline == "zero" else ffn_activations(lm, prompts).mean(0)).expand(n_prompts, -1, -1)
    if isinstance(baseline, str):
        raise ValueError(f"baseline {baseline!r} is unknown: choose one of {BASELINES}, or pass a tensor")
    try:
        baseline = torch.as_tensor(baseline).detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"baseline is {shown(baseline)}: pass one of {BASELINES}, or a tensor {shape}") from None
    if baseline.shape not in (shape, (n_prompts, *shape)):
        raise ValueError(f"baseline has shape {tuple(baseline.shape)}: pass a tensor (layers, neurons), {shape}")
    if not torch.isfinite(baseline).all():
        raise ValueError("baseline holds numbers that are not finite: pass activations of the model, or 'zero'")
    return baseline.to(lm.device, lm.dtype).expand(n_prompts, *shape)


def _empty(lm: LanguageModel, n: int) -> Tensor:
    return torch.empty(n, lm.n_layers, lm.n_neurons, device=lm.device, dtype=lm.dtype)

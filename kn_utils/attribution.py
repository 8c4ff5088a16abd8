"""Knowledge attribution: how much each FFN neuron adds to the probability of a fact's answer (section 3.1)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from tqdm.auto import tqdm

from .facts import Fact
from .forward import Pass, log_odds, remember, resume
from .models import LanguageModel, answer_ids
from .prompts import Asked, ask_for, batches, n_rows, open_questions
from .quadrature import integrals_between, radau_rule, riemann_points

PATHS = ("layer", "neuron")
MEASURES = ("probability", "log_probability")
BASELINES = ("zero", "mean")

N_NODES = (5, 8)  # evaluations that stand for the points of a Riemann sum: the fewest that the residual allows
TOLERANCE = 3e-4  # of the completeness residual, in units of the highest score; the scores are then right to 1e-5
ABLATED = 256  # neurons of a prompt, each switched off in its own copy, in one pass

Rule = tuple[Tensor, Tensor]  # points in [0, 1], ascending, and their weights


class Path(NamedTuple):
    """From where to where the neurons move, and how the answer is measured on the way."""

    baseline: Tensor  # (layers, neurons)
    measure: str


def ffn_activations(lm: LanguageModel, prompts: Sequence[str]) -> Tensor:
    """The FFN neurons' activations at the mask. As scores, they are the paper's baseline (section 4.1).

    Returns:
        (prompts, layers, neurons), after the GELU.
    """
    activations = _empty(lm, len(prompts), lm.n_layers, lm.n_neurons)
    for rows, inputs, position in batches(lm, open_questions(lm, prompts)):
        activations[rows] = remember(lm, inputs, position).activations
    return activations


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
        baseline: "zero" (the paper), "mean" (each neuron's mean over these prompts), or a tensor (layers, neurons).
        measure: "probability" or "log_probability" (natural); only the latter for answers of several tokens.
        exact_steps: evaluate every point of a sum. By default a Radau rule with fewer nodes stands for it wherever
            that is right to 1e-5 of the highest score.
        per_token: do not sum over an answer's tokens. Each has a row of its own, prompt by prompt.

    Returns:
        (prompts, layers, neurons), in units of the measure.

    Raises:
        ValueError: an unknown rule, path, baseline or measure, n_steps below 1, a prompt that does not suit the model,
            an answer outside the vocabulary, or of several tokens if the measure is "probability".
    """
    if path not in PATHS:
        raise ValueError(f"path {path!r} is unknown: choose one of {PATHS}")
    asked = ask_for(lm, prompts, answer)
    check_measure(lm, [answer] if isinstance(answer, str) else answer, measure)
    way = Path(_baseline(lm, prompts, baseline), measure)
    points = riemann_points(rule, n_steps)
    if path == "neuron":
        scores = _ablation_effects(lm, asked, way)
    else:
        few = () if exact_steps or rule == "gauss-legendre" else [n for n in N_NODES if n < n_steps]
        scores = _integrated_gradients(lm, asked, way, [radau_rule(*points, n_nodes) for n_nodes in few] + [points])
    if per_token or len(scores) == len(prompts):
        return scores
    return torch.zeros_like(scores[: len(prompts)]).index_add_(0, asked.prompt, scores)


def check_measure(lm: LanguageModel, answers: Sequence[str], measure: str) -> None:
    """Raise a ValueError if the measure is unknown, or is the probability of an answer of several tokens."""
    if measure not in MEASURES:
        raise ValueError(f"measure {measure!r} is unknown: choose one of {MEASURES}")
    for answer in dict.fromkeys(answers) if measure == "probability" else ():
        if len(answer_ids(lm, answer)) > 1:
            raise ValueError(
                f"answer {answer!r} takes several tokens: choose the measure 'log_probability', which sums over them"
            )


def knowledge_attributions(lm: LanguageModel, facts: Sequence[Fact], **options) -> list[Tensor]:
    """`knowledge_attribution` of each fact, with a progress bar.  # one (prompts, layers, neurons) per fact"""
    facts, scores = list(facts), []
    with tqdm(total=len(facts), desc="Attribution", unit="fact") as progress:
        size = max(8, n_rows(lm, 12) // 16)  # so that the prompts of one length fill a pass
        for start in range(0, len(facts), size):
            group = facts[start : start + size]
            prompts, answers = zip(*((prompt, fact.answer) for fact in group for prompt in fact.prompts), strict=True)
            joint = knowledge_attribution(lm, prompts, answers, **options)
            scores += joint.split([len(fact.prompts) for fact in group])
            progress.update(len(group))
    return scores


def _integrated_gradients(lm, asked: Asked, way: Path, rules: list[Rule]) -> Tensor:
    """(w - baseline) times the weighted sum over alpha of the gradient at baseline + alpha (w - baseline).

    By the first rule; a layer of a prompt whose residual is too large goes on to the next.  # (n, layers, neurons)
    """
    last = len(rules) - 1
    first = {layer: rules[min(last, layer >= lm.n_layers - 2)] for layer in range(lm.n_layers)}
    n_nodes = [len(alphas) for alphas, _ in rules]
    n_copies = max(n_nodes[0] * (1 + lm.n_layers) // 2, *n_nodes)  # those of later layers need little
    scores = _empty(lm, len(asked.questions), lm.n_layers, lm.n_neurons)
    for rows, past, target in _passes(lm, asked, n_copies, slopes=any(alphas[-1] == 1 for alphas, _ in rules)):
        own, residual = _integrate(lm, past, target, way, first)
        for rule in rules[1:]:
            rough = residual > TOLERANCE * own.flatten(1).abs().amax(1)[:, None]  # (prompts, layers)
            for layer in first:
                if rule is not first[layer] and len(some := rough[:, layer].nonzero()[:, 0]):
                    finer = _integrate(lm, past.part(some), target[some], way, {layer: rule})
                    own[some, layer], residual[some, layer] = (table[:, 0] for table in finer)
        scores[rows] = own
    return scores


def _integrate(lm, past: Pass, target: Tensor, way: Path, rules: dict[int, Rule]) -> tuple[Tensor, Tensor]:
    """Some layers, each by a rule of its own, on the prompts of one pass. A node at w costs nothing more.

    Returns:
        The scores (prompts, some layers, neurons) and the completeness residual (prompts, some layers): how far the
        gradients at the nodes are from explaining how the measure changes from node to node.
    """
    from_baseline = {layer: past.activations[:, layer] - way.baseline[layer] for layer in rules}
    change = {layer: from_baseline[layer] @ lm.value_slots(layer).T for layer in rules}  # (prompts, hidden)
    z = {}
    for layer, (alphas, _) in rules.items():
        inner = alphas[alphas < 1].to(change[layer])[:, None, None]
        z[layer] = past.written[:, layer] - (1 - inner) * change[layer]
    odds, slopes = _log_odds_and_gradients(lm, past, z, target)
    odds_at_w = log_odds(past.logits, target)[None]  # (1, prompts)
    scores, residual = _empty(lm, len(target), len(rules), lm.n_neurons), _empty(lm, len(target), len(rules))
    for column, (layer, (alphas, weights)) in enumerate(rules.items()):
        if alphas[-1] == 1:
            odds[layer] = torch.cat([odds[layer], odds_at_w])
            slopes[layer] = torch.cat([slopes[layer], past.slopes[None, :, layer]])
        gradient = slopes[layer] * _slope(odds[layer], way.measure)[:, :, None]  # (nodes, prompts, hidden)
        mean = torch.einsum("n,nph->ph", weights.to(gradient), gradient)
        scores[:, column] = from_baseline[layer] * (mean @ lm.value_slots(layer))
        measured = _measured(torch.cat([odds[layer], odds_at_w]), way.measure)  # (nodes + 1, prompts)
        integrals = integrals_between(torch.cat([alphas, alphas.new_ones(1)])).to(gradient)  # (nodes, nodes)
        unexplained = measured.diff(dim=0) - integrals @ (gradient * change[layer]).sum(2)
        residual[:, column] = unexplained.cumsum(0).abs().amax(0)
    return scores, residual


def _log_odds_and_gradients(lm, past: Pass, z: dict[int, Tensor], target: Tensor):
    """The answers' log-odds if the FFN of a layer wrote z (nodes, prompts, hidden), and how they change with z.

    Returns:
        layer -> (nodes, prompts), layer -> (nodes, prompts, hidden).
    """
    if not any(map(len, z.values())):
        return {layer: variants[:, :, 0] for layer, variants in z.items()}, z  # no nodes, nothing to ask
    z = {layer: variants.requires_grad_() for layer, variants in z.items()}
    odds = _answer_log_odds(lm, past, z, target)
    with lm.arithmetic():
        slopes = torch.autograd.grad(sum(o.sum() for o in odds.values()), list(z.values()))
    return {layer: o.detach() for layer, o in odds.items()}, dict(zip(z, slopes, strict=True))


@torch.no_grad()
def _ablation_effects(lm, asked: Asked, way: Path) -> Tensor:
    """The measure at w minus the measure with neuron i alone at its baseline.  # (n, layers, neurons)"""
    effects = _empty(lm, len(asked.questions), lm.n_layers, lm.n_neurons)
    for rows, past, target in _passes(lm, asked, ABLATED):
        at_w = _measured(log_odds(past.logits, target), way.measure)
        for layer in range(lm.n_layers):
            from_baseline = past.activations[:, layer] - way.baseline[layer]  # (prompts, neurons)
            slots = lm.value_slots(layer).T  # (neurons, hidden)
            for neurons in torch.arange(lm.n_neurons, device=lm.device).split(ABLATED):
                z = past.written[:, layer] - from_baseline.T[neurons, :, None] * slots[neurons, None]
                odds = _answer_log_odds(lm, past, {layer: z}, target)[layer]  # (some neurons, prompts)
                effects[rows[:, None], layer, neurons] = (at_w - _measured(odds, way.measure)).T
    return effects


def _passes(lm, asked: Asked, n_copies: int, slopes: bool = False) -> Iterator[tuple[Tensor, Pass, Tensor]]:
    """(rows, remembered pass, targets) of as many questions at a time as fit when each is copied `n_copies` times."""
    for rows, inputs, position in batches(lm, asked.questions, n_copies):
        target = asked.targets[rows]
        yield rows, remember(lm, inputs, position, target if slopes else None), target


def _empty(lm, *shape) -> Tensor:
    return torch.empty(shape, device=lm.device, dtype=lm.dtype)


def _answer_log_odds(lm, past: Pass, z: dict[int, Tensor], target: Tensor) -> dict[int, Tensor]:
    """log-odds of the answers if the FFN of a layer wrote z (copies, prompts, hidden).  # layer -> (copies, prompts)"""
    return {
        layer: log_odds(logits.flatten(0, 1), target.repeat(len(logits))).view(logits.shape[:2])
        for layer, logits in resume(lm, past, z).items()
    }


def _measured(odds: Tensor, measure: str) -> Tensor:
    return odds.sigmoid() if measure == "probability" else logsigmoid(odds)


def _slope(odds: Tensor, measure: str) -> Tensor:
    """d measure / d log-odds: P (1 - P), or 1 - P. Nothing cancels where P is close to 1."""
    return odds.sigmoid() * (-odds).sigmoid() if measure == "probability" else (-odds).sigmoid()


def _baseline(lm, prompts, baseline: str | Tensor) -> Tensor:
    shape = (lm.n_layers, lm.n_neurons)
    if isinstance(baseline, Tensor):
        if baseline.shape != shape:
            raise ValueError(f"baseline has shape {tuple(baseline.shape)}: pass a tensor (layers, neurons), {shape}")
        return baseline.to(lm.device, lm.dtype)
    if baseline == "zero":
        return torch.zeros(shape, device=lm.device, dtype=lm.dtype)
    if baseline == "mean":
        return ffn_activations(lm, prompts).mean(0)
    raise ValueError(f"baseline {baseline!r} is unknown: choose one of {BASELINES}, or pass a tensor (layers, neurons)")

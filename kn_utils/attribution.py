"""Knowledge attribution: how much each FFN neuron adds to the probability of a fact's answer (section 3.1)."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from tqdm.auto import tqdm

from .checks import finite_logits, list_of, one_of
from .engine import Run, log_odds, rerun_from, run_with_cache
from .facts import Fact
from .models import LanguageModel
from .prompts import Asked, ask_for, batches, different, n_rows, open_questions
from .quadrature import Rule, integrals_between, nested_rules, riemann_points

PATHS = ("layer", "neuron")
MEASURES = ("probability", "log_probability")
BASELINES = ("zero", "mean")
ONE_PROMPT = "its mean is itself and leaves nothing to attribute; pass more prompts, or baseline='zero'"

N_NODES = 5  # evaluations that stand for the points of a Riemann sum, where the residual allows; else twice as many
TOLERANCE = 1e-4  # of the completeness residual, in units of the highest score; the scores are then right to 1e-5
ROUGH_TOLERANCE = 1e-2  # the same where products are coarser than float32: below it the residual is their rounding
ABLATED = 256  # neurons of a prompt, each switched off in its own copy, in one pass


class Path(NamedTuple):
    """From where to where the neurons move, and how the answer is measured on the way."""

    baseline: Tensor  # (n, layers, neurons), one per question
    measure: str


class Line(NamedTuple):
    """The path of one layer's neurons in some prompts of a pass, and what is known on the way, node by node."""

    prompts: Tensor  # (some,)
    from_baseline: Tensor  # w - baseline, (some, neurons)
    change: Tensor  # of what the FFN writes, (some, hidden)
    odds: Tensor  # the answer's log-odds, (nodes, some)
    slopes: Tensor  # how they change with what the FFN writes, (nodes, some, hidden)

    def part(self, some: Tensor) -> "Line":
        before = (self.prompts[some], self.from_baseline[some], self.change[some])
        return Line(*before, self.odds[:, some], self.slopes[:, some])


def ffn_activations(lm: LanguageModel, prompts: Sequence[str]) -> Tensor:
    """The FFN neurons' activations at the mask. As scores, they are the paper's baseline (section 4.1).

    Returns:
        (prompts, layers, neurons), after the GELU.
    """
    questions, which = different(lm, open_questions(lm, prompts))
    activations = _empty(lm, len(questions), lm.n_layers, lm.n_neurons)
    for rows, inputs, position in batches(lm, questions):
        run = run_with_cache(lm, inputs, position)
        finite_logits(run.logits)
        activations[rows] = run.activations
    return activations if len(questions) == len(prompts) else activations[which]


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
            that is right to 1e-5 of the highest score (1e-3 with products coarser than float32).
        per_token: do not sum over an answer's tokens. Each has a row of its own, prompt by prompt.

    Returns:
        (prompts, layers, neurons), in units of the measure.

    Raises:
        ValueError: an unknown rule, path, baseline or measure, n_steps below 1, a prompt that does not suit the model,
            an answer outside the vocabulary, or of several tokens if the measure is "probability".
    """
    one_of("path", path, PATHS)
    prompts = prompts if isinstance(prompts, str) else list(prompts)
    answers = [answer] * len(prompts) if isinstance(answer, str) else list(answer)
    asked = ask_for(lm, prompts, answers)
    check_measure(measure, asked, answers)
    way = Path(_baseline(lm, prompts, baseline)[asked.prompt], measure)
    points = riemann_points(rule, n_steps)
    if path == "neuron":
        scores = _ablation_effects(lm, asked, way)
    else:
        every_point = exact_steps or rule == "gauss-legendre"
        scores = _integrated_gradients(lm, asked, way, nested_rules(*points, n_steps if every_point else N_NODES))
    if per_token or len(scores) == len(prompts):
        return scores
    return torch.zeros_like(scores[: len(prompts)]).index_add_(0, asked.prompt, scores)


def check_measure(measure: str, asked: Asked, answers: Sequence[str]) -> None:
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
    """
    facts, scores, baseline = list_of("facts", facts, Fact), [], options.pop("baseline", "zero")
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


def _integrated_gradients(lm, asked: Asked, way: Path, rules: list[Rule]) -> Tensor:
    """(w - baseline) times the weighted sum over alpha of the gradient at baseline + alpha (w - baseline).

    By the first rule; a layer of a prompt whose residual is too large goes on to the next.  # (n, layers, neurons)
    """
    n_copies = max(1, int(rules[0].is_new.sum()) * (1 + lm.n_layers) // 2)  # later layers need less
    scores = _empty(lm, len(asked.questions), lm.n_layers, lm.n_neurons)
    for rows, run, target in _runs(lm, asked, n_copies, slopes=not all(rule.is_new.all() for rule in rules)):
        own, odds_at_w = _empty(lm, len(rows), lm.n_layers, lm.n_neurons), log_odds(run.logits, target)
        lines = {layer: _line(lm, run, way.baseline[rows, layer], layer, odds_at_w) for layer in range(lm.n_layers)}
        for rule in rules:
            lines = _evaluate(lm, run, target, lines, rule)
            for layer, line in lines.items():
                mean = _integral(line, rule, way.measure) @ lm.value_slots(layer)
                own[line.prompts, layer] = line.from_baseline * mean
            if rule is not rules[-1]:
                tolerance = TOLERANCE if lm.products == "float32" else ROUGH_TOLERANCE
                allowed = tolerance * own.flatten(1).abs().amax(1)
                lines = _rough(lines, rule, odds_at_w, allowed, way.measure)
        scores[rows] = own
    return scores


def _line(lm, run: Run, baseline: Tensor, layer: int, odds_at_w: Tensor) -> Line:
    """A layer's path in all prompts of a pass, known at its end, w."""
    prompts = torch.arange(len(run.position), device=lm.device)
    from_baseline = run.activations[:, layer] - baseline
    slopes_at_w = run.slopes[None, :, layer] if run.slopes is not None else run.written[:0]
    return Line(prompts, from_baseline, from_baseline @ lm.value_slots(layer).T, odds_at_w[None], slopes_at_w)


def _evaluate(lm, run: Run, target: Tensor, lines: dict[int, Line], rule: Rule) -> dict[int, Line]:
    """The lines, known at all nodes of the rule."""
    new = rule.nodes[rule.is_new].to(lm.device, lm.dtype)[:, None, None]
    if not len(new) or not lines:
        return lines
    of = {layer: line.prompts for layer, line in lines.items()}
    z = {layer: run.written[of[layer], layer] - (1 - new) * line.change for layer, line in lines.items()}
    found = {layer: [] for layer in lines}
    for some in _that_fit(lm, run, z):
        for layer, at_nodes in _odds_and_slopes(lm, run, target, some, of).items():
            found[layer].append(at_nodes)
    known = {}
    for layer, line in lines.items():
        odds, slopes = (torch.cat(parts) for parts in zip(*found[layer], strict=True))
        known[layer] = line._replace(odds=_joined(rule, line.odds, odds), slopes=_joined(rule, line.slopes, slopes))
    return known


def _that_fit(lm, run: Run, z: dict[int, Tensor]) -> Iterator[dict[int, Tensor]]:
    """All z (nodes, prompts, hidden) together, if the memory allows; or layer by layer, some nodes at a time."""
    whole = {layer: t.shape[1] * (lm.n_layers - layer) / lm.n_layers for layer, t in z.items()}  # a node's, in copies
    if sum(len(z[layer]) * whole[layer] for layer in z) <= n_rows(lm, run.n_tokens):
        yield z
        return
    for layer in z:
        for some in z[layer].split(max(1, int(n_rows(lm, run.n_tokens) / whole[layer]))):
            yield {layer: some}


def _odds_and_slopes(lm, run: Run, target: Tensor, z: dict[int, Tensor], of: dict[int, Tensor]):
    """The answers' log-odds if the FFN of a layer wrote z, and how they change with z.

    Returns:
        layer -> ((nodes, prompts), (nodes, prompts, hidden)).
    """
    z = {layer: variants.requires_grad_() for layer, variants in z.items()}
    odds = _answer_log_odds(lm, run, z, target, of)
    with lm.arithmetic():
        slopes = torch.autograd.grad(sum(o.sum() for o in odds.values()), list(z.values()))
    return {layer: (odds[layer].detach(), slope) for layer, slope in zip(z, slopes, strict=True)}


def _joined(rule: Rule, old: Tensor, new: Tensor) -> Tensor:
    """What is known at the new and at the other nodes of a rule, in their order.  # (nodes, ...)"""
    if rule.is_new.all():
        return new
    both = new.new_empty(len(rule.nodes), *new.shape[1:])
    both[rule.is_new], both[~rule.is_new] = new, old
    return both


def _rough(lines: dict[int, Line], rule: Rule, odds_at_w: Tensor, allowed: Tensor, measure: str) -> dict[int, Line]:
    """The lines whose residual is larger than a prompt allows."""
    rough = {}
    for layer, line in lines.items():
        some = _residual(line, rule, odds_at_w[line.prompts], measure) > allowed[line.prompts]
        if some.any():
            rough[layer] = line.part(some)
    return rough


def _integral(line: Line, rule: Rule, measure: str) -> Tensor:
    """The gradient by what the FFN writes, summed along the line.  # (some, hidden)"""
    return torch.einsum("n,nph->ph", rule.weights.to(line.slopes), _gradient(line, measure))


def _residual(line: Line, rule: Rule, odds_at_w: Tensor, measure: str) -> Tensor:
    """The completeness residual: how far the gradients are from explaining how the measure changes from node to node.

    Returns:
        (some,).
    """
    measured = _measured(torch.cat([line.odds, odds_at_w[None]]), measure)  # (nodes + 1, some)
    integrals = integrals_between(torch.cat([rule.nodes, rule.nodes.new_ones(1)])).to(line.slopes)  # (nodes, nodes)
    unexplained = measured.diff(dim=0) - integrals @ (_gradient(line, measure) * line.change).sum(2)
    return unexplained.cumsum(0).abs().amax(0)


def _gradient(line: Line, measure: str) -> Tensor:
    """Of the measure, by what the FFN writes.  # (nodes, some, hidden)"""
    return line.slopes * _slope(line.odds, measure)[:, :, None]


@torch.no_grad()
def _ablation_effects(lm, asked: Asked, way: Path) -> Tensor:
    """The measure at w minus the measure with neuron i alone at its baseline.  # (n, layers, neurons)"""
    effects = _empty(lm, len(asked.questions), lm.n_layers, lm.n_neurons)
    for rows, run, target in _runs(lm, asked, ABLATED):
        at_w = _measured(log_odds(run.logits, target), way.measure)
        for layer in range(lm.n_layers):
            from_baseline = run.activations[:, layer] - way.baseline[rows, layer]  # (prompts, neurons)
            slots = lm.value_slots(layer).T  # (neurons, hidden)
            for neurons in torch.arange(lm.n_neurons, device=lm.device).split(ABLATED):
                z = run.written[:, layer] - from_baseline.T[neurons, :, None] * slots[neurons, None]
                odds = _answer_log_odds(lm, run, {layer: z}, target)[layer]  # (some neurons, prompts)
                effects[rows[:, None], layer, neurons] = (at_w - _measured(odds, way.measure)).T
    return effects


def _runs(lm, asked: Asked, n_copies: int, slopes: bool = False) -> Iterator[tuple[Tensor, Run, Tensor]]:
    """(rows, remembered pass, targets) of as many questions at a time as fit when each is copied `n_copies` times."""
    for rows, inputs, position in batches(lm, asked.questions, n_copies):
        target = asked.targets[rows]
        run = run_with_cache(lm, inputs, position, target if slopes else None)
        finite_logits(run.logits)
        yield rows, run, target


def _empty(lm, *shape) -> Tensor:
    return torch.empty(shape, device=lm.device, dtype=lm.dtype)


def _answer_log_odds(
    lm, run: Run, z: dict[int, Tensor], target: Tensor, of: dict[int, Tensor] | None = None
) -> dict[int, Tensor]:
    """log-odds of the answers if the FFN of a layer wrote z (copies, prompts, hidden).  # layer -> (copies, prompts)"""
    odds = {}
    for layer, logits in rerun_from(lm, run, z, of).items():
        own = target if of is None else target[of[layer]]
        odds[layer] = log_odds(logits.flatten(0, 1), own.repeat(len(logits))).view(logits.shape[:2])
    return odds


def _measured(odds: Tensor, measure: str) -> Tensor:
    return odds.sigmoid() if measure == "probability" else logsigmoid(odds)


def _slope(odds: Tensor, measure: str) -> Tensor:
    """d measure / d log-odds: P (1 - P), or 1 - P. Nothing cancels where P is close to 1."""
    return odds.sigmoid() * (-odds).sigmoid() if measure == "probability" else (-odds).sigmoid()


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
    baseline = torch.as_tensor(baseline)
    if baseline.shape not in (shape, (n_prompts, *shape)):
        raise ValueError(f"baseline has shape {tuple(baseline.shape)}: pass a tensor (layers, neurons), {shape}")
    if not torch.isfinite(baseline).all():
        raise ValueError("baseline holds numbers that are not finite: pass activations of the model, or 'zero'")
    return baseline.to(lm.device, lm.dtype).expand(n_prompts, *shape)

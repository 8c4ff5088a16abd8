"""From scores to knowledge neurons: threshold each prompt, keep what the prompts share (section 3.2)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random

import torch
from torch import Tensor

from .checks import count, finite, fraction, integer, list_of, neuron_set, same_length, scores_3d
from .facts import Fact
from .models import Neuron


def coarse_neurons(scores: Tensor, threshold: float = 0.2) -> Tensor:
    """The neurons of each prompt that score at least `threshold` times its highest score, anywhere in the network.

    Args:
        scores: (prompts, layers, neurons).
        threshold: t in (0, 1]; 0.2 in the paper, 0.5 for its activation baseline.

    Returns:
        bool (prompts, layers, neurons).

    Raises:
        ValueError: scores of another shape, of no prompts, or with NaN or infinity; a threshold outside (0, 1].

    Example:
        >>> scores = torch.tensor([[[1.0, 0.1], [0.3, 0.0]]])  # (1, 2, 2)
        >>> kn.coarse_neurons(scores).tolist()
        [[[True, False], [True, False]]]
    """
    threshold, scores = fraction("threshold", threshold), scores_3d(scores)
    highest = scores.flatten(1).max(1).values[:, None, None]  # (prompts, 1, 1)
    return (scores >= threshold * highest) & (scores > 0)


def coarse_counts(scores: Tensor, threshold: float = 0.2) -> Counter[Neuron]:
    """In how many of the prompts each neuron is coarse: all that refining needs to know of the scores.

    Args:
        scores: (prompts, layers, neurons).
    """
    n_prompts = coarse_neurons(scores, threshold).sum(0)  # (layers, neurons)
    return Counter({Neuron(*index): n_prompts[tuple(index)].item() for index in n_prompts.nonzero().tolist()})


def refine_neurons(scores: Tensor, threshold: float = 0.2, share: float = 0.7, min_prompts: int = 3) -> set[Neuron]:
    """The knowledge neurons of a fact: coarse in at least `share` of its prompts, and in at least `min_prompts`.

    Args:
        scores: (prompts, layers, neurons) of one fact.
        share: p in (0, 1].
        min_prompts: 3 in the released code; the paper names none.

    Raises:
        ValueError: fewer prompts than `min_prompts`, a share outside (0, 1], and what `coarse_neurons` raises.

    Example:
        >>> three, one = [[[1.0, 0.1], [0.3, 0.0]]] * 3, [[[0.1, 1.0], [0.9, 0.0]]]
        >>> scores = torch.tensor(three + one)  # of four prompts
        >>> sorted(kn.refine_neurons(scores, share=0.8))
        [Neuron(layer=1, index=0)]
    """
    scores, min_prompts = scores_3d(scores), count("min_prompts", min_prompts, least=0)
    if len(scores) < min_prompts:
        raise ValueError(f"scores hold {len(scores)} prompts, min_prompts is {min_prompts}: add prompts or lower it")
    return shared_neurons(coarse_counts(scores, threshold), len(scores), share, min_prompts)


def shared_neurons(counts: Counter[Neuron], n_prompts: int, share: float = 0.7, min_prompts: int = 3) -> set[Neuron]:
    """`refine_neurons` from the `coarse_counts` of a fact with `n_prompts` prompts."""
    share, n_prompts = fraction("share", share), count("n_prompts", n_prompts)
    needed = max(share * n_prompts - 1e-6, count("min_prompts", min_prompts, least=0))  # 0.55 * 20 > 11
    return {neuron for neuron, found in counts.items() if found >= needed}


def choose_share(
    scores_per_fact: Sequence[Tensor],
    threshold: float = 0.2,
    start: float = 0.7,
    step: float = 0.05,
    low: float = 2,
    high: float = 5,
) -> float:
    """The paper's adaptive p of one relation (section 4.1): moved by `step`, at most six times, until the mean number
    of knowledge neurons per fact lies in [low, high]. A move that would land further away is not made.

    Args:
        scores_per_fact: for each fact of the relation, (prompts, layers, neurons).

    Raises:
        ValueError: no facts, `low` above `high`, and what `coarse_neurons` raises.

    Example:
        >>> scores = torch.tensor([[[1.0, 0.1], [0.3, 0.0]]] * 3)  # two neurons in each
        >>> kn.choose_share([scores]), kn.choose_share([scores], low=0, high=1)
        (0.7, 1.0)
    """
    facts = [scores_3d(scores, f"scores_per_fact[{i}]") for i, scores in enumerate(scores_per_fact)]
    if not facts:
        raise ValueError("scores_per_fact is empty: pass the scores of at least one fact")
    counts = [(coarse_counts(scores, threshold), len(scores), 3) for scores in facts]
    return share_from_counts(counts, start, step, low, high)


def share_from_counts(
    counts_per_fact: Sequence[tuple[Counter[Neuron], int, int]],
    start: float = 0.7,
    step: float = 0.05,
    low: float = 2,
    high: float = 5,
) -> float:
    """`choose_share` from each fact's (coarse_counts, number of prompts, min_prompts)."""
    share, step = fraction("share", start), finite("step", step, least=0)
    low, high = finite("low", low), finite("high", high)
    if low > high:
        raise ValueError(f"low is {low:g}, high is {high:g}: pass low <= high")
    if len(counts_per_fact) == 0:
        raise ValueError("counts_per_fact is empty: pass the counts of at least one fact")

    def mean_number(share):
        return sum(len(shared_neurons(c, n, share, least)) for c, n, least in counts_per_fact) / len(counts_per_fact)

    def distance(share):  # outside [low, high], 0 within
        return max(low - mean_number(share), mean_number(share) - high, 0)

    for _ in range(6):
        number = mean_number(share)
        moved = round(share + (step if number > high else -step if number < low else 0), 6)
        if not 0 < moved <= 1 or distance(moved) > distance(share):
            break
        share = moved
    return share


def top_neurons(scores: Tensor, k: int) -> set[Neuron]:
    """The k neurons with the highest mean score over the prompts.

    Args:
        scores: (prompts, layers, neurons).
        k: from 0 to as many as there are.

    Raises:
        ValueError: another k, or scores of another shape, of no prompts, or with NaN or infinity.

    Example:
        >>> kn.top_neurons(torch.tensor([[[1.0, 0.1], [0.3, 0.0]]]), k=1)
        {Neuron(layer=0, index=0)}
    """
    mean = scores_3d(scores).mean(0)  # (layers, neurons)
    k = count("k", k, least=0, most=mean.numel())
    return {Neuron(i // mean.shape[1], i % mean.shape[1]) for i in mean.flatten().topk(k).indices.tolist()}


def random_neurons(neurons: Iterable[Neuron], n_neurons: int, seed: int = 0) -> set[Neuron]:
    """As many other neurons from the same layers: the random control.

    Args:
        n_neurons: of one layer.

    Raises:
        ValueError: a neuron outside the model, or a layer with too few others.

    Example:
        >>> drawn = kn.random_neurons(neurons, lm.n_neurons)
        >>> len(drawn) == len(neurons), drawn & neurons
        (True, set())
    """
    neurons = set(neuron_set((None, count("n_neurons", n_neurons)), neurons))
    generator = torch.Generator().manual_seed(count("seed", seed, -(2**63), 2**63 - 1))
    drawn: set[Neuron] = set()
    for layer in sorted({neuron.layer for neuron in neurons}):
        wanted = sum(neuron.layer == layer for neuron in neurons)
        if 2 * wanted > n_neurons:
            others = n_neurons - wanted
            raise ValueError(f"layer {layer} has {others} other neurons for {wanted}: pass at most {n_neurons // 2}")
        order = (Neuron(layer, i) for i in torch.randperm(n_neurons, generator=generator).tolist())
        drawn.update([neuron for neuron in order if neuron not in neurons][:wanted])
    return drawn


def another_facts_neurons(
    facts: Sequence[Fact], neurons: Sequence[Iterable[Neuron]], seed: int = 0
) -> list[set[Neuron]]:
    """For each fact the neurons of another of its relation, drawn at random among those of another subject and answer.

    The control that tells neurons of a fact from neurons of its relation. Empty where a relation has no such fact.

    Args:
        neurons: of each fact, a set.

    Raises:
        ValueError: as many sets as facts are needed.

    Example:
        >>> sets = [{kn.Neuron(0, i)} for i in range(len(facts))]
        >>> others = kn.another_facts_neurons(facts, sets)
        >>> others[0] != sets[0]
        True
    """
    facts, sets, seed = list_of("facts", facts, Fact), [set(own) for own in neurons], integer("seed", seed)
    same_length(facts=facts, neurons=sets)
    of_relation: dict[str, list[int]] = {}
    for i, fact in enumerate(facts):
        of_relation.setdefault(fact.relation, []).append(i)

    def other(i, fact):
        order = of_relation[fact.relation].copy()
        Random(seed + i).shuffle(order)
        return next((j for j in order if facts[j].answer != fact.answer and facts[j].subject != fact.subject), None)

    drawn = [other(i, fact) for i, fact in enumerate(facts)]
    return [set() if j is None else set(sets[j]) for j in drawn]

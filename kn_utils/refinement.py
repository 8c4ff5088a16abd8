"""From scores to knowledge neurons: threshold each prompt, keep what the prompts share (section 3.2)."""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .models import Neuron


def coarse_neurons(scores: Tensor, threshold: float = 0.2) -> Tensor:
    """The neurons of each prompt that score at least `threshold` times its highest score, anywhere in the network.

    Args:
        scores: (prompts, layers, neurons).
        threshold: t in (0, 1]; 0.2 in the paper, 0.5 for its activation baseline.

    Returns:
        bool (prompts, layers, neurons).
    """
    _check_share("threshold", threshold)
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
    """
    if len(scores) < min_prompts:
        raise ValueError(f"scores hold {len(scores)} prompts, min_prompts is {min_prompts}: add prompts or lower it")
    return shared_neurons(coarse_counts(scores, threshold), len(scores), share, min_prompts)


def shared_neurons(counts: Counter[Neuron], n_prompts: int, share: float = 0.7, min_prompts: int = 3) -> set[Neuron]:
    """`refine_neurons` from the `coarse_counts` of a fact with `n_prompts` prompts."""
    _check_share("share", share)
    needed = max(share * n_prompts - 1e-6, min_prompts)  # 0.55 * 20 is 11.000000000000002
    return {neuron for neuron, count in counts.items() if count >= needed}


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
    """
    if len(scores_per_fact) == 0:
        raise ValueError("scores_per_fact is empty: pass the scores of at least one fact")
    counts = [(coarse_counts(scores, threshold), len(scores), 3) for scores in scores_per_fact]
    return share_from_counts(counts, start, step, low, high)


def share_from_counts(
    counts_per_fact: Sequence[tuple[Counter[Neuron], int, int]],
    start: float = 0.7,
    step: float = 0.05,
    low: float = 2,
    high: float = 5,
) -> float:
    """`choose_share` from each fact's (coarse_counts, number of prompts, min_prompts)."""

    def mean_number(share):
        return sum(len(shared_neurons(c, n, share, least)) for c, n, least in counts_per_fact) / len(counts_per_fact)

    def distance(share):  # outside [low, high], 0 within
        return max(low - mean_number(share), mean_number(share) - high, 0)

    share = start
    for _ in range(6):
        number = mean_number(share)
        moved = round(share + (step if number > high else -step if number < low else 0), 6)
        if not 0 < moved <= 1 or distance(moved) > distance(share):
            break
        share = moved
    return share


def top_neurons(scores: Tensor, k: int) -> set[Neuron]:
    """The k neurons with the highest mean score over the prompts, (prompts, layers, neurons)."""
    mean = scores.mean(0)  # (layers, neurons)
    return {Neuron(i // mean.shape[1], i % mean.shape[1]) for i in mean.flatten().topk(k).indices.tolist()}


def random_neurons(neurons: Iterable[Neuron], n_neurons: int, seed: int = 0) -> set[Neuron]:
    """As many other neurons from the same layers, of `n_neurons` each: the random control."""
    neurons = set(neurons)
    generator = torch.Generator().manual_seed(seed)
    drawn: set[Neuron] = set()
    for layer in sorted({neuron.layer for neuron in neurons}):
        wanted = sum(neuron.layer == layer for neuron in neurons)
        order = (Neuron(layer, i) for i in torch.randperm(n_neurons, generator=generator).tolist())
        drawn.update([neuron for neuron in order if neuron not in neurons][:wanted])
    return drawn


def _check_share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} is {value}: choose it in (0, 1]")

"""What a model answers, and how an edit changes it."""

from collections.abc import Callable, Iterable, Sequence

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from tqdm.auto import tqdm

from .checks import count, finite, finite_logits, list_of, neuron_sets, one_of
from .editing import factors_of
from .engine import answer_logits, batches, log_odds, run_with_cache, scaled_logits, unique
from .facts import ROLES, Fact
from .models import LanguageModel, Neuron
from .prompts import Questions, first_questions, questions_for
from .stats import Interval, bootstrap, mean_interval, perplexity, relative_change  # noqa: F401, found here, too

METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of log-odds and rank of the answer; columns of `ask`
    "probability": lambda odds, rank: odds.sigmoid(),
    "log_probability": lambda odds, rank: logsigmoid(odds),
    "log_odds": lambda odds, rank: odds,
    "rank": lambda odds, rank: rank,
    "top1": lambda odds, rank: (rank == 1).to(rank),
}


@torch.no_grad()
def answer_distribution(lm: LanguageModel, prompts: Sequence[str]) -> Tensor:
    """The model's distribution over its vocabulary where each answer begins.  # (prompts, vocabulary)"""
    questions = first_questions(lm, prompts)
    parts = ((rows, finite_logits(answer_logits(lm, *batch))) for rows, *batch in batches(lm, questions))
    rows, logits = zip(*parts, strict=True)
    return torch.cat(logits)[torch.cat(rows).argsort()].softmax(-1)


def answer_probability(lm: LanguageModel, prompts: Sequence[str], answer: str | Sequence[str]) -> Tensor:
    """P(answer) of each prompt: the product over its tokens.  # (prompts,)

    Args:
        answer: the same for every prompt, or one answer per prompt.

    Raises:
        ValueError: a prompt that does not suit the model, no prompts, or an answer outside the vocabulary.
    """
    table = ask_prompts(lm, prompts, answer)
    return torch.tensor(table.probability.to_numpy(), dtype=lm.dtype, device=lm.device)


def top_answers(lm: LanguageModel, prompt: str, k: int = 5) -> list[tuple[str, float]]:
    """The k likeliest answers to a prompt and their probabilities."""
    (distribution,) = answer_distribution(lm, list_of("prompt", [prompt], str))
    probability, token = distribution.topk(count("k", k, most=len(distribution)))
    words = lm.tokenizer.convert_ids_to_tokens(token.tolist())
    return list(zip(words, probability.tolist(), strict=True))


def ask(lm: LanguageModel, facts: Sequence[Fact], prompts: str = "heldout") -> pd.DataFrame:
    """Ask the model every fact.

    Args:
        prompts: "heldout", "find" (those that find neurons) or "select" (those that tell what is known; of a fact that
            has none, those that find).

    Returns:
        One row per fact: subject, relation, answer, and means over its prompts of probability, log_probability and
        log_odds (natural), rank (1 is first) and top1, which is 1 where the answer comes first. Of an answer of
        several tokens the probability is the product, and the rank that of its worst token.

    Raises:
        TypeError: what is no list of facts.
        ValueError: no facts, one without such prompts, another choice of prompts, or logits that are not finite.
    """
    facts = list_of("facts", facts, Fact)
    owner, texts, answers = _prompts_of(facts, prompts)
    return _by_fact(facts, owner, ask_prompts(lm, texts, answers))


def known(lm: LanguageModel, facts: Sequence[Fact]) -> pd.Series:
    """Which facts the model knows: those whose answer comes first on every select prompt.

    Effects are measured on other prompts, so no fact is chosen by those that judge it. Errors as of `ask`.
    """
    return (ask(lm, facts, "select").top1 == 1).rename("known")


@torch.no_grad()
def ask_scaled(
    lm: LanguageModel,
    facts: Sequence[Fact],
    changes: Sequence[tuple[Iterable[Iterable[Neuron]], float]],
    prompts: str = "heldout",
) -> list[pd.DataFrame]:
    """`ask` each fact as it is, and once for each change: with its own neurons' activations multiplied (section 4.3).

    The answers are those within `suppress` or `amplify`, but prompts of many facts run together, and share what lies
    below the neurons.

    >>> before, suppressed, amplified = ask_scaled(lm, facts, [(neurons, 0.0), (neurons, 2.0)])

    Args:
        changes: neurons, a set for each fact, and the factor.
        prompts: as of `ask`.

    Returns:
        1 + changes tables.

    Raises:
        TypeError: what is no list of facts, or no set of neurons.
        ValueError: no changes, a set too many or too few, a neuron outside the model, a factor or logits that are not
            finite, and what `ask` raises.
    """
    facts = list_of("facts", facts, Fact)
    changes = _checked_changes(lm, changes, len(facts))
    owner, texts, answers = _prompts_of(facts, prompts)
    asked = questions_for(lm, texts, answers)
    shape = (1 + len(changes), len(asked.questions))
    odds, rank = (torch.empty(shape, device=lm.device, dtype=lm.dtype) for _ in range(2))
    with tqdm(total=len(asked.questions), desc="Editing", unit="prompt", leave=None, delay=1) as progress:
        for rows, inputs, position in batches(lm, asked.questions, 1 + len(changes)):
            some, which = torch.tensor(owner, device=lm.device)[asked.prompt[rows]].unique(return_inverse=True)
            sets = [([neurons[i] for i in some.tolist()], factor) for neurons, factor in changes]
            factors = torch.stack([factors_of(lm, *change) for change in sets])  # (changes, facts, layers, neurons)
            past = run_with_cache(lm, inputs, position)
            for i, logits in enumerate([past.logits, *scaled_logits(lm, past, factors[:, which])]):
                odds[i, rows], rank[i, rows] = _odds_and_rank(logits, asked.targets[rows])
            progress.update(len(rows))
    return [_by_fact(facts, owner, _metrics(*both, asked)) for both in zip(odds, rank, strict=True)]


@torch.no_grad()
def ask_prompts(lm: LanguageModel, prompts: Sequence[str], answers: str | Sequence[str]) -> pd.DataFrame:
    """The metrics of `ask`, one row per prompt.

    Args:
        answers: the same for every prompt, or one per prompt.
    """
    asked = questions_for(lm, prompts, answers)
    questions, which = unique(lm, asked.questions)  # each is read once, however many answers it is asked for
    odds, rank = (torch.empty(len(which), device=lm.device, dtype=lm.dtype) for _ in range(2))
    for rows, inputs, position in batches(lm, questions):  # rows ascend
        own = torch.isin(which, rows).nonzero()[:, 0]
        logits = answer_logits(lm, inputs, position)[torch.searchsorted(rows, which[own])]
        odds[own], rank[own] = _odds_and_rank(logits, asked.targets[own])
    return _metrics(odds, rank, asked)


def _checked_changes(lm: LanguageModel, changes, n_facts: int) -> list[tuple[list[list[Neuron]], float]]:
    """The changes of `ask_scaled`, read once."""
    checked = []
    for change in list_of("changes", changes, tuple):
        if len(change) != 2:
            raise ValueError(f"a change has {len(change)} parts: pass (neurons, factor), a set of neurons per fact")
        neurons, factor = neuron_sets(lm, change[0]), finite("factor", change[1])
        if len(neurons) != n_facts:
            raise ValueError(f"there are {len(neurons)} sets of neurons for {n_facts} facts: pass one for each fact")
        checked.append((neurons, factor))
    if not checked:
        raise ValueError("changes is empty: pass at least one (neurons, factor), or call ask()")
    return checked


def _prompts_of(facts: Sequence[Fact], role: str) -> tuple[list[int], list[str], list[str]]:
    """All prompts of a role: to which fact each belongs, its text, and its answer."""
    one_of("prompts", role, ROLES)
    if len(facts) == 0:
        raise ValueError("facts is empty: pass at least one fact")
    rows = []
    for i, fact in enumerate(facts):
        select = fact.select_prompts or fact.prompts
        if not (own := {"find": fact.prompts, "select": select, "heldout": fact.heldout_prompts}[role]):
            raise ValueError(f"fact {fact.subject!r} has no {role} prompts: give it some, or ask others by prompts=...")
        rows += [(i, prompt, fact.answer) for prompt in own]
    return tuple(map(list, zip(*rows, strict=True)))


def _by_fact(facts: Sequence[Fact], owner: list[int], measured: pd.DataFrame) -> pd.DataFrame:
    """What `ask` returns, from one row per prompt."""
    about = pd.DataFrame([(fact.subject, fact.relation, fact.answer) for fact in facts])
    about.columns = ["subject", "relation", "answer"]
    return pd.concat([about, measured.groupby(owner).mean()], axis=1)


def _odds_and_rank(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row's target token.  # (rows,), (rows,)"""
    finite_logits(logits)
    return log_odds(logits, target), 1 + (logits > logits.gather(1, target[:, None])).sum(1).to(logits)


def _metrics(odds: Tensor, rank: Tensor, asked: Questions) -> pd.DataFrame:
    """A table with one row per prompt."""
    n_prompts = int(asked.prompt.max()) + 1
    if len(odds) > n_prompts:
        odds, rank = _over_tokens(odds, rank, asked.prompt)
    columns = [metric(odds, rank) for metric in METRICS.values()]
    return pd.DataFrame(torch.stack(columns, 1).cpu().numpy(), columns=list(METRICS))


def _over_tokens(odds: Tensor, rank: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
    """The log-odds and the rank of whole answers, from those of their tokens.  # (prompts,), (prompts,)"""
    n_prompts = int(prompt.max()) + 1
    log_p = odds.new_zeros(n_prompts).index_add_(0, prompt, logsigmoid(odds))
    worst = rank.new_zeros(n_prompts).scatter_reduce_(0, prompt, rank, "amax")
    return log_p - torch.log(-torch.expm1(log_p)), worst

"""Facts that share something with a fact: its answer, its subject, its relation."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from random import Random

import pandas as pd

from ..asking import ask_scaled
from ..checks import count, integer, list_of, neuron_set
from ..facts import Fact
from ..models import LanguageModel, Neuron


def comparable_facts(facts: Sequence[Fact], n_facts: int | None = None, seed: int = 0) -> list[Fact]:
    """The facts of which answer, subject and fact can be told apart.

    Another fact of the relation has the same answer, and a fact of another relation has the same subject. A capital,
    by contrast, belongs to one country: nothing tells a neuron of the answer from a neuron of the fact.

    Args:
        n_facts: about so many facts, all those of subjects drawn at random; every comparable fact when None.
    """
    facts = list_of("facts", facts, Fact)
    kept = _prune({(fact.subject, fact.relation, fact.answer): fact for fact in facts}.values())  # each once
    if n_facts is None or len(kept) <= count("n_facts", n_facts):
        return kept
    sizes, total, drawn = Counter(fact.subject for fact in kept), 0, set()
    for subject in Random(integer("seed", seed)).sample(sorted(sizes), len(sizes)):
        if total < n_facts:
            drawn.add(subject)
            total += sizes[subject]
    return _prune([fact for fact in kept if fact.subject in drawn])


def _prune(facts: Collection[Fact]) -> list[Fact]:
    """Leave out facts with an answer or a subject of their own, until there are none."""
    answers = Counter((fact.relation, fact.answer) for fact in facts)
    relations = Counter(subject for subject, _ in {(fact.subject, fact.relation) for fact in facts})
    kept = [f for f in facts if answers[f.relation, f.answer] > 1 and relations[f.subject] > 1]
    return kept if len(kept) == len(facts) else _prune(kept)


def relatives(fact: Fact, facts: Sequence[Fact], n: int = 3, seed: int = 0) -> dict[str, list[Fact]]:
    """Up to n facts each that share with `fact` its answer, its subject, its relation only, or nothing.

    A subject with several answers has the same answer if one of them is.

    Returns:
        same answer (and relation), same subject (other relation), same relation (other answer), unrelated.
    """
    facts, n = list_of("facts", facts, Fact), count("n", n, least=0)
    groups: dict[str, list[Fact]] = {"same answer": [], "same subject": [], "same relation": [], "unrelated": []}
    answered_alike = {(f.subject, f.relation) for f in facts if f.answer == fact.answer}
    for other in facts:
        if other.subject == fact.subject:
            if other.relation != fact.relation:
                groups["same subject"].append(other)
        elif other.relation == fact.relation:
            if other.answer == fact.answer:
                groups["same answer"].append(other)
            elif (other.subject, other.relation) not in answered_alike:
                groups["same relation"].append(other)
        elif (other.subject, other.relation) not in answered_alike:
            groups["unrelated"].append(other)
    rng = Random(integer("seed", seed))
    return {name: rng.sample(group, min(n, len(group))) for name, group in groups.items()}


def ask_relatives(
    lm: LanguageModel, fact: Fact, groups: Mapping[str, Sequence[Fact]], sets: Mapping[str, Collection[Neuron]]
) -> pd.DataFrame:
    """Ask a fact and its relatives, on held-out prompts, with each set of neurons suppressed in turn.

    Args:
        groups: of `relatives`.
        sets: neurons under any names.

    Returns:
        One row per name of a set that is not empty and per group that is not empty, "own fact" among them: n, the
        number of neurons; before and after, the mean P(answer) of the group's facts.
    """
    asked = [(group, other) for group, own in {"own fact": [fact], **groups}.items() for other in own]
    group, facts = zip(*asked, strict=True)
    named = {name: neuron_set(lm, own, f"sets[{name!r}]") for name, own in sets.items()}
    named = {name: neurons for name, neurons in named.items() if neurons}
    if not named:
        return pd.DataFrame()
    changes = [([neurons] * len(facts), 0.0) for neurons in named.values()]
    before, *after = (table.probability for table in ask_scaled(lm, facts, changes))
    tables = []
    for (name, neurons), p in zip(named.items(), after, strict=True):
        columns = {"name": name, "n": len(neurons), "group": group, "before": before, "after": p}
        tables.append(pd.DataFrame(columns).groupby(["name", "n", "group"], sort=False, as_index=False).mean())
    return pd.concat(tables, ignore_index=True)

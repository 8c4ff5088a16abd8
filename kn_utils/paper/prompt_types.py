"""What activates a fact's neurons? Prompts of five types, and the neurons' mean activation on each (section 4.4).

T1  a sentence with head and tail, the tail masked       T4  another relation with the same type of answer, it masked
T2  a sentence with the head alone, some word masked     T5  another fact of the relation, its tail masked
T3  a sentence about something else, some word masked

The paper compares T1 with T2 and T3. There an entity is masked, here any word: T4 and T5 remove that difference.
A relation that no other shares its type of answer with has T4* instead: any other relation, its answer masked.

As in the released code, the tail is masked outside the head ("Mexico City is in [MASK]"), and T3 draws on all
sentences. Unlike there, a sentence is left out if its answer would stay readable elsewhere, if a "head only" sentence
holds the tail, or if a sentence about something else names the fact's head or tail; long ones are not cut but left out.
"""

import random
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from ..attribution import ffn_activations
from ..checks import count, integer, list_of, neuron_sets, same_length
from ..facts import Fact, load_facts, relation_id
from ..models import LanguageModel, Neuron
from ..prompts import SLOT
from .bingrel import Bag, lab_bags, load_prompts

TYPES = ("T1", "T2", "T3", "T4", "T4*", "T5")
LONGEST = 300  # characters of a sentence; longer ones may not fit into the model
ANSWER_TYPES = {  # a relation that is not listed shares its type of answer with no other
    "city": "P19 P20 P36 P159 P190 P740 P937",
    "country": "P27 P495 P530 P1376",
    "language": "P37 P103 P364 P407 P1412",
    "company": "P108 P127 P176 P178",
}
CANDIDATES = 20  # sentences to look at for each that is wanted


def bags_of(facts: Sequence[Fact], source: str, prompts: str | Path | None = None) -> list[Bag]:
    """The sentences of each fact: written ones for the lab, BingREL's for ParaRel, else `prompt_bags`.

    Args:
        source: where the facts come from, as `load_facts` takes it.
        prompts: "bingrel" or a folder of its files, to be taken for facts of a ParaRel file.

    Raises:
        ValueError: `source` holds other facts than ParaRel; and what `load_prompts` raises.
    """
    if source == "lab":
        return lab_bags(facts)
    if prompts is None and source != "pararel":
        return prompt_bags(facts)
    relations = {relation_id(fact.relation) for fact in facts}
    of_relation: dict[str, list[Fact]] = {}
    for fact in load_facts(source, relations=sorted(relations)):
        of_relation.setdefault(relation_id(fact.relation), []).append(fact)
    found: dict[tuple, Bag] = {}
    for relation, bags in load_prompts(prompts or "bingrel", sorted(relations)).items():
        if len(bags) != len(every := of_relation[relation]):
            raise ValueError(
                f"{source!r} has {len(every)} facts of {relation}, the sentences belong to {len(bags)}: "
                "pass ParaRel as released"
            )
        found |= {(f.subject, f.relation, f.answer): bag for f, bag in zip(every, bags, strict=True)}
    return [found[fact.subject, fact.relation, fact.answer] for fact in facts]


def prompt_bags(facts: Sequence[Fact]) -> list[Bag]:
    """For facts without sentences: their held-out prompts, answered. There are none with the head alone."""
    return [Bag(tuple(prompt.replace(SLOT, fact.answer) for prompt in fact.heldout_prompts), ()) for fact in facts]


def typed_prompts(
    facts: Sequence[Fact], bags: Sequence[Bag], n: int = 5, seed: int = 0, fits: Callable[[str], bool] = bool
) -> pd.DataFrame:
    """Up to `n` prompts of each type for every fact.

    Args:
        bags: the sentences of each fact.
        fits: which prompts to take; a causal model `suits` only some.

    Returns:
        fact (its number), type, prompt. A type that no sentence allows is missing.
    """
    facts, bags, n = list_of("facts", facts, Fact), list_of("bags", bags, Bag), count("n", n)
    same_length(facts=facts, bags=bags)
    rng, rows = random.Random(integer("seed", seed)), []
    same_type, of_relation = same_answer_type(facts), _with_sentences(facts, bags)
    pools = {r: [j for s in own for j in of_relation.get(s, ())] for r, own in same_type.items()}
    others = {r: [] if pools[r] else [j for s in of_relation if s != r for j in of_relation[s]] for r in same_type}
    somewhere = [i for i, bag in enumerate(bags) if bag.head or bag.head_and_tail]

    def answer(j):
        return mask_answer(rng.choice(bags[j].head_and_tail), facts[j])

    def any_word(j):
        return mask_word(rng.choice(bags[j].head + bags[j].head_and_tail), "", rng)

    for i, (fact, bag) in enumerate(zip(facts, bags, strict=True)):

        def elsewhere(pool, prompt_of, fact=fact):
            """Up to n prompts of other facts, none of which names this one's head or tail."""
            for j in rng.sample(pool, min(CANDIDATES * n, len(pool))):
                prompt = prompt_of(j)
                if not prompt or facts[j].answer == fact.answer:
                    continue
                if fact.subject not in prompt and fact.answer not in prompt:
                    yield prompt

        prompts = {
            "T1": (mask_answer(s, fact) for s in _shuffled(bag.head_and_tail, rng)),
            "T2": (mask_word(s, fact.subject, rng) for s in _shuffled(bag.head, rng) if not _tails(s, fact)),
            "T3": elsewhere(somewhere, any_word),
            "T4": elsewhere(pools[fact.relation], answer),
            "T4*": elsewhere(others[fact.relation], answer),
            "T5": elsewhere(of_relation.get(fact.relation, []), answer),
        }
        fitting = {kind: filter(fits, filter(None, own)) for kind, own in prompts.items()}
        rows += [(i, kind, prompt) for kind, own in fitting.items() for prompt in islice(own, n)]
    return pd.DataFrame(rows, columns=["fact", "type", "prompt"])


def same_answer_type(facts: Sequence[Fact]) -> dict[str, list[str]]:
    """For each relation of these facts the others that `ANSWER_TYPES` lists with it, whatever their answers are.

    `akin.akin_relations` compares the answers themselves, for which a few facts are not enough.
    """
    kind = {relation: name for name, members in ANSWER_TYPES.items() for relation in members.split()}
    present = dict.fromkeys(fact.relation for fact in facts)
    return {
        r: [s for s in present if s != r and kind.get(relation_id(s), s) == kind.get(relation_id(r))] for r in present
    }


def mask_answer(sentence: str, fact: Fact) -> str | None:
    """The sentence with its answer masked where it stands as a word, outside the head.

    None if it does not, if it stands there more than once and could still be read, or if the sentence is too long.
    """
    found = _tails(sentence, fact)
    if len(found) != 1 or SLOT in sentence or len(sentence) > LONGEST:
        return None
    return sentence[: found[0].start()] + SLOT + sentence[found[0].end() :]


def mask_word(sentence: str, head: str, rng: random.Random | None = None) -> str | None:
    """The sentence with some word outside its head masked; None if there is none, or it is too long."""
    words = list(re.finditer(r"[^\W\d_]+", _without(sentence, head)))
    if not words or SLOT in sentence or len(sentence) > LONGEST:
        return None
    word = (rng or random.Random(0)).choice(words)
    return sentence[: word.start()] + SLOT + sentence[word.end() :]


def _tails(sentence: str, fact: Fact) -> list[re.Match]:
    """Where the answer stands as a word, outside the head."""
    return list(_word(fact.answer).finditer(_without(sentence, fact.subject)))


def _without(sentence: str, head: str) -> str:
    """The head blanked out wherever it stands as a word; every letter keeps its place."""
    return _word(head).sub(lambda found: "@" * len(found[0]), sentence) if head and head in sentence else sentence


@lru_cache(2**17)
def _word(text: str) -> re.Pattern:
    return re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")


def _with_sentences(facts, bags) -> dict[str, list[int]]:
    """Of each relation, the facts that have a sentence whose answer can be masked."""
    found: dict[str, list[int]] = {}
    for i, (fact, bag) in enumerate(zip(facts, bags, strict=True)):
        if any(mask_answer(sentence, fact) for sentence in bag.head_and_tail):
            found.setdefault(fact.relation, []).append(i)
    return found


def _shuffled(sentences: Sequence[str], rng: random.Random) -> list[str]:
    return rng.sample(sentences, len(sentences))


def prompt_activations(lm: LanguageModel, prompts: pd.DataFrame, sets: Sequence[set[Neuron]]) -> pd.Series:
    """The mean activation of its fact's neurons on each prompt; NaN where the fact has none.

    Args:
        prompts: of `typed_prompts`.
        sets: each fact's neurons.
    """
    return _activations(lm, prompts, {"": sets})[""]


def activations_by_type(
    lm: LanguageModel, prompts: pd.DataFrame, kinds: dict[str, Sequence[set[Neuron]]]
) -> pd.DataFrame:
    """One row per fact, type and kind of neurons: activation, the mean over the fact's prompts of that type."""
    found = pd.concat([prompts[["fact", "type"]], _activations(lm, prompts, kinds)], axis=1)
    means = found.groupby(["fact", "type"]).mean().reset_index()
    return means.melt(["fact", "type"], var_name="kind", value_name="activation").dropna(ignore_index=True)


def _activations(lm, prompts: pd.DataFrame, kinds: dict[str, Sequence[set[Neuron]]]) -> pd.DataFrame:
    """One row per prompt, one column per kind of neurons."""
    kinds = {kind: neuron_sets(lm, sets, f"the neurons {kind}".strip()) for kind, sets in kinds.items()}
    last = min(map(len, kinds.values())) - 1
    for fact in prompts.fact.unique():
        count("a fact of prompts", fact, least=0, most=last)
    values = np.full((len(prompts), len(kinds)), np.nan)
    for start in range(0, len(prompts), 1024):
        part = prompts.iloc[start : start + 1024]
        activations = ffn_activations(lm, part.prompt.tolist())  # (prompts, layers, neurons)
        for row, fact in enumerate(part.fact):
            for column, sets in enumerate(kinds.values()):
                if sets[fact]:
                    layer, index = zip(*sorted(sets[fact]), strict=True)
                    values[start + row, column] = activations[row, list(layer), list(index)].mean().item()
    return pd.DataFrame(values, prompts.index, list(kinds))

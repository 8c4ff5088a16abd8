"""What activates a fact's neurons? Prompts of five types, and the neurons' mean activation on each (section 4.4).

T1  a sentence with head and tail, the tail masked       T4  another relation with the same type of answer, it masked
T2  a sentence with the head alone, some word masked     T5  another fact of the relation, its tail masked
T3  a sentence about something else, some word masked

The paper compares T1 with T2 and T3. There an entity is masked, here any word: T4 and T5 remove that difference.
"""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .attribution import ffn_activations
from .bingrel import Bag, load_prompts
from .facts import Fact, load_facts, relation_id
from .models import LanguageModel, Neuron

TYPES = ("T1", "T2", "T3", "T4", "T5")
LONGEST = 300  # characters of a sentence; longer ones may not fit into the model
LIKE = 0.25  # share of the answers that two relations have in common (Jaccard), to ask for the same type
LAB_SENTENCES = Path(__file__).parent / "lab" / "sentences.json"


def lab_bags(facts: Sequence[Fact]) -> list[Bag]:
    """Free sentences about each fact of the lab's world, written for this purpose; no template is among them."""
    frames = json.loads(LAB_SENTENCES.read_text())

    def filled(part, fact):
        return tuple(
            frame.replace("[X]", fact.subject).replace("[Y]", fact.answer) for frame in frames[part][fact.relation]
        )

    return [Bag(filled("with tail", fact), filled("head", fact)) for fact in facts]


def bags_of(facts: Sequence[Fact], source: str, prompts: str | Path | None = None) -> list[Bag]:
    """The sentences of each fact: written ones for the lab, BingREL's for ParaRel, else `prompt_bags`.

    Args:
        source: where the facts come from, as `load_facts` takes it.
        prompts: "bingrel" or a folder of its files, to be taken for facts of a ParaRel file.
    """
    if source == "lab":
        return lab_bags(facts)
    if prompts is None and source != "pararel":
        return prompt_bags(facts)
    relations = sorted({relation_id(fact.relation) for fact in facts})
    found: dict[tuple, Bag] = {}
    bags = load_prompts(prompts or "bingrel", relations)
    for relation in relations:
        every = load_facts(source, relations=[relation])
        found |= {(f.subject, f.relation, f.answer): bag for f, bag in zip(every, bags[relation], strict=True)}
    return [found[fact.subject, fact.relation, fact.answer] for fact in facts]


def prompt_bags(facts: Sequence[Fact], mask: str = "[MASK]") -> list[Bag]:
    """For facts without sentences: their held-out prompts, answered. There are none with the head alone."""
    return [Bag(tuple(prompt.replace(mask, fact.answer) for prompt in fact.heldout_prompts), ()) for fact in facts]


def typed_prompts(
    facts: Sequence[Fact], bags: Sequence[Bag], mask: str = "[MASK]", n: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Up to `n` prompts of each type for every fact.

    Args:
        bags: the sentences of each fact.

    Returns:
        fact (its number), type, prompt. A type that no sentence allows is missing.
    """
    rng, rows = random.Random(seed), []
    akin = akin_relations(facts)
    of_relation: dict[str, list[int]] = {}
    for i, fact in enumerate(facts):
        of_relation.setdefault(fact.relation, []).append(i)
    with_tail = [
        [prompt for sentence in bag.head_and_tail if (prompt := mask_answer(sentence, fact, mask))]
        for fact, bag in zip(facts, bags, strict=True)
    ]
    for i, fact in enumerate(facts):

        def others(relations, fact=fact):
            pool = [j for r in relations for j in of_relation[r] if with_tail[j]]
            pool = [j for j in pool if facts[j].answer != fact.answer and facts[j].subject != fact.subject]
            return [rng.choice(with_tail[j]) for j in rng.sample(pool, min(n, len(pool)))]

        elsewhere = [s for j in rng.sample(range(len(facts)), min(4 * n, len(facts))) for s in bags[j].head[:1]]
        strangers = [s for s in elsewhere if fact.subject not in s and fact.answer not in s]
        prompts = {
            "T1": rng.sample(with_tail[i], min(n, len(with_tail[i]))),
            "T2": [mask_word(s, fact.subject, mask, rng) for s in bags[i].head[:n] if fact.answer not in s],
            "T3": [mask_word(s, "", mask, rng) for s in strangers[:n]],
            "T4": others(akin[fact.relation]),
            "T5": others([fact.relation]),
        }
        rows += [(i, kind, prompt) for kind, own in prompts.items() for prompt in own if prompt]
    return pd.DataFrame(rows, columns=["fact", "type", "prompt"])


def akin_relations(facts: Sequence[Fact]) -> dict[str, list[str]]:
    """For each relation the others that ask for the same type of answer."""
    answers: dict[str, set[str]] = {}
    for fact in facts:
        answers.setdefault(fact.relation, set()).add(fact.answer)
    return {
        r: [s for s in answers if s != r and len(answers[r] & answers[s]) >= LIKE * len(answers[r] | answers[s])]
        for r in answers
    }


def mask_answer(sentence: str, fact: Fact, mask: str = "[MASK]") -> str | None:
    """The sentence with its answer masked where it stands as a word; None if it does not, or is too long."""
    found = re.search(rf"(?<!\w){re.escape(fact.answer)}(?!\w)", sentence)
    if not found or mask in sentence or len(sentence) > LONGEST:
        return None
    return sentence[: found.start()] + mask + sentence[found.end() :]


def mask_word(sentence: str, head: str, mask: str = "[MASK]", rng: random.Random | None = None) -> str | None:
    """The sentence with some word outside its head masked; None if there is none, or it is too long."""
    start = sentence.find(head) if head else -1
    words = [
        word for word in re.finditer(r"[^\W\d_]+", sentence)
        if start < 0 or word.end() <= start or word.start() >= start + len(head)
    ]  # fmt: skip
    if not words or mask in sentence or len(sentence) > LONGEST:
        return None
    word = (rng or random.Random(0)).choice(words)
    return sentence[: word.start()] + mask + sentence[word.end() :]


def prompt_activations(lm: LanguageModel, prompts: pd.DataFrame, sets: Sequence[set[Neuron]]) -> pd.Series:
    """The mean activation of its fact's neurons on each prompt; NaN where the fact has none.

    Args:
        prompts: of `typed_prompts`.
        sets: each fact's neurons.
    """
    values = np.full(len(prompts), np.nan)
    for start in range(0, len(prompts), 1024):
        part = prompts.iloc[start : start + 1024]
        activations = ffn_activations(lm, part.prompt.tolist())  # (prompts, layers, neurons)
        for row, fact in enumerate(part.fact):
            if sets[fact]:
                layer, index = zip(*sorted(sets[fact]), strict=True)
                values[start + row] = activations[row, list(layer), list(index)].mean().item()
    return pd.Series(values, index=prompts.index)


def activations_by_type(
    lm: LanguageModel, prompts: pd.DataFrame, kinds: dict[str, Sequence[set[Neuron]]]
) -> pd.DataFrame:
    """One row per fact, type and kind of neurons: activation, the mean over the fact's prompts of that type."""
    tables = []
    for kind, sets in kinds.items():
        activation = prompt_activations(lm, prompts, sets)
        means = activation.groupby([prompts.fact, prompts.type]).mean().rename("activation").reset_index()
        tables.append(means.assign(kind=kind))
    return pd.concat(tables, ignore_index=True).dropna(ignore_index=True)

"""The lab models' figures, as their cards print them: on templates that training never saw, with intervals."""

import json
from pathlib import Path

from ..asking import ask, ask_scaled
from ..attribution import ffn_activations, knowledge_attributions
from ..data.files import write_atomically
from ..facts import Fact
from ..models import LanguageModel
from ..prompts import askable
from ..refinement import another_facts_neurons, random_neurons, refine_neurons, top_neurons
from ..stats import mean_interval, relative_change, share_interval


def figures(lm: LanguageModel, facts: list[Fact], sample: list[Fact]) -> dict:
    """Recall over all `facts`; the effect of suppressing four kinds of neurons over a `sample` of them.

    Both on the prompts that the model can be asked; "select" is of the facts that have select prompts among these.
    """
    facts, sample = askable(lm, facts), askable(lm, sample)
    answers, selected = ask(lm, facts), ask(lm, [fact for fact in facts if fact.select_prompts], "select")
    knowledge = [refine_neurons(scores) for scores in knowledge_attributions(lm, sample)]
    most_active = [top_neurons(ffn_activations(lm, f.prompts), len(k)) for f, k in zip(sample, knowledge, strict=True)]
    random = [random_neurons(k, lm.n_neurons, seed=i) for i, k in enumerate(knowledge)]
    another = another_facts_neurons(sample, knowledge)
    sets = {"knowledge": knowledge, "another fact": another, "most active": most_active, "random": random}
    before, *after = (table.probability for table in ask_scaled(lm, sample, [(own, 0.0) for own in sets.values()]))
    effects = {name: relative_change(before, p) for name, p in zip(sets, after, strict=True)}
    return {
        "facts": len(facts),
        "heldout_prompts": sum(len(fact.heldout_prompts) for fact in facts),
        "select_facts": len(selected),
        "select_top1": share_interval(selected.top1),
        "select_top1_by_relation": selected.groupby("relation").top1.mean().to_dict(),
        "heldout_top1": share_interval(answers.top1),
        "heldout_probability": mean_interval(answers.probability),
        "heldout_top1_by_relation": answers.groupby("relation").top1.mean().to_dict(),
        "sampled_facts": len(sample),
        "neurons_per_fact": mean_interval([len(k) for k in knowledge]),
        "suppression": effects,
    }


def write(report: dict, path: Path) -> None:
    """Write a card, at once."""
    text = json.dumps(report, indent=2) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8", newline="\n"))

"""Numbers of the lab models that no version of any library below may change.

    python tests/lab_numbers.py    # writes lab_numbers.json, with the pinned versions, when a change of ours is meant
"""

import json
from pathlib import Path

import kn_utils as kn

FILE = Path(__file__).with_suffix(".json")
MODELS = "lab", "lab-causal"
SAMPLE = dict(n_facts=4, seed=5)


def lab_numbers(name):
    """Facts of one shipped model, by subject and relation; the recall of all together."""
    lm = kn.load_model(name, device="cpu")
    facts = kn.askable(lm, kn.load_facts("lab", **SAMPLE))
    numbers = {f"{fact.subject}, {fact.relation}": fact_numbers(lm, fact, facts) for fact in facts}
    return {**numbers, "heldout probability": list(kn.mean_interval(kn.ask(lm, facts).probability))}


def fact_numbers(lm, fact, others):
    """A fact's neurons and their mean scores; P(answer) as it is, with them off, and after an update."""
    scores = kn.knowledge_attribution(lm, fact.prompts, fact.answer)
    neurons = sorted(kn.refine_neurons(scores))
    new = next(other.answer for other in others if other.answer != fact.answer)
    numbers = {
        "neurons": [list(neuron) for neuron in neurons],
        "scores": [float(scores.mean(0)[neuron]) for neuron in neurons],
        "probability": probabilities(lm, fact),
    }
    with kn.suppress(lm, neurons):
        numbers["suppressed"] = probabilities(lm, fact)
    with kn.update_fact(lm, neurons, old=fact.answer, new=new):
        numbers["updated"] = probabilities(lm, fact)
    return numbers


def probabilities(lm, fact):
    return kn.answer_probability(lm, fact.prompts, fact.answer).tolist()


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: lab_numbers(name) for name in MODELS}) + "\n", encoding="utf-8")

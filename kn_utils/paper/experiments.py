"""The paper's experiments over many facts, each one function: facts in, a tidy table out (sections 4 and 5).

A table `neurons` has one row per fact and one column per kind of neurons, each entry a set of `Neuron`:
`knowledge` (by attribution), `another fact` (the knowledge neurons of another fact of the relation), `activation` (the
paper's baseline: activation as the score, refined alike, so that each fact has its own number), `most active` (as many
as knowledge neurons, the most activated) and `random` (as many others of the same layers).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random

import pandas as pd

from ..asking import METRICS, ask, ask_scaled
from ..attribution import ffn_activations, knowledge_attributions
from ..checks import count, integer, list_of, neuron_sets, same_length
from ..editing import erase_relation, update_fact
from ..facts import Fact, relation_id
from ..models import LanguageModel, Neuron, answer_ids
from ..refinement import (
    another_facts_neurons,
    coarse_counts,
    random_neurons,
    share_from_counts,
    shared_neurons,
)

THRESHOLDS = {"knowledge": 0.2, "activation": 0.5}  # t of the released code
FACTORS = {"suppress": 0.0, "amplify": 2.0}
KINDS = ("knowledge", "another fact", "activation", "most active", "random")
ERASED = ("P19", "P27", "P106", "P937")  # the relations of section 5.2
N_ERASED = 20  # value slots
OWN = 0.1  # of the relation's other facts: below it a neuron is the fact's own (section 5.1)
EDITS_PER_RELATION = 10
BYSTANDERS = 30  # facts of the same relation, and as many of others, that are asked inside each edit
MEASURED = 4000  # facts that are asked after each erasure, at most
MOST_ACTIVATED = 100  # neurons per fact kept to match the number of knowledge neurons


def find_coarse(lm: LanguageModel, facts: Sequence[Fact], measure: str = "probability") -> pd.DataFrame:
    """Attribute, and keep what refining needs.

    Args:
        measure: of `knowledge_attribution`.

    Returns:
        One row per fact: n_prompts; the `coarse_counts` of knowledge (attribution) and activation;
        most active, its most activated neurons in order; scores, {neuron: mean score} above 0.1 of the highest.
    """
    facts = _facts(facts)
    rows, prompts = [], [prompt for fact in facts for prompt in fact.prompts]
    all_scores = knowledge_attributions(lm, facts, measure=measure)
    all_activations = ffn_activations(lm, prompts).split([len(fact.prompts) for fact in facts])
    for fact, scores, activations in zip(facts, all_scores, all_activations, strict=True):
        mean, active = scores.mean(0), activations.mean(0).flatten()
        most_active = active.topk(min(MOST_ACTIVATED, len(active))).indices.tolist()
        high = (mean > 0.1 * mean.max()).nonzero().tolist()
        rows.append({
            "n_prompts": len(fact.prompts),
            "knowledge": coarse_counts(scores, THRESHOLDS["knowledge"]),
            "activation": coarse_counts(activations, THRESHOLDS["activation"]),
            "most active": [Neuron(*divmod(i, lm.n_neurons)) for i in most_active],
            "scores": {Neuron(*index): mean[tuple(index)].item() for index in high},
        })  # fmt: skip
    return pd.DataFrame(rows)


def refine(facts: Sequence[Fact], coarse: pd.DataFrame, n_neurons: int, seed: int = 0) -> pd.DataFrame:
    """The table `neurons` of all facts, p chosen for each relation, and `share`, the p of the knowledge neurons.

    Args:
        coarse: of `find_coarse`, for the same facts.
        n_neurons: of one layer.
    """
    relations = pd.Series([fact.relation for fact in _facts(facts)])
    same_length(facts=relations, coarse=coarse)
    table = pd.DataFrame(index=coarse.index)
    for kind in THRESHOLDS:
        counts = [(c, n, min(3, n)) for c, n in zip(coarse[kind], coarse.n_prompts, strict=True)]
        groups = relations.groupby(relations).groups.items()
        share = relations.map({r: share_from_counts([counts[i] for i in rows]) for r, rows in groups})
        table[kind] = [shared_neurons(c, n, p, least) for (c, n, least), p in zip(counts, share, strict=True)]
        if kind == "knowledge":
            table["share"] = share.to_numpy()
    table["another fact"] = another_facts_neurons(facts, table.knowledge, seed)
    tops = zip(coarse["most active"], table.knowledge, strict=True)
    table["most active"] = [set(top[: len(own)]) for top, own in tops]
    table["random"] = [random_neurons(own, n_neurons, seed + i) for i, own in enumerate(table.knowledge)]
    return table


def suppress_amplify(lm: LanguageModel, facts: Sequence[Fact], neurons: pd.DataFrame) -> pd.DataFrame:
    """Ask every fact untouched, and with each kind of its neurons multiplied by 0 and by 2 (section 4.3).

    Returns:
        One row per fact, prompts ("find", "heldout"), operation ("none", "suppress", "amplify") and kind: the
        metrics of `ask`, means over the prompts.
    """
    facts = _facts(facts)
    same_length(facts=facts, neurons=neurons)
    conditions = [(operation, kind) for operation in FACTORS for kind in KINDS if kind in neurons]
    changes = [(neurons[kind].tolist(), FACTORS[operation]) for operation, kind in conditions]
    tables = []
    for which in ("find", "heldout"):
        measured = ask_scaled(lm, facts, changes, which)
        for (operation, kind), table in zip([("none", "none"), *conditions], measured, strict=True):
            means = table[list(METRICS)].rename_axis("fact").reset_index()
            tables.append(means.assign(prompts=which, operation=operation, kind=kind))
    return pd.concat(tables, ignore_index=True)


def own_neurons(facts: Sequence[Fact], knowledge: Sequence[set[Neuron]]) -> list[set[Neuron]]:
    """Of each fact, the knowledge neurons that fewer than 10 % of the relation's other facts share (section 5.1).

    A fact that stands in the list twice is no other fact to itself.
    """
    facts, knowledge = _facts(facts), [set(own) for own in knowledge]
    same_length(facts=facts, knowledge=knowledge)
    held: dict[tuple, set[Neuron]] = {}
    for fact, neurons in zip(facts, knowledge, strict=True):
        held.setdefault(_triple(fact), set()).update(neurons)
    holders: dict[str, Counter[Neuron]] = {}
    for (_, relation, _), neurons in held.items():
        holders.setdefault(relation, Counter()).update(neurons)
    n_facts = Counter(relation for _, relation, _ in held)
    return [
        {n for n in neurons if holders[f.relation][n] - 1 < OWN * (n_facts[f.relation] - 1)}
        for f, neurons in zip(facts, knowledge, strict=True)
    ]


def edit_sets(
    facts: Sequence[Fact], coarse: pd.DataFrame, neurons: pd.DataFrame, n_neurons: int, seed: int = 0
) -> pd.DataFrame:
    """The neurons in which facts are rewritten: each fact's own, and three controls.

    Args:
        coarse, neurons: of `find_coarse` and `refine`, for the same facts.
        n_neurons: of one layer.

    Returns:
        A table like `neurons`: knowledge (`own_neurons`), another fact (those of another fact of the relation), most
        active (as many as its own) and random (as many).
    """
    own = own_neurons(facts, neurons.knowledge)
    return pd.DataFrame({
        "knowledge": own,
        "another fact": another_facts_neurons(facts, own, seed),
        "most active": [set(top[: len(o)]) for top, o in zip(coarse["most active"], own, strict=True)],
        "random": [random_neurons(o, n_neurons, seed + i) for i, o in enumerate(own)],
    })  # fmt: skip


def choose_edits(
    lm: LanguageModel, facts: Sequence[Fact], own: Sequence[set[Neuron]], known: Sequence[bool], seed: int = 0
) -> pd.DataFrame:
    """Up to ten facts per relation that have neurons of their own, known ones first, each with a new answer.

    Old and new answers have one token, since their embeddings are written. A new answer is none that the subject has
    in the relation already.

    Returns:
        One row per edit: fact (its number), new (another answer of the relation).
    """
    facts, known = _facts(facts), list(known)
    own = neuron_sets(lm, own, "own")
    same_length(facts=facts, own=own, known=known)
    rng, answers, right = Random(integer("seed", seed)), {}, _answers(facts)
    for fact in facts:
        if len(answer_ids(lm, fact.answer)) == 1:
            answers.setdefault(fact.relation, set()).add(fact.answer)
    chosen: dict[str, list[dict]] = {relation: [] for relation in answers}
    for i in sorted(rng.sample(range(len(facts)), len(facts)), key=lambda i: not known[i]):
        relation, old = facts[i].relation, facts[i].answer
        others = sorted(answers.get(relation, set()) - right[facts[i].subject, relation])
        if own[i] and others and old in answers[relation] and len(chosen[relation]) < EDITS_PER_RELATION:
            chosen[relation].append({"fact": i, "new": rng.choice(others)})
    return pd.DataFrame([edit for edits in chosen.values() for edit in edits], columns=["fact", "new"])


def update_facts(
    lm: LanguageModel, facts: Sequence[Fact], sets: pd.DataFrame, edits: pd.DataFrame, seed: int = 0
) -> pd.DataFrame:
    """Rewrite each chosen fact in its own neurons, and in those of the controls, and ask it and others (section 5.1).

    Args:
        sets: of `edit_sets`.
        edits: of `choose_edits`.

    The other facts are of other subjects, or of other relations: what else is right of the subject in the relation is
    no bystander.

    Returns:
        One row per edit and kind ("none" and those of `sets`), on held-out prompts: change (t is no longer the top
        answer) and success (t' is), as shares of the prompts; p_old, p_new; intra and inter, the mean log P(answer)
        of other facts of the relation and of other relations; leak, the share of the latter that now answer t'.
    """
    facts, rows = _facts(facts), []
    same_length(facts=facts, sets=sets)
    checked = {kind: neuron_sets(lm, sets[kind], f"the neurons {kind}") for kind in sets}
    for i, new in edits[["fact", "new"]].itertuples(index=False):
        i = count("a fact of edits", i, least=0, most=len(facts) - 1)
        fact, rng = facts[i], Random(seed + i)
        near = [f for f in facts if f.relation == fact.relation and f.subject != fact.subject]
        far = [f for f in facts if f.relation != fact.relation]
        near, far = (rng.sample(group, min(BYSTANDERS, len(group))) for group in (near, far))
        asked = [fact, replace(fact, answer=new), *near, *far, *(replace(f, answer=new) for f in far)]
        start = [2, 2 + len(near), 2 + len(near) + len(far), len(asked)]
        for kind, neurons in {"none": set(), **{kind: each[i] for kind, each in checked.items()}}.items():
            with update_fact(lm, neurons, fact.answer, new):
                table = ask(lm, asked)
            log_p = table.log_probability
            rows.append({
                "fact": i, "new": new, "kind": kind, "n_neurons": len(neurons),
                "change": 1 - table.top1[0], "success": table.top1[1],
                "p_old": table.probability[0], "p_new": table.probability[1],
                "intra": log_p[start[0] : start[1]].mean(), "inter": log_p[start[1] : start[2]].mean(),
                "leak": table.top1[start[2] : start[3]].mean(),
            })  # fmt: skip
    return pd.DataFrame(rows)


def frequent_neurons(neurons: Iterable[set[Neuron]], k: int = N_ERASED) -> list[Neuron]:
    """The k neurons that most facts hold, the commonest first."""
    k = count("k", k, least=0)
    counts = Counter(neuron for own in neurons for neuron in sorted(own))
    return [neuron for neuron, _ in counts.most_common(k)]


def erase_relations(
    lm: LanguageModel, facts: Sequence[Fact], neurons: pd.DataFrame, measured: Sequence[int], seed: int = 0
) -> pd.DataFrame:
    """Erase the 20 most frequent neurons of each of four relations, and ask all the measured facts (section 5.2).

    Args:
        measured: numbers of the facts to ask.

    Returns:
        One row per fact, erased relation ("none" first) and kind: log_probability and top1 on held-out prompts.
    """
    facts = _facts(facts)
    same_length(facts=facts, neurons=neurons)
    measured = [count("a fact of measured", i, least=0, most=len(facts) - 1) for i in measured]
    asked = [facts[i] for i in measured]

    def ask_all(erased, kind):
        columns = ask(lm, asked)[["log_probability", "top1"]]
        return columns.assign(fact=list(measured), erased=erased, kind=kind)

    tables = [ask_all("none", "none")]
    for relation in ERASED:
        rows = [i for i, fact in enumerate(facts) if relation_id(fact.relation) == relation]
        sets = {k: frequent_neurons(neurons[k].iloc[rows]) for k in ("knowledge", "activation", "most active")}
        sets["random"] = random_neurons(sets["knowledge"], lm.n_neurons, seed)
        for kind, slots in sets.items() if rows else ():
            with erase_relation(lm, slots):
                tables.append(ask_all(relation, kind))
    return pd.concat(tables, ignore_index=True)


def _facts(facts: Iterable[Fact]) -> list[Fact]:
    """At least one fact."""
    if not (facts := list_of("facts", facts, Fact)):
        raise ValueError("facts is empty: pass at least one fact")
    return facts


def _triple(fact: Fact) -> tuple[str, str, str]:
    return fact.subject, fact.relation, fact.answer


def _answers(facts: Iterable[Fact]) -> dict[tuple[str, str], set[str]]:
    """All answers of each subject and relation."""
    answers: dict[tuple[str, str], set[str]] = {}
    for subject, relation, answer in map(_triple, facts):
        answers.setdefault((subject, relation), set()).add(answer)
    return answers

"""The experiments of a run, one entry each: the command's choices, the stages and the tables of results follow.

To add one, write a function that computes its table (as in experiments.py), a plan, and an entry in `EXPERIMENTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from ..facts import Fact, relation_id
from . import experiments
from .prompt_types import activations_by_type

if TYPE_CHECKING:
    from .stages import Run


class Plan(NamedTuple):
    """How to make a table: some items at a time, each item by itself."""

    n_items: int
    compute: Callable[[list[int]], pd.DataFrame]  # the rows of some items; their column `fact` is a fact's number


class Experiment(NamedTuple):
    """One experiment.

    Attributes:
        table: the attribute of `Results` that holds its rows.
        plan: how to make the table, once the run has its neurons.
        chunk: items in one chunk, for each fact in a chunk of finding.
        check: raises a ValueError if there is nothing to do for these facts, when the experiment is asked for alone.
        ready: raises a ValueError, likewise, if this run has nothing to ask.
        needs_update: only models that `update_fact` takes have it.
    """

    table: str
    plan: Callable[[Run], Plan]
    chunk: float = 1.0
    check: Callable[[Sequence[Fact]], None] = lambda facts: None
    ready: Callable[[Run], None] = lambda run: None
    needs_update: bool = False


def plan_effects(run: Run) -> Plan:
    """Suppress and amplify the neurons of some facts."""

    def compute(rows):
        table = experiments.suppress_amplify(run.lm, run.part(rows), run.neurons.iloc[rows])
        return table.assign(fact=[rows[i] for i in table.fact])

    return Plan(len(run.facts), compute)


def plan_updates(run: Run) -> Plan:
    """Rewrite some of the chosen facts."""
    sets = experiments.edit_sets(run.facts, run.coarse, run.neurons, run.lm.n_neurons, run.seed)
    edits = experiments.choose_edits(run.lm, run.facts, sets.knowledge, run.known, run.seed)

    def compute(rows):
        return experiments.update_facts(run.lm, run.facts, sets, edits.iloc[rows], run.seed)

    return Plan(len(edits), compute)


def plan_erasures(run: Run) -> Plan:
    """Erase each relation, and ask some of the measured facts."""
    measured = range(0, len(run.facts), -(-len(run.facts) // experiments.MEASURED))

    def compute(rows):
        return experiments.erase_relations(run.lm, run.facts, run.neurons, [measured[i] for i in rows], run.seed)

    return Plan(len(measured), compute)


def plan_activations(run: Run) -> Plan:
    """Activate the neurons of some facts."""
    kinds = {kind: run.neurons[kind].tolist() for kind in ("knowledge", "another fact", "most active", "random")}

    def compute(rows):
        return activations_by_type(run.lm, run.prompts[run.prompts.fact.isin(rows)], kinds)

    return Plan(len(run.facts), compute)


def check_answers(facts: Sequence[Fact]) -> None:
    """Some relation has two answers."""
    if len({(f.relation, f.answer) for f in facts}) == len({f.relation for f in facts}):
        raise ValueError(
            "experiment 'update' gives a fact another answer of its relation, and no relation here has two: choose "
            "more facts, or another experiment"
        )


def check_erased(facts: Sequence[Fact]) -> None:
    """Some fact is of a relation that is erased."""
    present = dict.fromkeys(relation_id(fact.relation) for fact in facts)
    if not present.keys() & set(experiments.ERASED):
        raise ValueError(
            f"experiment 'erase' erases {', '.join(experiments.ERASED)}, and the facts are of {', '.join(present)}: "
            "choose facts of one of these relations, or another experiment"
        )


def check_sentences(run: Run) -> None:
    """Some sentence can be asked."""
    if run.prompts.empty:
        raise ValueError(
            f"experiment 'prompts' finds no sentence about the facts of {run.about['facts']!r} that the model can "
            "be asked: choose other facts, or another experiment"
        )


EXPERIMENTS = {
    "suppress_amplify": Experiment("effects", plan_effects),
    "update": Experiment("updates", plan_updates, chunk=1 / 8, check=check_answers, needs_update=True),
    "erase": Experiment("erasures", plan_erasures, chunk=4, check=check_erased),
    "prompts": Experiment("activations", plan_activations, chunk=4, ready=check_sentences),
}


def choices() -> tuple[str, ...]:
    """What a run can be asked for: all experiments, only to find the neurons, or one experiment."""
    return ("all", "find", *EXPERIMENTS)


def tables() -> tuple[str, ...]:
    """The tables of a run's results, beside the one of its facts."""
    return tuple(experiment.table for experiment in EXPERIMENTS.values())

"""The headline numbers of the paper's experiments on one lab model: one row per number, with its interval over facts.

The model is asked on the prompts that measure; which facts it knows, on those that select.
"""

from collections.abc import Iterator, Sequence

import pandas as pd

from ..asking import ask, known
from ..facts import Fact, relation_id
from ..models import LanguageModel
from ..paper import experiments
from ..stats import mean_interval, perplexity_growth, relative_change, share_interval

COLUMNS = ["quantity", "kind", "value", "low", "high"]
Row = tuple[str, str, float, float, float]


def headline(lm: LanguageModel, facts: Sequence[Fact], everything: Sequence[Fact], seed: int = 0) -> pd.DataFrame:
    """Recall over `everything`; all else over `facts`, a sample of it.

    Returns:
        One row per quantity and kind of neurons ("none" for a number that has none), value, low and high:
        "recall, select" and "recall, measure" (top-1); "neurons per fact"; "suppress" and "amplify", the relative
        change of P(answer); "change" and "success" of the update, shares of prompts; for each erased relation
        "growth, P19", that of its facts' perplexity, and "growth of others, P19", that of all other facts.
    """
    rows: list[Row] = []
    for name, prompts in {"select": "select", "measure": "heldout"}.items():
        rows.append((f"recall, {name}", "none", *share_interval(ask(lm, everything, prompts).top1)))
    coarse = experiments.find_coarse(lm, facts)
    neurons = experiments.refine(facts, coarse, lm.n_neurons, seed)
    rows.append(("neurons per fact", "knowledge", *mean_interval(neurons.knowledge.map(len))))
    rows += effects(experiments.suppress_amplify(lm, facts, neurons))
    sets = experiments.edit_sets(facts, coarse, neurons, lm.n_neurons, seed)
    edits = experiments.choose_edits(lm, facts, sets.knowledge, known(lm, facts), seed)
    rows += updates(experiments.update_facts(lm, facts, sets, edits, seed))
    rows += erasures(experiments.erase_relations(lm, facts, neurons, range(len(facts)), seed), facts)
    return pd.DataFrame(rows, columns=COLUMNS)


def effects(table: pd.DataFrame) -> Iterator[Row]:
    """The relative changes of P(answer), from the table of `suppress_amplify`."""
    rows = table[table.prompts == "heldout"]
    asked = rows.pivot(index="fact", columns=["operation", "kind"], values="probability")
    for operation, kind in asked.columns.drop([("none", "none")]):
        yield operation, kind, *relative_change(asked["none", "none"], asked[operation, kind])


def updates(table: pd.DataFrame) -> Iterator[Row]:
    """How often an update takes the old answer away and brings the new one, from the table of `update_facts`."""
    for kind, edits in table[table.kind != "none"].groupby("kind", sort=False):
        for rate in ("change", "success"):
            yield rate, kind, *share_interval(edits[rate])


def erasures(table: pd.DataFrame, facts: Sequence[Fact]) -> Iterator[Row]:
    """How perplexity grows, from the table of `erase_relations`."""
    log_p = table.pivot(index="fact", columns=["erased", "kind"], values="log_probability")
    relation = pd.Series([relation_id(fact.relation) for fact in facts])[log_p.index]
    before = log_p["none", "none"]
    for name, kind in log_p.columns.drop([("none", "none")]):
        for group, rows in (("growth", relation == name), ("growth of others", relation != name)):
            yield f"{group}, {name}", kind, *perplexity_growth(before[rows], log_p[name, kind][rows])

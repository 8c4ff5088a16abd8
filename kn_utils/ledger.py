"""The reproduction ledger: every number of the paper beside ours, with a verdict that the code gives."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from .facts import relation_id
from .holders import intersections
from .metrics import Interval, bootstrap, mean_interval
from .results import Results

NOT_RUN = "not run"
LIKE = 2.0  # of like size: the paper's number is between half and twice ours

# (section, quantity, unit, value, version, mark). ACL is the published paper, arXiv v1 its first preprint;
# "unchecked" numbers are widely quoted and could not be confirmed.
PAPER = [
    ("neurons", "neurons per fact, knowledge", "", 4.13, "ACL", ""),
    ("neurons", "neurons per fact, baseline", "", 3.96, "ACL", ""),
    ("neurons", "in common, same relation, knowledge", "", 1.23, "ACL", ""),
    ("neurons", "in common, same relation, baseline", "", 2.85, "ACL", "unchecked"),
    ("neurons", "in common, other relation, knowledge", "", 0.09, "ACL", ""),
    ("neurons", "in common, other relation, baseline", "", 1.92, "ACL", "unchecked"),
    ("effects", "suppress, knowledge", "%", -29.03, "ACL", ""),
    ("effects", "suppress, baseline", "%", -1.47, "ACL", ""),
    ("effects", "amplify, knowledge", "%", 31.17, "ACL", ""),
    ("effects", "amplify, baseline", "%", -1.27, "ACL", ""),
    ("effects", "suppress, knowledge", "%", -37.03, "arXiv v1", ""),
    ("effects", "suppress, unrelated", "%", -0.39, "arXiv v1", ""),
    ("effects", "amplify, knowledge", "%", 46.42, "arXiv v1", ""),
    ("effects", "amplify, unrelated", "%", -0.15, "arXiv v1", ""),
    ("prompts", "activation, head and tail (T1)", "", 0.485, "ACL", ""),
    ("prompts", "activation, head only (T2)", "", 0.019, "ACL", ""),
    ("prompts", "activation, random (T3)", "", -0.018, "ACL", ""),
    ("update", "change rate, knowledge", "%", 48.5, "ACL", ""),
    ("update", "change rate, random", "%", 4.7, "ACL", ""),
    ("update", "success rate, knowledge", "%", 34.4, "ACL", ""),
    ("update", "success rate, random", "%", 0.0, "ACL", ""),
    ("update", "perplexity, same relation, knowledge", "", 8.4, "ACL", ""),
    ("update", "perplexity, same relation, random", "", 10.1, "ACL", "unchecked"),
    ("update", "perplexity, other relations, knowledge", "", 7.2, "ACL", ""),
    ("update", "perplexity, other relations, random", "", 4.3, "ACL", ""),
    ("erase", "P19", "%", 106.6, "ACL", ""),
    ("erase", "P27", "%", 36.7, "ACL", "unchecked"),
    ("erase", "P106", "%", 128.2, "ACL", ""),
    ("erase", "P937", "%", 141.2, "ACL", "unchecked"),
    ("erase", "least harmed other relation", "%", 1.1, "ACL", ""),
    ("erase", "most harmed other relation", "%", 10.1, "ACL", ""),
]
COLUMNS = ["section", "quantity", "unit", "paper", "version", "mark"]


def ledger(results: Results, bert: Results | None = None) -> pd.DataFrame:
    """Every number of the paper beside ours.

    Args:
        results: the run to judge.
        bert: a run on the paper's own model, where there is one.

    Returns:
        One row per number: section, quantity, unit, paper, version, mark; ours and bert, each an `Interval` in the
        paper's unit or why there is none; verdict, on bert where it was run, else on ours.
    """
    table = pd.DataFrame(PAPER, columns=COLUMNS)
    for name, run in {"ours": results, "bert": bert}.items():
        found = {} if run is None else measure(run)
        pairs = zip(table.section, table.quantity, strict=True)
        table[name] = [found.get(pair, NOT_RUN) for pair in pairs]
    judged = table.bert.where(table.bert.map(lambda value: isinstance(value, Interval)), table.ours)
    table["verdict"] = [verdict(ours, paper) for ours, paper in zip(judged, table.paper, strict=True)]
    return table


def verdict(ours: Interval | str, paper: float) -> str:
    """ "same direction and size", "same direction", "not reproduced" or "no clear effect"; what is no number stays.

    Of like size: the paper's number lies within our interval, or between half and twice ours. No clear effect: our
    interval holds 0, and the paper's number is not within it.
    """
    if isinstance(ours, str):
        return ours
    if np.isnan(ours.value):
        return "too few facts"
    if ours.low <= paper <= ours.high:
        return "same direction and size"
    if ours.low <= 0 <= ours.high:
        return "no clear effect"
    if ours.value * paper <= 0:
        return "not reproduced"
    return "same direction and size" if 1 / LIKE <= ours.value / paper <= LIKE else "same direction"


def measure(results: Results) -> dict[tuple[str, str], Interval | str]:
    """Our value of each quantity of the ledger that the run can give, in the paper's unit."""
    found = {("neurons", name): value for name, value in _neurons(results.facts).items()}
    if len(results.effects):
        found |= {("effects", name): value for name, value in _effects(results.effects).items()}
    if len(results.updates):
        found |= {("update", name): value for name, value in _updates(results.updates).items()}
    if len(results.erasures):
        found |= {("erase", name): value for name, value in _erasures(results.erasures).items()}
    if len(results.activations):
        rows = results.activations[results.activations.kind == "knowledge"]
        by_type = {kind: own.activation for kind, own in rows.groupby("type")}
        names = {"T1": "head and tail (T1)", "T2": "head only (T2)", "T3": "random (T3)"}
        found |= {("prompts", f"activation, {n}"): mean_interval(by_type[t]) for t, n in names.items() if t in by_type}
    return found


def _neurons(facts: pd.DataFrame) -> dict[str, Interval]:
    found = {}
    for kind in ("knowledge", "baseline"):
        found[f"neurons per fact, {kind}"] = mean_interval(facts[kind].map(len))
        shared = intersections(facts[["relation", "answer"]].assign(neurons=facts[kind])).set_index("cell").number
        for cell in ("same relation", "other relation"):
            found[f"in common, {cell}, {kind}"] = shared[cell]
    return found


def _effects(effects: pd.DataFrame) -> dict[str, Interval]:
    """The paper's way: on the prompts that found the neurons, (mean change) / (mean P) of each relation, then the mean
    over relations. Intervals are over relations."""
    rows = effects[effects.prompts == "find"]
    means = rows.groupby(["operation", "kind", "relation"]).probability.mean()
    before, names = means["none", "none"], {"baseline": "baseline", "knowledge": "knowledge", "random": "unrelated"}
    return {
        f"{operation}, {name}": mean_interval(100 * (means[operation, kind] / before - 1))
        for operation in ("suppress", "amplify")
        for kind, name in names.items()
    }


def _updates(updates: pd.DataFrame) -> dict[str, Interval]:
    kinds = {kind: rows.sort_values("fact") for kind, rows in updates.groupby("kind")}
    found = {}
    for kind in ("knowledge", "random"):
        for rate in ("change", "success"):
            found[f"{rate} rate, {kind}"] = mean_interval(100 * kinds[kind][rate])
        for column, name in {"intra": "same relation", "inter": "other relations"}.items():
            both = pd.DataFrame({k: kinds[k][column].to_numpy() for k in ("none", kind)}).dropna()
            found[f"perplexity, {name}, {kind}"] = _or_few(_growth, both["none"], both[kind])
    return found


def _erasures(erasures: pd.DataFrame) -> dict[str, Interval | str]:
    log_p = erasures.pivot(index="fact", columns=["erased", "kind"], values="log_probability")
    relation = erasures.drop_duplicates("fact").set_index("fact").relation.map(relation_id)[log_p.index]
    found, others = {}, []
    for erased in ("P19", "P27", "P106", "P937"):
        if erased not in log_p.columns.get_level_values(0):
            found[erased] = "relation not in these facts"
            continue
        for name, rows in log_p.groupby(relation):
            growth = _or_few(_relative_growth, rows["none", "none"], rows[erased, "knowledge"])
            if name == erased:
                found[erased] = growth
            elif not np.isnan(growth.value):
                others.append(growth)
    ranked = sorted(others, key=lambda growth: growth.value) or [Interval(np.nan, np.nan, np.nan)]
    return found | {"least harmed other relation": ranked[0], "most harmed other relation": ranked[-1]}


def _or_few(statistic: Callable, before: pd.Series, after: pd.Series) -> Interval:
    if len(before) == 0:
        return Interval(np.nan, np.nan, np.nan)
    return bootstrap(statistic, before, after)


def _growth(before, after, axis):
    """Increase of perplexity, exp of the mean -log P."""
    return np.exp(-after.mean(axis)) - np.exp(-before.mean(axis))


def _relative_growth(before, after, axis):
    """Increase of perplexity in percent."""
    return 100 * (np.exp((before - after).mean(axis)) - 1)

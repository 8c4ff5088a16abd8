"""The ledger: every number of the paper beside ours, each with its verdict. Where the unit is %, numbers are shares."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import stats

from ..facts import relation_id
from ..stats import (
    SPACE,
    Interval,
    mean_interval,
    perplexity_growth,
    perplexity_increase,
    share_interval,
    verdict,
    written,
)
from .experiments import ERASED
from .numbers import CONTRASTS, PAPER, contrast_name, is_amount, near_zero, row
from .results import Results

NOT_RUN = "not run"
NOT_HERE = "relation not in these facts"
COLUMNS = ["section", "quantity", "unit", "paper", "version", "mark"]
_UNKNOWN = Interval(np.nan, np.nan, np.nan)


def ledger(results: Results, bert: Results | None = None) -> pd.DataFrame:
    """Every number of the paper beside ours.

    Args:
        results: the run to judge.
        bert: a run on the paper's own model, where there is one.

    Returns:
        One row per number: section, quantity, unit, paper, version, mark; signed (not a count or a rate); near_zero (up
        to where a number counts as zero); ours, an `Interval` or why there is none; its verdict. With a BERT run bert
        and bert_verdict as well.
    """
    table = pd.DataFrame(PAPER, columns=COLUMNS)
    keys = list(zip(table.section, table.quantity, strict=True))
    table["signed"] = [not is_amount(*key) for key in keys]
    return _judged(table, keys, _measured(measure, results, bert))


def contrasts(results: Results, bert: Results | None = None) -> pd.DataFrame:
    """The differences between numbers of the published paper that its claims rest on, beside ours.

    Returns:
        One row per pair: section, contrast (its name), quantity, minus, unit, paper (the difference), mark
        ("unchecked" if either number is); the other columns as of `ledger`. Facts, relations or edits are resampled in
        pairs; an erased relation is compared with the other that the same erasure harms most.
    """
    paper = {(s, q): (unit, value, mark) for s, q, unit, value, version, mark in PAPER if version == "ACL"}
    rows = []
    for section, first, second in CONTRASTS:
        (unit, one, mark), (_, other, mark_too) = paper[section, first], paper[section, second]
        rows.append((section, contrast_name(first, second), first, second, unit, one - other, mark or mark_too))
    table = pd.DataFrame(rows, columns=["section", "contrast", "quantity", "minus", "unit", "paper", "mark"])
    return _judged(table.assign(signed=True), CONTRASTS, _measured(measure_contrasts, results, bert))


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of `ledger` or `contrasts` as a page shows them: paper, here, verdict; with a BERT run BERT and its verdict.

    What is unchecked, or of the first preprint, says so beside the paper's number, which keeps its own digits.
    """
    plus, percent = table.signed.map({True: "+", False: ""}), table.unit == "%"
    specs = plus + percent.map({True: ".1%", False: ".2f"})
    notes = table.mark.mask(table.get("version", table.mark) == "arXiv v1", "arXiv v1")
    tails = percent.map({True: f"{SPACE}%", False: ""}) + notes.map(lambda note: note and f" ({note})")
    printed = table.paper * table.unit.map(_scale)
    paper = [written(number, f"{sign}.4g") + tail for number, sign, tail in zip(printed, plus, tails, strict=True)]
    columns = {"paper": paper}
    for run, name in {"ours": "here", "bert": "BERT"}.items():
        if run in table:
            values = zip(table[run], specs, strict=True)
            columns[name] = [value if isinstance(value, str) else f"{value:{spec}}" for value, spec in values]
            columns["verdict" if run == "ours" else "BERT's verdict"] = table[_verdict_of(run)].to_list()
    index = table.get("contrast", table.quantity)
    return pd.DataFrame(columns, index.rename(None)).rename_axis(columns=index.name)


def judge(section: str, quantity: str, ours: Interval, version: str = "ACL") -> str:
    """The `verdict` on our value of one number of the paper: in every chapter the one that `ledger` gives.

    Args:
        ours: averaged as the paper averages; a share where the paper's unit is %.

    Raises:
        KeyError: this version of the paper prints no such number.
    """
    _, _, unit, published, _, _ = row(section, quantity, version)
    scale, zero = _scale(unit), near_zero(section, quantity)
    return verdict(ours, published / scale, zero / scale, signed=not is_amount(section, quantity))


def measure(results: Results) -> dict[tuple[str, str], Interval | str]:
    """Our value of each quantity of the ledger that the run can give, a share where the paper's unit is %."""
    found = {key: _mean(key[1], sample) for key, sample in samples(results).items()}
    for name, log_p in _perplexities(results.updates).items():
        for kind in ("knowledge", "random"):
            found["update", f"{name}, {kind}"] = _or_few(perplexity_increase, log_p["none"], log_p[kind])
    return found | {("erase", name): value for name, value in _erasures(results.erasures)[0].items()}


def measure_contrasts(results: Results) -> dict[tuple[str, str, str], Interval | str]:
    """Our value of each of `CONTRASTS` that the run can give."""
    values, names = samples(results), _perplexities(results.updates)
    pairs = {key: values[key[0], key[1]] - values[key[0], key[2]] for key in CONTRASTS if key[:2] in values}
    found = {key: _or_few(mean_interval, sample.dropna()) for key, sample in pairs.items()}
    for name, log_p in names.items():
        pair = log_p["random"], log_p["knowledge"]
        found["update", f"{name}, knowledge", f"{name}, random"] = _or_few(perplexity_increase, *pair)
    own = _erasures(results.erasures)[1]
    return found | {("erase", erased, "most harmed other relation"): value for erased, value in own.items()}


def samples(results: Results) -> dict[tuple[str, str], pd.Series]:
    """The quantities that are plain means: one value per fact, per edit, or, for the effects, per relation.

    Effects are computed in the paper's way: on the prompts that found the neurons, (mean change) / (mean P) of each
    relation. The mean over relations is then the paper's number.
    """
    found = {}
    for kind in ("knowledge", "activation"):
        found["neurons", f"neurons per fact, {kind}"] = results.facts[kind].map(len)
        for cell, number in _in_common(results.facts.relation, results.facts[kind]).items():
            found["neurons", f"in common, {cell}, {kind}"] = number
    if len(effects := results.effects):
        rows = effects[effects.prompts == "find"]
        means = rows.groupby(["operation", "kind", "relation"]).probability.mean()
        for operation in ("suppress", "amplify"):
            for kind, name in {"knowledge": "knowledge", "activation": "activation", "random": "unrelated"}.items():
                found["effects", f"{operation}, {name}"] = means[operation, kind] / means["none", "none"] - 1
    if len(rows := results.activations):
        by_type = rows[rows.kind == "knowledge"].pivot(index="fact", columns="type", values="activation")
        for short, name in {"T1": "head and tail", "T2": "head only", "T3": "random"}.items():
            found["prompts", f"activation, {name} ({short})"] = by_type.get(short, pd.Series(dtype=float))
    if len(updates := results.updates):
        for kind in ("knowledge", "random"):
            rows = updates[updates.kind == kind].set_index("fact")
            for rate in ("change", "success"):
                found["update", f"{rate} rate, {kind}"] = rows[rate]
    return found


def _in_common(relations: pd.Series, neurons: pd.Series) -> dict[str, pd.Series]:
    """How many neurons each fact has in common with another fact, the mean over those of its relation and of others."""
    everyone = Counter(neuron for own in neurons for neuron in own)
    holders = {r: Counter(n for own in group for n in own) for r, group in neurons.groupby(relations)}
    within = pd.Series([sum(holders[r][n] for n in own) for r, own in zip(relations, neurons, strict=True)])
    total = pd.Series([sum(everyone[n] for n in own) for own in neurons])
    number, size = neurons.map(len), relations.groupby(relations).transform("size")
    near, far = size - 1, len(neurons) - size
    return {
        "same relation": (within - number) / near.where(near > 0),
        "other relation": (total - within) / far.where(far > 0),
    }


def _perplexities(updates: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The mean log P of other facts inside each edit (row), by kind of neurons (column)."""
    columns = {"perplexity, same relation": "intra", "perplexity, other relations": "inter"} if len(updates) else {}
    return {n: updates.pivot(index="fact", columns="kind", values=c).dropna() for n, c in columns.items()}


def _erasures(erasures: pd.DataFrame) -> tuple[dict[str, Interval | str], dict[str, Interval | str]]:
    """Growth of perplexity of each erased relation and of the least and most harmed others; and of each
    erased relation, its growth above that of the other that the same erasure harms most."""
    if not len(erasures):
        return {}, {}
    log_p = erasures.pivot(index="fact", columns=["erased", "kind"], values="log_probability")
    relation = erasures.drop_duplicates("fact").set_index("fact").relation.map(relation_id)[log_p.index]
    found, above, others = {}, {}, []
    for erased in ERASED:
        if (erased, "knowledge") not in log_p.columns:
            found[erased] = above[erased] = NOT_HERE
            continue
        pair = log_p["none", "none"], log_p[erased, "knowledge"]
        rows_of = relation.groupby(relation).groups.items()
        growth = {name: perplexity_growth(*(log_p[rows] for log_p in pair)) for name, rows in rows_of}
        found[erased], above[erased] = growth.pop(erased, _UNKNOWN), _UNKNOWN
        others += growth.values()
        if growth:
            worst = max(growth, key=lambda name: growth[name].value)
            loss = pair[0] - pair[1]
            above[erased] = _growth_above(loss[relation == erased], loss[relation == worst])
    ranked = sorted(others, key=lambda growth: growth.value) or [_UNKNOWN]
    return found | {"least harmed other relation": ranked[0], "most harmed other relation": ranked[-1]}, above


def _growth_above(own: pd.Series, other: pd.Series) -> Interval:
    """Growth of one relation's perplexity minus that of another, the facts of each resampled apart.

    Args:
        own, other: log P(answer) before minus log P(answer) after, of each fact.
    """

    def difference(one, two, axis):
        return np.expm1(one.mean(axis)) - np.expm1(two.mean(axis))

    own, other = own.to_numpy(), other.to_numpy()
    if min(len(own), len(other)) < 2:
        return _UNKNOWN
    result = stats.bootstrap(
        (own, other), difference, vectorized=True, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
    )
    return Interval(float(difference(own, other, 0)), *map(float, result.confidence_interval))


def _mean(quantity: str, sample: pd.Series) -> Interval:
    return _or_few(share_interval if " rate, " in quantity else mean_interval, sample.dropna())


def _or_few(interval_of: Callable[..., Interval], *values: pd.Series) -> Interval:
    return interval_of(*values) if len(values[0]) else _UNKNOWN


def _scale(unit: str) -> int:
    return 100 if unit == "%" else 1


def _measured(measure: Callable[[Results], dict], results: Results, bert: Results | None) -> dict[str, dict]:
    """What each run gives, by the column that shows it: "bert" only where there is such a run."""
    runs = {"results": results} if bert is None else {"results": results, "bert": bert}
    for name, run in runs.items():
        if not isinstance(run, Results):
            given = type(run).__name__
            raise TypeError(f"{name} is a {given}: pass what read_results() or run_experiments() returns")
    return {"ours" if name == "results" else name: measure(run) for name, run in runs.items()}


def _judged(table: pd.DataFrame, keys: list, measured: dict[str, dict]) -> pd.DataFrame:
    """The table with its numbers as shares where their unit is %, and of each run its values and their verdicts."""
    scale = table.unit.map(_scale)
    table["paper"] /= scale
    table["near_zero"] = [near_zero(*key) for key in zip(table.section, table.quantity, strict=True)] / scale
    for run, found in measured.items():
        table[run] = [found.get(key, NOT_RUN) for key in keys]
        rows = zip(table[run], table.paper, table.near_zero, table.signed, strict=True)
        table[_verdict_of(run)] = [v if isinstance(v, str) else verdict(v, *row) for v, *row in rows]
    return table


def _verdict_of(run: str) -> str:
    """The column with the verdicts on the column `run`."""
    return "verdict" if run == "ours" else f"{run}_verdict"

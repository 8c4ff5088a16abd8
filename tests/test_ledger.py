"""The ledger: the paper's numbers against the shared table, verdicts by hand, and every row filled or marked."""

import json
import math

import pandas as pd
import pytest
from conftest import shared_file

import kn_utils as kn
from kn_utils import Interval
from kn_utils.ledger import COLUMNS, NOT_RUN, PAPER, ledger, verdict

VERDICTS = {"same direction and size", "same direction", "not reproduced", "no clear effect", "too few facts"}
NOT_IN_THE_LEDGER = {  # sections and why
    "protocol": "settings, not results",
    "dataset": "counted and checked by kn_utils.pararel and the loader of BingREL",
    "published_bert_base_uncased_neurons": "chapter 15",
}


def numbers(entry, path=()):
    """Every number of a nested table, with its path and its source."""
    if isinstance(entry, dict):
        for name, value in entry.items():
            if name not in ("source", "random_source"):
                source = entry.get("random_source" if name == "random_neurons" else "source", entry.get("source"))
                yield from ((p, v, s or source) for p, v, s in numbers(value, (*path, name)))
    elif isinstance(entry, (int, float)):
        yield path, entry, None


def test_every_number_of_the_paper_is_in_the_ledger():
    reference = json.loads(shared_file("reference_numbers.json").read_text())
    ours = {(value, mark == "unchecked") for *_, value, _, mark in PAPER}
    settings = {"lambda1", "lambda2", "neurons_erased", "before", "after"}
    found = 0
    for path, value, source in numbers(
        {k: v for k, v in reference.items() if k not in NOT_IN_THE_LEDGER and k != "about"}
    ):
        if path[-1] in settings:
            continue
        assert (value, source == "unchecked") in ours, path
        found += 1
    assert found == len(PAPER)


@pytest.mark.parametrize(
    "ours, paper, expected",
    [
        (Interval(-30, -32, -28), -29.03, "same direction and size"),  # within
        (Interval(-50, -52, -48), -29.03, "same direction and size"),  # less than twice
        (Interval(-60, -62, -58), -29.03, "same direction"),
        (Interval(-10, -12, -8), -29.03, "same direction"),
        (Interval(20, 18, 22), -29.03, "not reproduced"),
        (Interval(2, -1, 5), -29.03, "no clear effect"),
        (Interval(2, -1, 5), 0.0, "same direction and size"),
        (Interval(2, 1, 5), 0.0, "not reproduced"),
        (Interval(2, math.nan, math.nan), 3.0, "same direction and size"),  # a single fact: no interval
        (Interval(math.nan, math.nan, math.nan), 3.0, "too few facts"),
        (NOT_RUN, 3.0, NOT_RUN),
        ("relation not in these facts", 3.0, "relation not in these facts"),
    ],
)
def test_verdicts_by_hand(ours, paper, expected):
    assert verdict(ours, paper) == expected


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return kn.run_experiments(n_facts=24, out=tmp_path_factory.mktemp("run"))


def test_every_row_is_filled_or_marked(results):
    table = ledger(results)
    assert list(table.columns) == [*COLUMNS, "ours", "bert", "verdict"]
    assert len(table) == len(PAPER)
    assert (table.bert == NOT_RUN).all()
    for row in table.itertuples():
        assert isinstance(row.ours, Interval) or row.ours == NOT_RUN
        assert row.verdict in VERDICTS
        assert row.ours != NOT_RUN, row
    assert ledger(results, bert=results).bert.map(str).tolist() == table.ours.map(str).tolist()


def test_rows_are_the_runs_numbers(results):
    table = ledger(results).set_index(["section", "quantity", "version"]).ours
    assert table["neurons", "neurons per fact, knowledge", "ACL"].value == results.facts.knowledge.map(len).mean()
    effects = results.effects[results.effects.prompts == "find"]
    ratios = []
    for _, rows in effects.groupby("relation"):
        before = rows[rows.operation == "none"].probability.mean()
        after = rows[(rows.operation == "amplify") & (rows.kind == "knowledge")].probability.mean()
        ratios.append(100 * (after - before) / before)
    assert table["effects", "amplify, knowledge", "ACL"].value == pytest.approx(sum(ratios) / len(ratios))
    updates = results.updates[results.updates.kind == "knowledge"]
    assert table["update", "success rate, knowledge", "ACL"].value == pytest.approx(100 * updates.success.mean())
    erased = results.erasures[results.erasures.relation.str.startswith("P106(")]
    none, after = (
        erased[(erased.erased == r) & (erased.kind == k)].log_probability.mean()
        for r, k in (("none", "none"), ("P106", "knowledge"))
    )
    assert table["erase", "P106", "ACL"].value == pytest.approx(100 * (math.exp(none - after) - 1))


def test_what_was_left_out_is_marked(results):
    nothing = {name: pd.DataFrame() for name in ("effects", "updates", "erasures", "activations")}
    bare = kn.Results(results.about, results.facts, **nothing)
    table = ledger(bare)
    assert (table[table.section != "neurons"].ours == NOT_RUN).all()
    assert table[table.section == "neurons"].ours.map(lambda value: isinstance(value, Interval)).all()

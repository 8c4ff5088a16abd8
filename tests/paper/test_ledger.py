"""The ledger: verdicts by hand, our numbers against plain sums over a run, and every row filled or marked."""

import math

import numpy as np
import pandas as pd
import pytest

import kn_utils as kn
from kn_utils import Interval, Neuron, figures
from kn_utils.paper.ledger import NOT_HERE, NOT_RUN, contrast_name, contrasts, ledger
from kn_utils.paper.numbers import CONTRASTS, PAPER
from kn_utils.paper.results import Results
from kn_utils.paper.runs import run_experiments
from kn_utils.paper.sharing import intersections
from kn_utils.stats import verdict

NAN = math.nan
VERDICTS = {"same direction and size", "same direction", "other size", "not reproduced", "no clear effect"}


@pytest.mark.parametrize(
    "ours, paper, expected",
    [
        (Interval(-30, -32, -28), -29.03, "same direction and size"),  # within
        (Interval(-50, -52, -48), -29.03, "same direction and size"),  # less than twice
        (Interval(20, 19, 21), 10, "same direction and size"),  # twice
        (Interval(5, 4, 6), 10, "same direction and size"),  # half
        (Interval(20.1, 20, 21), 10, "same direction"),
        (Interval(4.9, 4, 6), 10, "same direction"),
        (Interval(4.9, 4, 10), 10, "same direction and size"),  # at the interval's end
        (Interval(20, 18, 22), -29.03, "not reproduced"),
        (Interval(2, -1, 5), -29.03, "no clear effect"),
        (Interval(2, -1, 5), 3, "no clear effect"),  # the paper's number lies within, but so does 0
        (Interval(2, 0, 5), 3, "no clear effect"),
        (Interval(-2, -5, 0), -2, "no clear effect"),
        (Interval(2, -1, 5), 0.0, "same direction and size"),
        (Interval(2, 1, 5), 0.0, "not reproduced"),
        (Interval(2, NAN, NAN), 2, "too few facts"),  # a single fact has no interval
        (Interval(NAN, NAN, NAN), 3, "too few facts"),
    ],
)
def test_verdicts_by_hand(ours, paper, expected):
    assert verdict(ours, paper) == expected


@pytest.mark.parametrize(
    "ours, paper, expected",
    [
        (Interval(13.6, 13.4, 13.9), 4.13, "other size"),
        (Interval(3.6, 0.8, 7.2), 0.0, "other size"),
        (Interval(5, 4, 6), 4.13, "same direction and size"),
        (Interval(0, 0, 0), 0.0, "same direction and size"),
    ],
)
def test_an_amount_has_no_direction(ours, paper, expected):
    assert verdict(ours, paper, signed=False) == expected


def test_a_contrast_names_what_differs():
    assert contrast_name("suppress, knowledge", "suppress, activation") == "suppress: knowledge − activation"
    assert contrast_name("P19", "most harmed other relation") == "P19 − most harmed other relation"
    assert contrast_name("a, b, c", "a, x, c") == "a, c: b − x"


def neurons(*indices):
    return {Neuron(0, index) for index in indices}


@pytest.fixture
def by_hand():
    """Four facts of two relations, and no experiment but the suppression of one of the kinds."""
    facts = pd.DataFrame({"relation": ["P19", "P19", "P36", "P36"], "answer": list("abcd")})
    facts["knowledge"] = [neurons(1, 2), neurons(1), neurons(2, 3, 4), neurons(3, 4)]
    facts["activation"] = [neurons(), neurons(1), neurons(1), neurons(1)]
    conditions = {("none", "none"): [0.5, 0.3, 0.1, 0.3]}
    for operation in ("suppress", "amplify"):
        conditions |= {(operation, kind): [0.25, 0.15, 0.1, 0.2] for kind in ("knowledge", "activation", "random")}
    rows = [
        {"fact": i, "relation": facts.relation[i], "prompts": prompts, "operation": o, "kind": k, "probability": p}
        for prompts, factor in (("find", 1), ("heldout", 0.1))
        for (o, k), values in conditions.items()
        for i, p in enumerate(np.array(values) ** factor)
    ]
    return Results({}, facts, {"effects": pd.DataFrame(rows)})


def test_a_ledger_by_hand(by_hand):
    table = ledger(by_hand).set_index(["quantity", "version"])
    values = table.ours.map(lambda ours: ours.value if isinstance(ours, Interval) else ours)
    assert values["neurons per fact, knowledge", "ACL"] == 2
    assert values["in common, same relation, knowledge", "ACL"] == (1 + 1 + 2 + 2) / 4
    assert values["in common, other relation, knowledge", "ACL"] == (1 / 2 + 0 + 1 / 2 + 0) / 4
    # P19: (0.2 - 0.4) / 0.4; P36: (0.15 - 0.2) / 0.2. On the prompts that found the neurons only.
    assert values["suppress, knowledge", "ACL"] == pytest.approx(100 * (-0.5 - 0.25) / 2)
    assert (values[table.section.isin(["update", "erase", "prompts"])] == NOT_RUN).all()
    pairs = contrasts(by_hand).set_index(["quantity", "minus"])
    pair = pairs.loc["in common, other relation, knowledge", "in common, other relation, activation"]
    assert pair.ours.value == pytest.approx(1 / 4 - (0 + 1 + 1 / 2 + 1 / 2) / 4)
    assert pair.paper == pytest.approx(0.09 - 1.92)
    assert (pair.verdict, pair.mark) == ("no clear effect", "unchecked")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run_experiments(n_facts=24, out=tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("table, rows", [(ledger, PAPER), (contrasts, CONTRASTS)])
def test_every_row_is_filled_or_marked(results, table, rows):
    book = table(results)
    assert len(book) == len(rows)
    assert book.ours.map(lambda value: isinstance(value, Interval)).all()
    assert set(book.verdict) <= VERDICTS | {"too few facts"}
    assert (book.bert == NOT_RUN).all() and (book.bert_verdict == NOT_RUN).all()
    both = table(results, bert=results)
    assert both.bert.map(str).tolist() == book.ours.map(str).tolist()
    assert both.bert_verdict.tolist() == both.verdict.tolist() == book.verdict.tolist()


def test_rows_are_the_runs_numbers(results):
    table = ledger(results).set_index(["quantity", "version"]).ours
    for kind in ("knowledge", "activation"):
        shared = intersections(results.facts.assign(neurons=results.facts[kind])).set_index("cell").number
        for cell in ("same relation", "other relation"):
            assert table[f"in common, {cell}, {kind}", "ACL"].value == pytest.approx(shared[cell].value)
    updates = results.updates[results.updates.kind == "knowledge"]
    assert table["success rate, knowledge", "ACL"].value == pytest.approx(100 * updates.success.mean())
    before = results.updates[results.updates.kind == "none"]
    growth = math.exp(-updates.intra.mean()) - math.exp(-before.intra.mean())
    assert table["perplexity, same relation, knowledge", "ACL"].value == pytest.approx(growth)
    rows = results.activations[(results.activations.type == "T2") & (results.activations.kind == "knowledge")]
    assert table["activation, head only (T2)", "ACL"].value == pytest.approx(rows.activation.mean())


def test_erasing_is_the_runs_numbers(results):
    growth = {}
    for relation, rows in results.erasures.groupby(results.erasures.relation.map(kn.relation_id)):
        mean = rows.groupby(["erased", "kind"]).log_probability.mean()
        growth |= {
            (relation, erased): 100 * (math.exp(mean["none", "none"] - mean[erased, "knowledge"]) - 1)
            for erased in ("P19", "P27", "P106", "P937")
        }
    table = ledger(results).set_index("quantity").ours
    others = [value for (relation, erased), value in growth.items() if relation != erased]
    assert table["P106"].value == pytest.approx(growth["P106", "P106"])
    assert table["least harmed other relation"].value == pytest.approx(min(others))
    assert table["most harmed other relation"].value == pytest.approx(max(others))
    worst = max(value for (relation, erased), value in growth.items() if relation != erased == "P106")
    above = contrasts(results).set_index(["quantity", "minus"]).ours
    assert above["P106", "most harmed other relation"].value == pytest.approx(growth["P106", "P106"] - worst)


@pytest.mark.parametrize("table", [ledger, contrasts])
def test_every_value_lies_in_a_finite_interval(results, table):
    book = table(results)
    assert [value for value in book.ours if not -math.inf < value.low <= value.value <= value.high < math.inf] == []
    assert "too few facts" not in set(book.verdict)


def test_contrasts_are_differences_of_rows(results):
    values = ledger(results).set_index(["quantity", "version"]).ours
    for row in contrasts(results).itertuples():
        if row.section != "erase":
            difference = values[row.quantity, "ACL"].value - values[row.minus, "ACL"].value
            assert row.ours.value == pytest.approx(difference, abs=1e-9), row.quantity


def test_what_was_left_out_is_marked(results):
    bare = Results(results.about, results.facts)
    for table in (ledger(bare), contrasts(bare)):
        left_out = table.section != "neurons"
        assert (table[left_out].ours == NOT_RUN).all() and (table[left_out].verdict == NOT_RUN).all()
        assert table[~left_out].ours.map(lambda value: isinstance(value, Interval)).all()


def test_a_relation_that_is_missing_is_marked(results):
    erasures = results.erasures[results.erasures.erased != "P106"]
    without = Results(results.about, results.facts, {"erasures": erasures})
    for table in (ledger(without), contrasts(without)):
        row = table.set_index("quantity").loc["P106"]
        assert (row.ours, row.verdict) == (NOT_HERE, NOT_HERE)


def test_the_figure_has_a_dot_for_every_number(results):
    book = ledger(results, bert=results)
    book.at[0, "ours"] = NOT_RUN
    ax = figures.ledger_dots(book)
    shown = book[(book.version == "ACL") & (book.paper != 0)]
    ours, bert = (container.lines[0] for container in ax.containers)
    assert len(ax.get_yticks()) == len(bert.get_xdata()) == len(shown) == len(ours.get_xdata()) + 1
    clipped = [min(max(value.value / paper, -2), 5) for value, paper in zip(shown.bert, shown.paper, strict=True)]
    assert bert.get_xdata() == pytest.approx(clipped)
    figures.plt.close(ax.figure)

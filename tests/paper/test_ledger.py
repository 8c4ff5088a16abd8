"""The ledger: verdicts by hand, our numbers against plain sums over a run, and every row filled or marked."""

import math

import numpy as np
import pandas as pd
import pytest

import kn_utils as kn
from kn_utils import Interval, Neuron, figures
from kn_utils.paper.ledger import NOT_HERE, NOT_RUN, contrasts, judge, ledger, shown
from kn_utils.paper.numbers import CONTRASTS, ERASED_PERPLEXITY, NEAR_ZERO, PAPER, contrast_name, near_zero
from kn_utils.paper.results import Results
from kn_utils.paper.runs import run_experiments
from kn_utils.paper.sharing import intersections
from kn_utils.stats import SPACE, share_interval, verdict

NAN = math.nan
ZERO = {"near zero in both", "near zero in the paper only", "near zero here only"}
VERDICTS = ZERO | {"same size", "other size", "same direction", "opposite direction", "undecided"}


@pytest.mark.parametrize(
    "ours, paper, expected",
    [
        (Interval(-30, -32, -28), -29.03, "same size"),
        (Interval(10, 8, 12.5), 10, "same size"),  # from 80 to 125 %, ends included
        (Interval(10, 7.9, 12), 10, "same direction"),  # right on average, but not precise enough
        (Interval(10, 9, 12.6), 10, "same direction"),
        (Interval(18, 16, 20), 10, "same direction"),  # less than twice is not the same
        (Interval(4, 3.5, 5), 10, "same direction"),  # also where the whole interval is almost near zero
        (Interval(20, 18, 22), -29.03, "opposite direction"),
        (Interval(-20, -22, -18), 29.03, "opposite direction"),
        (Interval(2, -1, 5), -29.03, "undecided"),  # holds 0, and more than is near zero
        (Interval(2, -40, 50), 29.03, "undecided"),  # says nothing, though it holds the paper's number
        (Interval(0.1, 0, 0.2), -0.39, "near zero in both"),  # signs near zero say nothing
        (Interval(2.9, 2.8, 3), 3, "near zero in both"),  # up to the bound
        (Interval(-23.7, -31.1, -16.4), -1.47, "near zero in the paper only"),
        (Interval(4, 3.1, 5), 0.0, "near zero in the paper only"),
        (Interval(-3.1, -6.5, 0.2), -1.27, "undecided"),
        (Interval(0.1, -0.2, 0.4), -29.03, "near zero here only"),
        (Interval(2, NAN, NAN), 2, "too few facts"),  # a single fact has no interval
        (Interval(NAN, NAN, NAN), 3, "too few facts"),
    ],
)
def test_verdicts_by_hand(ours, paper, expected):
    assert verdict(ours, paper, near_zero=3) == expected


@pytest.mark.parametrize(
    "ours, paper, expected",
    [
        (Interval(13.6, 13.4, 13.9), 4.13, "other size"),
        (Interval(4.2, 3.9, 4.6), 4.13, "same size"),
        (Interval(5, 4, 6), 4.13, "undecided"),  # holds the paper's number, and what is far from it
        (Interval(0, 0, 0), 4.13, "near zero here only"),
        (Interval(0, 0, 0), 0.0, "near zero in both"),
        (Interval(3.6, 0.8, 7.2), 0.0, "near zero in the paper only"),
    ],
)
def test_an_amount_has_no_direction(ours, paper, expected):
    assert verdict(ours, paper, signed=False) == expected


def test_a_vaguer_number_never_agrees_where_a_sharper_one_does_not():
    rank = ["opposite direction", "undecided", "same direction", "same size"]
    for middle in np.linspace(-2, 2, 41):
        verdicts = [verdict(Interval(middle, middle - width, middle + width), 1) for width in (1, 0.5, 0.2, 0.1, 0)]
        agreement = [rank.index(found) for found in verdicts if found in rank[1:]]
        assert agreement == sorted(agreement)


def test_every_bound_is_a_tenth_of_the_main_number():
    main = {quantity.split(", ")[0]: abs(value) for _, quantity, _, value, _, _ in reversed(PAPER)}
    main["erase"] = np.mean([value for section, quantity, _, value, *_ in PAPER if quantity in ERASED_PERPLEXITY])
    for kind, bound in NEAR_ZERO.items():
        assert bound == pytest.approx(float(f"{main[kind] / 10:.0e}")), kind
    assert near_zero("erase", "least harmed other relation") == near_zero("erase", "P19") == NEAR_ZERO["erase"]
    assert near_zero("update", "perplexity, same relation, random") == near_zero("neurons", PAPER[0][1]) == 0


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
    assert values["suppress, knowledge", "ACL"] == pytest.approx((-0.5 - 0.25) / 2)
    assert (values[table.section.isin(["update", "erase", "prompts"])] == NOT_RUN).all()
    pairs = contrasts(by_hand).set_index(["quantity", "minus"])
    pair = pairs.loc["in common, other relation, knowledge", "in common, other relation, activation"]
    assert pair.ours.value == pytest.approx(1 / 4 - (0 + 1 + 1 / 2 + 1 / 2) / 4)
    assert pair.paper == pytest.approx(0.09 - 1.92)
    assert (pair.verdict, pair.mark) == ("undecided", "unchecked")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run_experiments(n_facts=24, out=tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("table, rows", [(ledger, PAPER), (contrasts, CONTRASTS)])
def test_every_row_is_filled_or_marked(results, table, rows):
    book = table(results)
    assert len(book) == len(rows)
    assert book.ours.map(lambda value: isinstance(value, Interval)).all()
    assert set(book.verdict) <= VERDICTS | {"too few facts"}
    assert not [column for column in book if "bert" in column]
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
    assert table["success rate, knowledge", "ACL"].value == pytest.approx(updates.success.mean())
    assert table["success rate, knowledge", "ACL"] == share_interval(updates.success)
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
            (relation, erased): math.exp(mean["none", "none"] - mean[erased, "knowledge"]) - 1
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


def test_one_number_has_one_verdict(results):
    """Chapters that show a single number of the ledger judge it alike."""
    book = ledger(results)
    rows = book[["section", "quantity", "ours", "version"]].itertuples(index=False)
    assert book.verdict.tolist() == [judge(*row) for row in rows]
    with pytest.raises(KeyError, match="arXiv v1.*prints no 'P19'"):
        judge("erase", "P19", Interval(1, 0.9, 1.1), "arXiv v1")


def test_a_page_shows_units_notes_and_intervals(by_hand):
    table = shown(ledger(by_hand)).iloc[[0, 3, 6, 10]]
    assert table.paper.tolist() == ["4.13", "2.85 (unchecked)", f"−29.03{SPACE}%", f"−37.03{SPACE}% (arXiv v1)"]
    assert table.columns.tolist() == ["paper", "here", "verdict"]
    assert table.here.iloc[2] == f"{ledger(by_hand).ours[6]:+.1%}"
    assert shown(contrasts(by_hand, bert=by_hand)).columns.tolist() == [*table.columns, "BERT", "BERT's verdict"]
    assert (shown(contrasts(by_hand)).here[-4:] == NOT_RUN).all()


@pytest.mark.parametrize("table", [ledger, contrasts])
def test_the_figure_has_a_dot_for_every_number(results, table):
    book = table(results, bert=results)
    book.at[0, "ours"] = NOT_RUN
    ax = figures.ledger_dots(book)
    shown = book[book.paper.abs() > book.near_zero]
    assert [text.get_text() for text in ax.texts] == list(shown.get("contrast", shown.quantity))
    dots = {container.get_label(): container.lines[0] for container in ax.containers}
    assert set(dots) == {"here", "here, unchecked", "BERT", "BERT, unchecked"}
    assert sum(len(dots[label].get_xdata()) for label in ("here", "here, unchecked")) == len(shown) - 1
    for label, mark in (("BERT", ""), ("BERT, unchecked", "unchecked")):
        rows = shown[shown.mark == mark]
        ratios = [min(max(value.value / paper, -1), 3) for value, paper in zip(rows.bert, rows.paper, strict=True)]
        assert dots[label].get_xdata() == pytest.approx(ratios)
    figures.plt.close(ax.figure)

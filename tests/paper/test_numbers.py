"""The paper's numbers: looked up by name, in agreement with each other and with another copy of them."""

import json

import pytest
from common import shared_file

from kn_utils.paper.numbers import CONTRASTS, ERASED_PERPLEXITY, NOT_APPLICABLE, PAPER, number, printed

KINDS = {"ours": "knowledge", "baseline": "activation", "unrelated": "unrelated"}
KINDS |= {"knowledge_neurons": "knowledge", "random_neurons": "random"}
QUANTITIES = {  # the ledger's quantity for a name in the shared table, to which it adds the kind of neurons
    "mean_number": "neurons per fact",
    "intra_relation_intersection": "in common, same relation",
    "inter_relation_intersection": "in common, other relation",
    "change_rate_percent": "change rate",
    "success_rate_percent": "success rate",
    "delta_intra_relation_ppl": "perplexity, same relation",
    "delta_inter_relation_ppl": "perplexity, other relations",
    "ours_T1": "activation, head and tail (T1)",
    "ours_T2": "activation, head only (T2)",
    "ours_T3": "activation, random (T3)",
    "min": "least harmed other relation",
    "max": "most harmed other relation",
}
NAMES = {name for names in NOT_APPLICABLE for name in names}
LOWER = [  # where the paper says that the first number is the lower one
    ("in common, same relation, knowledge", "in common, same relation, activation"),
    ("in common, other relation, knowledge", "in common, other relation, activation"),
    ("suppress, knowledge", "suppress, activation"),
    ("perplexity, same relation, knowledge", "perplexity, same relation, random"),
]


def test_a_number_is_found_by_section_quantity_and_version():
    assert number("effects", "suppress, knowledge") == -29.03
    assert number("effects", "suppress, knowledge", "arXiv v1") == -37.03


@pytest.mark.parametrize(
    "missing",
    [("effects", "suppress, nobody"), ("neurons", "suppress, knowledge"), ("update", "change rate, random", "v1")],
)
def test_a_number_that_the_paper_does_not_print_is_refused(missing):
    with pytest.raises(KeyError, match="prints no"):
        number(*missing)


def test_a_number_is_printed_with_its_unit_and_what_is_known_about_it():
    assert printed("neurons", "neurons per fact, knowledge") == "4.13"
    assert printed("effects", "amplify, knowledge", spec="+.1f") == "+31.2 %"
    assert printed("update", "perplexity, same relation, random") == "10.1 (unchecked)"
    assert printed("erase", "P27", spec="+.1f") == "+36.7 % (unchecked)"


@pytest.mark.parametrize("relation", ERASED_PERPLEXITY)
def test_the_growth_is_that_of_the_perplexities(relation):
    before, after = ERASED_PERPLEXITY[relation]
    assert 100 * (after / before - 1) == pytest.approx(number("erase", relation), abs=0.2)


def test_every_row_has_its_source_and_stands_once():
    assert {(version, mark) for *_, version, mark in PAPER} == {("ACL", ""), ("ACL", "unchecked"), ("arXiv v1", "")}
    assert len({(section, quantity, version) for section, quantity, _, _, version, _ in PAPER}) == len(PAPER)


@pytest.mark.parametrize("section, first, second", CONTRASTS)
def test_what_the_paper_says_follows_from_its_numbers(section, first, second):
    lower, higher = (first, second) if (first, second) in LOWER else (second, first)
    assert number(section, lower) < number(section, higher)


def numbers(entry, path=()):
    """Every number of the shared table that the ledger does not list as not applicable: its path and its source."""
    if not isinstance(entry, dict):
        return
    for name, value in entry.items():
        if name in NAMES or name == "about":
            continue
        if isinstance(value, (int, float)):
            source = entry.get("random_source") if name == "random_neurons" else None
            yield (*path, name), value, source or entry.get("source", "paper")
        yield from numbers(value, (*path, name))


def row_of(path):
    """Where the ledger has the number at this path of the shared table: quantity and version."""
    *_, above, name = [part for part in path if part not in ("value", "percent")]
    version = "arXiv v1" if name.endswith("_v1") else "ACL"
    name = name.removesuffix("_v1")
    if name in QUANTITIES or above == "erase_relations_ppl":
        return QUANTITIES.get(name, name), version
    quantity, _, kind = (above, "", name) if above in QUANTITIES else name.rpartition("_")
    return f"{QUANTITIES.get(quantity, quantity)}, {KINDS[kind]}", version


def test_another_copy_of_the_numbers_says_the_same():
    """The one test here that needs the authors' data: it finds a number that was typed wrongly, or left out."""
    reference = json.loads(shared_file("reference_numbers.json").read_text())
    found = {row_of(path): (value, source == "unchecked") for path, value, source in numbers(reference)}
    ours = {(quantity, version): (value, mark == "unchecked") for _, quantity, _, value, version, mark in PAPER}
    assert found == ours
    assert len(ours) == len(PAPER)

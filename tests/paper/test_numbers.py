"""The paper's numbers, looked up by name."""

import pytest

from kn_utils.paper.numbers import ERASED_PERPLEXITY, number, printed


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

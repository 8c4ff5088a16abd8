"""Numbers and claims of a page."""

import pytest
from common import one_line_error

import kn_utils as kn
from kn_utils.page import ClaimError, claim, say


@pytest.mark.parametrize(
    "number, spec, text",
    [
        (0.493, ".1%", "49.3\xa0%"),
        (-0.493, "+.1%", "−49.3\xa0%"),
        (-0.0001, "+.1%", "0.0\xa0%"),
        (0.0, "+.2f", "0.00"),
        (2793, ",", "2,793"),
        (3, "", "3"),
        (1e-7, ".1e", "1.0e−07"),
        (float("nan"), ".1%", "nan\xa0%"),
        (kn.Interval(-0.456, -0.501, 0.0001), "+.1%", "−45.6\xa0%\xa0[−50.1,\xa00.0]"),
        (kn.Interval(4.13, 4.0, 4.26), ".2f", "4.13\xa0[4.00,\xa04.26]"),
    ],
)
def test_a_number_has_one_form(number, spec, text):
    assert say("name", number, spec) == text


@pytest.mark.parametrize("word", ["more than", True, None, ["0.5"]])
def test_words_are_not_put_together(word):
    with one_line_error(TypeError, "'name'", "write words into the page"):
        say("name", word)


def test_a_claim_that_holds(monkeypatch):
    monkeypatch.setenv("KN_CLAIMS", "stop")
    assert claim("Two is more than one", 2 > 1) is True


def test_a_claim_that_does_not_hold_stops_the_book_alone(monkeypatch, capsys):
    monkeypatch.setenv("KN_CLAIMS", "stop")
    monkeypatch.setenv("KN_PAGE", "notebooks/chapter.ipynb")
    with one_line_error(ClaimError, "notebooks/chapter.ipynb", "One is more than two"):
        claim("One is more than two", 1 > 2)
    monkeypatch.delenv("KN_CLAIMS")
    assert claim("One is more than two", 1 > 2) is False
    assert capsys.readouterr().out == "Not so here: One is more than two\n"


def test_what_is_not_a_number_does_not_hold():
    assert claim("NaN is less than one", float("nan") < 1) is False

"""What a page of the book says about its results: numbers in its sentences, and claims that the results bear out.

A page is written for the results that the book ships. `say` puts their numbers into it, `claim` proves its sentences.
"""

import os
from numbers import Real

import numpy as np

from .stats import Interval, written

__all__ = ["ClaimError", "claim", "say"]


class ClaimError(AssertionError):
    """A sentence of a page is not true of the results beside it."""


def say(name: str, number: float | Interval, spec: str = "") -> str:
    """Put a number into the page's sentences, where {glue:text}`name` stands, in the form of `written`.

    Outside the book it only returns the text.

    Args:
        spec: a format of Python's, such as "+.1%".

    Raises:
        TypeError: something else than a number or an `Interval`: a page's words are written, not put together.

    Example:
        >>> from kn_utils.page import say
        >>> say("known", 0.493, ".1%")
        '49.3\\xa0%'
    """
    if not isinstance(number, Interval | Real | np.bool_) or isinstance(number, bool | np.bool_):
        raise TypeError(f"{name!r} is {number!r}: say numbers, and write words into the page")
    text = written(number, spec)
    try:
        from myst_nb import glue
    except ModuleNotFoundError:  # only the book needs it
        return text
    glue(name, text, display=False)
    return text


def claim(sentence: str, holds: bool) -> bool:
    """Assert a sentence of the page.

    Where the book is built with the results that it ships (the environment says KN_CLAIMS=stop), a sentence that does
    not hold stops the build. Elsewhere, with another model or fewer facts, it is only reported.

    Raises:
        ClaimError: it does not hold, and the book is being built; the message names page and sentence.

    Example:
        >>> from kn_utils.page import claim
        >>> claim("Two is more than one", 2 > 1)
        True
    """
    holds = bool(holds)
    if not holds and os.environ.get("KN_CLAIMS") == "stop":
        page = os.environ.get("KN_PAGE", "this page")
        raise ClaimError(f"{page} says {sentence!r}, and its results do not: correct the sentence or find what changed")
    if not holds:
        print(f"Not so here: {sentence}")
    return holds

"""The reference: every public name stands on a page and has an example, and every example runs on the lab model."""

import doctest
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

import docstrings
import kn_utils as kn

PAGES = sorted(Path(__file__).resolve().parents[2].joinpath("book/reference").glob("*.md"))
WIDTH = 80  # columns that stand on a page without a scroll bar
BLOCK = re.compile(r"^```pycon\n(.*?)^```", re.MULTILINE | re.DOTALL)
DIRECTIVE = re.compile(
    r"^\.\. (automodule|currentmodule|autofunction|autoclass):: (\S+)$\n?(?: +:members: (.*)$)?", re.MULTILINE
)


@pytest.fixture(scope="module")
def session(lab):
    """The names that every example may use."""
    facts = kn.load_facts("lab", relations="P36")[:3]
    neurons = kn.refine_neurons(kn.knowledge_attribution(lab, facts[1].prompts, facts[1].answer))
    return {"kn": kn, "torch": torch, "lm": lab, "facts": facts, "fact": facts[1], "neurons": neurons}


def page_examples(path):
    return "\n".join(BLOCK.findall(path.read_text(encoding="utf-8")))


def documented(path):
    """The module and the name of everything that a page shows."""
    module = ""
    for directive, target, members in DIRECTIVE.findall(path.read_text(encoding="utf-8")):
        if directive.endswith("module"):
            module = target
            yield from ((module, name) for name in members.split(", ") if name)
        else:
            yield module, target


SHOWN = [pair for path in PAGES for pair in documented(path)]


def find(module, name):
    return getattr(import_module(module), name)


def docstring_example(module, name):
    """The section *Example* of a docstring; empty where it has none."""
    return (inspect.getdoc(find(module, name)) or "").partition("Example:\n")[2]


WITH_EXAMPLE = [pair for pair in SHOWN if docstring_example(*pair)]


def run(source, name, session):
    assert max(map(len, inspect.cleandoc(source).splitlines())) <= WIDTH, f"{name}: break its longest line"
    test = doctest.DocTestParser().get_doctest(source, dict(session), name, name, 0)
    said = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    assert test.examples and not said, "".join(said)


@pytest.mark.parametrize("module, name", WITH_EXAMPLE)
def test_example_of_a_docstring(module, name, session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(docstring_example(module, name), name, session)


@pytest.mark.parametrize("path", [path for path in PAGES if page_examples(path)], ids=lambda path: path.stem)
def test_examples_of_a_page(path, session, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(page_examples(path), path.name, session)


@pytest.mark.parametrize("module, name", SHOWN)
def test_what_a_page_shows_is_there_and_says_what_it_is(module, name):
    assert inspect.getdoc(find(module, name))


@pytest.mark.parametrize("name", kn.__all__)
def test_every_public_name_stands_on_a_page_and_has_an_example(name):
    shown = [(module, shown) for module, shown in SHOWN if find(module, shown) is getattr(kn, name)]
    assert len(shown) == 1, f"{name} stands on {len(shown)} pages of book/reference: put it on one"
    called = any(re.search(rf"\b{name}\b", page_examples(path)) for path in PAGES)
    assert called or docstring_example(*shown[0]), f"{name} has no example: write one into its docstring"


# ---------------------------------------------------------------- what book/docstrings.py makes of a docstring

def processed(*lines):
    lines = list(lines)
    docstrings.process(None, "function", "f", None, None, lines)
    return lines


def test_shape_at_the_end_of_a_line_is_what_comes_back():
    assert processed("Scores.  # (prompts, neurons)", "", "Raises:", "    ValueError: none.") == [
        "Scores.", "", "", ":returns:", "    (prompts, neurons).", "", "Raises:", "    ValueError: none."
    ]  # fmt: skip
    assert processed("Scores.  # (prompts,)", "", "Returns:", "    One row: a, b.") == [
        "Scores.", "", ":returns:", "    One row: a, b."
    ]  # fmt: skip


def test_markdown_code_may_be_followed_by_letters():
    assert processed("One `layer`, or `Neuron`s, and `more`.") == [r"One `layer`, or `Neuron`\ s, and `more`."]
    assert processed() == []


def test_fields_of_named_tuples_are_left_out():
    assert docstrings.skip(None, "class", "layer", kn.Neuron.layer, False, None) is True
    assert docstrings.skip(None, "class", "value_slot", kn.LanguageModel.value_slot, False, None) is None

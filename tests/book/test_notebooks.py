"""The form of every notebook: small cells, no outputs, one set-up and one parameters cell, described figures."""

import ast
import builtins
import importlib
import re
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
import yaml
from notebook_form import ADDRESS, CHAPTERS, NOTEBOOKS, ROOT, assigned, code, defined, has_claims, is_shown, used

from kn_utils.paper.numbers import ERASED_PERPLEXITY, PAPER

SET_UP = f"""\
try:
    import kn_utils as kn
except ModuleNotFoundError:  # in Colab: install once
    %pip install -q git+{ADDRESS}
    import kn_utils as kn
"""


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture
def asserted(notebook):
    """A notebook whose sentences are claims. The others are still to be written so."""
    if not has_claims(notebook):
        pytest.skip("its sentences are not claims yet")
    return notebook


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_the_toc_holds_every_notebook():
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    listed = [Path(chapter["file"]) for part in parts for chapter in part["chapters"]]
    assert {path.stem for path in NOTEBOOKS} == {page.stem for page in listed if page.parent.name == "notebooks"}


def test_valid(notebook):
    nbformat.validate(notebook)


def test_no_outputs_in_git(notebook):
    assert [cell.source for cell in code(notebook) if cell.outputs or cell.execution_count] == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_title_is_a_question(path):
    title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0]
    assert title.startswith("# ") and title.endswith("?")


def test_one_parameters_cell_for_the_lab(notebook):
    (cell,) = code(notebook, "parameters")
    values = assigned(cell.source)
    assert {"MODEL", "FACTS", "N_FACTS", "SEED"} <= values.keys()
    assert (values["MODEL"], values["FACTS"]) == ("lab", "lab")


def test_one_hidden_set_up_cell(notebook):
    (cell,) = (c for c in code(notebook) if "ModuleNotFoundError" in c.source)
    assert {"hide-cell", "remove-cell"} & set(cell.metadata.tags)
    assert cell.source.startswith(SET_UP.rstrip("\n"))


def test_cells_are_short(asserted):
    """A reader sees a cell at a glance, and scrolls nothing sideways."""
    most = {"hide-cell": 99, "hide-input": 15, "by-hand": 12}  # set-up, plumbing, and a derivation by hand
    for cell in filter(is_shown, asserted.cells):
        lines = cell.source.splitlines()
        assert len(lines) <= max((most.get(tag, 10) for tag in cell.metadata.get("tags", [])), default=10), cell.source
        assert [line for line in lines if len(line) > 80 and "git+" not in line] == [], cell.source


def test_cells_that_are_shown_stand_alone(asserted):
    """No name that one of them, or a solution, uses is defined in a removed cell alone."""
    shown, removed = set(dir(builtins)), set()
    for cell in code(asserted):
        tree = ast.parse(re.sub(r"(?m)^(\s*)%.*$", r"\1pass", cell.source))
        if is_shown(cell):
            assert sorted(used(tree) & (removed - shown - defined(tree))) == [], cell.source
        (shown if is_shown(cell) else removed).update(defined(tree))
    solutions = [m for cell in asserted.cells for m in re.findall(r"(?ms)^```python\n(.*?)^```", cell.source)]
    for source in solutions:
        tree = ast.parse(source)
        assert sorted(used(tree) - shown - defined(tree)) == [], source


def test_numbers_are_said_and_words_are_written(asserted):
    """`say` puts numbers into sentences, in removed cells; every number that a sentence shows is said once."""
    removed = "\n".join(cell.source for cell in code(asserted) if not is_shown(cell))
    shown = "\n".join(cell.source for cell in code(asserted) if is_shown(cell))
    assert re.findall(r"\b(?:glue|say|claim)\(", shown) == []
    assert re.findall(r"\bglue\(", removed) == []
    text = "\n".join(cell.source for cell in asserted.cells if cell.cell_type == "markdown")
    assert re.findall(r"\bchapters? \d+", text, re.I) == []  # chapters have titles
    if re.findall(r"{glue:text}`", text):
        assert re.findall(r"\bclaim\(", removed), "a page whose sentences show results asserts what they say"


def test_figures_are_described(notebook):
    figures = [cell.metadata.mystnb for cell in code(notebook) if "figure" in cell.metadata.get("mystnb", {})]
    assert [f for f in figures if not (f.figure.get("caption") and f.figure.get("name", "").startswith("fig-"))] == []
    assert [f for f in figures if not f.get("image", {}).get("alt", "").strip()] == []


def test_no_published_number_is_typed(notebook):
    """They stand in kn_utils/paper/numbers.py. A number of one or two digits, such as 0.09, could be any other."""
    numbers = [abs(row[3]) for row in PAPER] + [value for pair in ERASED_PERPLEXITY.values() for value in pair]
    telling = [number for number in numbers if len(f"{number:g}".replace(".", "").strip("0")) > 2]
    published = {round(value, 6) for number in telling for value in (number, number / 100)}  # 29.03 % is 0.2903, too
    text = "\n".join(cell.source for cell in notebook.cells)
    typed = re.findall(r"(?<![\w.,-])[-+−]?(\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?)(?!\w)", text)
    assert [number for number in typed if float(number.replace(",", "")) in published] == []


def test_a_control_has_one_name(notebook):
    """activation, most active and random: see the glossary. The path of an attribution starts at a baseline."""
    text = "\n".join(cell.source + str(cell.metadata.get("mystnb", "")) for cell in notebook.cells)
    former = r"(?i)baseline neurons|most activated neurons|matched (neurons|control)|[\"'*]baseline[\"'*]"
    assert [match.group() for match in re.finditer(former, text)] == []


def test_every_import_is_there(notebook):
    text = "\n".join(cell.source for cell in notebook.cells)
    for room, names in re.findall(r"^from (kn_utils[\w.]*) import ([\w, ]+)$", text, re.M):
        module = importlib.import_module(room)
        assert [n for n in names.split(", ") if not (hasattr(module, n) or find_spec(f"{room}.{n}"))] == []

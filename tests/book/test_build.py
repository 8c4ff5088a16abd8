"""book/build.py and book/check.py on books of one or two tiny notebooks."""

import json
import subprocess
import sys

import nbformat
import pytest

import build
import check
import execute
from execute import BuildError

CONFIG = """
title: Tiny
exclude_patterns: ["kn_utils/**"]
sphinx: {extra_extensions: [sphinx.ext.autodoc]}
"""
PARAMETERS = 'MODEL = "lab"\nN_FACTS = 3'


def write_notebook(root, name, *sources, parameters=PARAMETERS):
    cells = [nbformat.v4.new_markdown_cell(f"# {name}?")]
    if parameters:
        cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), root / f"notebooks/{name}.ipynb"
    )


def write_toc(root, *files):
    chapters = [{"file": name} for name in files]
    toc = {"format": "jb-book", "root": "book/intro", "parts": [{"caption": "All", "chapters": chapters}]}
    (root / "_toc.yml").write_text(json.dumps(toc))


@pytest.fixture
def book(tmp_path, monkeypatch):
    for name in ("JUPYTER_PATH", "OMP_NUM_THREADS"):  # a build sets these: put them back
        monkeypatch.setenv(name, "1")
    for folder in ("book", "kn_utils/lab", "notebooks"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "kn_utils/__init__.py").write_text('"""The library of a tiny book."""\n')
    (tmp_path / "kn_utils/lab/world.json").write_text("{}")
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\n")
    (tmp_path / "book/intro.md").write_text("# A tiny book\n\nRead on.\n")
    (tmp_path / "_config.yml").write_text(CONFIG)
    write_notebook(tmp_path, "first", "print(N_FACTS + 1)")
    write_toc(tmp_path, "notebooks/first")
    return tmp_path


@pytest.fixture
def no_pages(monkeypatch):
    """Leave out jupyter-book; the notebooks run for real."""
    monkeypatch.setattr(build, "write_pages", lambda root, src: True)


def outputs(book, name):
    cells = nbformat.read(book / f"_build/executed/notebooks/{name}.ipynb", as_version=4).cells
    return "".join(output.text for cell in cells for output in cell.get("outputs", []))


def test_toc_gives_the_reading_order(book):
    (book / "book/end.md").write_text("# The end\n")
    write_toc(book, "notebooks/first", "book/end")
    pages = [page.as_posix() for page in build.toc_pages(book)]
    assert pages == ["book/intro.md", "notebooks/first.ipynb", "book/end.md"]


def test_toc_with_a_missing_page(book):
    write_toc(book, "notebooks/second")
    with pytest.raises(BuildError, match=r"_toc\.yml names notebooks/second, but there is no .*: write it"):
        build.toc_pages(book)


@pytest.mark.parametrize("name", ["kn_utils/__init__.py", "kn_utils/lab/world.json", "requirements.txt"])
def test_stamp_follows_library_data_and_pins(book, name):
    path = book / "notebooks/first.ipynb"
    before = execute.notebook_stamp(book, path, {})
    (book / name).write_text((book / name).read_text() + "\n")
    assert execute.notebook_stamp(book, path, {}) != before


def test_stamp_follows_cells_and_parameters(book):
    path = book / "notebooks/first.ipynb"
    stamps = {execute.notebook_stamp(book, path, p) for p in ({}, {"MODEL": "a"}, {"MODEL": "b"})}
    write_notebook(book, "first", "print(N_FACTS + 2)")
    stamps.add(execute.notebook_stamp(book, path, {}))
    assert len(stamps) == 4


def test_stamp_ignores_outputs_and_caches(book):
    path = book / "notebooks/first.ipynb"
    before = execute.notebook_stamp(book, path, {})
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="4\n")]
    notebook.cells[-1].execution_count = 7
    nbformat.write(notebook, path)
    (book / "kn_utils/__pycache__").mkdir()
    (book / "kn_utils/__pycache__/x.cpython-311.pyc").write_bytes(b"x")
    (book / "README.md").write_text("not part of a notebook")
    assert execute.notebook_stamp(book, path, {}) == before


def test_only_what_changed_runs(book, no_pages, capsys):
    write_notebook(book, "second", "import sys; print(sys.executable)")
    write_toc(book, "notebooks/first", "notebooks/second")
    build.build(book, jobs=2)
    assert outputs(book, "first") == "4\n"
    assert outputs(book, "second").strip() == sys.executable
    write_notebook(book, "first", "print(N_FACTS + 2)")
    build.build(book)
    assert outputs(book, "first") == "5\n"
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(" notebooks")[0] for line in said] == ["2 of 2", "1 of 2"]


def test_other_parameters_reach_the_notebook(book, no_pages):
    build.build(book, {"N_FACTS": 41})
    assert outputs(book, "first") == "42\n"


def test_each_notebook_gets_the_parameters_it_knows(book, no_pages):
    write_notebook(book, "second", "print(RESULTS)", parameters="RESULTS = ''")
    write_toc(book, "notebooks/first", "notebooks/second")
    build.build(book, {"N_FACTS": 41, "RESULTS": "run"})
    assert (outputs(book, "first"), outputs(book, "second")) == ("42\n", "run\n")


def test_executed_notebooks_name_no_folder_of_this_machine(book, no_pages):
    build.build(book)
    assert str(book) not in (book / "_build/executed/notebooks/first.ipynb").read_text()


def test_failing_notebook_is_named_and_leaves_no_page(book, no_pages):
    build.build(book)
    good = (book / "notebooks/first.ipynb").read_text()
    (book / "_build/html").mkdir()
    write_notebook(book, "first", "x = {}\nx['Ireland']", "print('never')")
    with pytest.raises(BuildError) as error:
        build.build(book)
    message = str(error.value)
    assert message.startswith("notebooks/first.ipynb failed in cell 3 (In [2]):")
    assert "    x['Ireland']" in message and "KeyError: 'Ireland'" in message
    assert "\x1b" not in message
    assert not (book / "_build/html").exists() and not (book / "_build/src").exists()

    (book / "notebooks/first.ipynb").write_text(good)  # the partial file of the failure is not taken for its result
    build.build(book)
    assert outputs(book, "first") == "4\n"


CLAIM = "from kn_utils.page import claim\nclaim('Three is more than two', N_FACTS > 2);"


def test_a_result_that_breaks_a_claim_stops_the_build(book, no_pages):
    write_notebook(book, "first", CLAIM)
    build.build(book)
    write_notebook(book, "first", CLAIM, parameters=PARAMETERS.replace("3", "1"))  # the result has changed
    with pytest.raises(BuildError, match=r"^notebooks/first\.ipynb says 'Three is more than two', and .*[^\n]*$"):
        build.build(book)


def test_with_other_parameters_a_broken_claim_is_reported_and_the_page_says_what_it_shows(book, no_pages):
    write_notebook(book, "first", CLAIM)
    build.build(book, {"N_FACTS": 1, "MODEL": "bert-base-cased"})
    assert outputs(book, "first") == "Not so here: Three is more than two\n"
    title = nbformat.read(book / "_build/executed/notebooks/first.ipynb", as_version=4).cells[0].source
    heading, note = title.split("\n\n", 1)
    assert heading == "# first?"
    assert note.startswith("```{note}") and "a run with `N_FACTS = 1`, `MODEL = 'bert-base-cased'`." in note
    build.build(book)
    assert "{note}" not in (book / "_build/executed/notebooks/first.ipynb").read_text()


def test_a_notebook_without_the_parameter_keeps_its_claims(book, no_pages):
    show = "import os\nprint(os.environ['KN_PAGE'], os.environ['KN_CLAIMS'])"
    write_notebook(book, "first", show)
    write_notebook(book, "second", show, parameters="RESULTS = ''")
    write_toc(book, "notebooks/first", "notebooks/second")
    build.build(book, {"RESULTS": "run"}, jobs=2)
    assert outputs(book, "first") == "notebooks/first.ipynb stop\n"
    assert outputs(book, "second") == "notebooks/second.ipynb report\n"


def test_notebook_without_parameters_cell(book):
    write_notebook(book, "first", "print(1)", parameters=None)
    with pytest.raises(BuildError, match=r"first\.ipynb has 0 cells tagged 'parameters': tag exactly one\."):
        build.build(book)


def test_unknown_parameter(book):
    with pytest.raises(BuildError, match=r"No notebook has a parameter MODLE: choose from MODEL, N_FACTS\."):
        build.build(book, {"MODLE": "lab"})


def test_file_that_is_no_notebook(book):
    (book / "notebooks/first.ipynb").write_text("{")
    with pytest.raises(BuildError, match=r"first\.ipynb is not a notebook"):
        build.build(book)


@pytest.mark.parametrize("text", ["MODEL", "=lab", "1X=lab"])
def test_setting_must_be_name_and_value(text):
    with pytest.raises(Exception, match="is not NAME=VALUE"):
        build.setting(text)


def test_setting_reads_numbers():
    assert build.setting("N_FACTS=20") == ("N_FACTS", 20)
    assert build.setting("MODEL=bert-base-cased") == ("MODEL", "bert-base-cased")


def test_pages_from_nothing_to_nothing_changed(book, capfd):
    """The real jupyter-book: pages, a second run without work, a deleted page, a warning."""
    (book / "book/extra.md").write_text("# More\n\n```{eval-rst}\n.. automodule:: kn_utils\n```\n")
    write_toc(book, "notebooks/first", "book/extra")
    assert build.build(book).is_file()
    assert "The library of a tiny book." in (book / "_build/html/book/extra.html").read_text()
    assert list(check.check_files(book / "_build/html", book / "_build/src", build.toc_pages(book))) == [
        f"{page} asks for {url}, outside the book: vendor it under book/_static."
        for page, url in mathjax_requests(book)
    ]
    build.build(book)
    assert "0 of 1 notebooks run, pages unchanged." in capfd.readouterr().out

    (book / "book/extra.md").unlink()
    write_toc(book, "notebooks/first")
    build.build(book)
    assert not (book / "_build/html/book/extra.html").exists()

    (book / "book/intro.md").write_text("# A tiny book\n\n{ref}`nowhere`\n")
    with pytest.raises(BuildError, match="The pages have warnings"):
        build.build(book)
    assert "nowhere" in capfd.readouterr().err
    assert not (book / "_build/html").exists()


def mathjax_requests(book):
    """This tiny book keeps the default MathJax address, which the check must find."""
    html = book / "_build/html"
    for path in sorted(p for p in html.rglob("*.html") if "_static" not in p.parts):
        for url in check.Page(path).assets:
            if "mathjax" in url:
                yield path.relative_to(html), url


def test_command_line_says_what_failed(book):
    script = f"import build, pathlib; build.ROOT = pathlib.Path({str(book)!r}); build.main()"
    write_toc(book, "notebooks/gone")
    done = subprocess.run([sys.executable, "-c", script], cwd=build.ROOT / "book", capture_output=True, text=True)
    assert done.returncode == 1
    assert "_toc.yml names notebooks/gone" in done.stderr and "Traceback" not in done.stderr


# ---------------------------------------------------------------- the checks find what they look for

def page(tmp_path, body, name="a.html"):
    (tmp_path / name).write_text(f"<html><body><article>{body}</article></body></html>")
    return check.Page(tmp_path / name)


def problems(checked):
    return " ".join(checked)


def test_check_finds_requests(tmp_path):
    (tmp_path / "a.css").write_text("@font-face {src: url('https://fonts.example/x.woff2')}")
    found = page(tmp_path, '<link rel="stylesheet" href="a.css"><script src="//cdn.example/x.js"></script>')
    assert "//cdn.example/x.js" in problems(check.check_requests(found))
    assert "https://fonts.example/x.woff2" in problems(check.check_requests(found))
    allowed = page(tmp_path, '<a href="https://example.org">x</a><img alt="x" src="data:image/png;base64,">')
    assert list(check.check_requests(allowed)) == []


def test_check_finds_broken_links(tmp_path):
    other = page(tmp_path, '<h1 id="top">x</h1>', "b.html")
    addresses = ("b.html#top", "b.html#gone", "c.html", "#")
    found = page(tmp_path, "".join(f'<a href="{url}">x</a>' for url in addresses))
    pages = {p.path: p for p in (other, found)}
    assert list(check.check_links(found, pages)) == [
        "links to b.html#gone, but that page has no such anchor.",
        "links to c.html, which does not exist.",
    ]


def test_check_finds_missing_alt_and_repeated_ids(tmp_path):
    found = page(tmp_path, '<p id="x"></p><p id="x"></p><img src="i.svg" alt="i.svg"><img src="j.svg" alt="A map">')
    assert len(list(check.check_article(found))) == 2
    assert "'x'" in problems(check.check_article(found)) and "i.svg" in problems(check.check_article(found))


def test_check_finds_pictures_with_a_ground_of_their_own(tmp_path):
    assert "a white card" in problems(check.check_article(page(tmp_path, '<img src="j.png" alt="A map">')))


def test_check_finds_markup_that_was_not_understood(tmp_path):
    found = page(tmp_path, "<p>```{table} Of `facts` and {term}`neurons`</p><pre>{{ facts }}</pre><p>f'{{x}}'</p>")
    assert len(list(check.check_article(found))) == 3
    assert "'{{ facts }}'" in problems(check.check_article(found))


def test_check_finds_heavy_pages(tmp_path, monkeypatch):
    (tmp_path / "i.png").write_bytes(b"0" * 3000)
    found = page(tmp_path, '<img src="i.png" alt="A map">')
    assert list(check.check_weight(found)) == []
    monkeypatch.setattr(check, "WEIGHT_LIMIT", 3000)
    assert "weighs" in problems(check.check_weight(found))


def test_check_finds_cells_that_did_not_run_or_warned(book, no_pages):
    write_notebook(book, "first", "import sys\nprint('careful', file=sys.stderr)")
    build.build(book)
    toc = build.toc_pages(book)
    assert "cell 3 wrote to stderr: careful" in problems(check.check_executed(book / "_build/executed", toc))
    assert "cell 2 was never executed" in problems(check.check_executed(book, toc))
    assert "has no page" in problems(check.check_complete(book / "_build/html", toc))

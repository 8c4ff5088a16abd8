"""The page *How the library is built*: its figure is true, and its examples work on a copy of the library."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import library_map
from library_map import CORE, FIGURE, FLOORS, RUN_UP, arrows, find_cycle, imports, level, needed, room_lines

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book/how_the_library_is_built.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^### An? (.+?)\n(.*?)(?=^### |\Z)", PAGE, re.DOTALL | re.MULTILINE))
BLOCK = re.compile(r"^```\{code-block\} (\w+)\n:caption: '?(.+?)'?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COPIED = ["kn_utils", "book/architectures.md", "tests/test_architectures.py"]
COPIED += ["tests/common.py", "tests/conftest.py", "tests/families.py"]


def write(copy, caption, lines):
    """Put a block's lines where its caption says, as deep as the line that the caption names."""
    path, place = re.fullmatch(r"`(.+?)`, (.+)", caption).groups()
    text = (copy / path).read_text(encoding="utf-8")
    if place == "at the end":
        return (copy / path).write_text(f"{text}\n\n{lines}", encoding="utf-8")
    where, named = re.fullmatch(r"(above|below|instead of) `(.+)`", place).groups()
    ((old, indent),) = re.findall(rf"^(( *){re.escape(named)}\n)", text, re.MULTILINE)
    new = "".join(indent + line if line.strip() else line for line in lines.splitlines(keepends=True))
    new = {"above": new + old, "below": old + new, "instead of": new}[where]
    return (copy / path).write_text(text.replace(old, new), encoding="utf-8")


def run(copy, language, lines):
    """Run the last block of an example in the copy."""
    arguments = shlex.split(lines.replace("\\\n", ""))[1:] if language == "bash" else ["-c", lines]
    environment = os.environ | {"PYTHONPATH": str(copy), "MPLBACKEND": "agg", "TQDM_DISABLE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_works_on_a_copy(tmp_path, name):
    for path in COPIED:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (shutil.copytree if (ROOT / path).is_dir() else shutil.copyfile)(ROOT / path, tmp_path / path)
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    *changes, (language, caption, check) = BLOCK.findall(EXAMPLES[name])
    assert caption == "Try it" and changes
    for _, caption, lines in changes:
        write(tmp_path, caption, lines)
    done = run(tmp_path, language, check)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_has_an_example_of_everything_one_adds():
    assert {"model family", "experiment", "metric", "figure"} == set(EXAMPLES)


def test_no_import_runs_up():
    """Equal, so that an import that no longer runs up leaves the list of those that do."""
    assert {(start, end) for start, end in arrows() if level(start) >= level(end)} == RUN_UP
    assert ("Dashed arrows" in PAGE) == bool(RUN_UP)


def test_nothing_imports_in_a_circle():
    assert find_cycle(imports()) == []
    assert find_cycle(arrows() - RUN_UP) == []


def test_every_room_is_drawn_and_described():
    rooms = {
        path.stem for path in (ROOT / "kn_utils").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    drawn = [room for floor in FLOORS.values() for row in floor for room in row]
    assert sorted(drawn) == sorted(rooms - {"__init__"})
    assert sorted(re.findall(r"^`(\w+)`\n: ", PAGE, re.MULTILINE)) == sorted(drawn)


def test_the_figure_is_up_to_date():
    assert FIGURE.read_text(encoding="utf-8") == library_map.draw(arrows()), "python book/library_map.py draws it"


def test_the_core_is_small():
    lines = room_lines()
    assert sum(lines[room] for room in CORE) <= 1100, lines


def test_imports_are_found(tmp_path):
    (tmp_path / "engine").mkdir()
    sources = {
        "__init__.py": "from .facts import Fact",
        "facts.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .models import Model",
        "models.py": "import os\ndef load():\n    from .engine.passes import run",
        "engine/__init__.py": "from .passes import run",
        "engine/passes.py": "from ..facts import Fact\nfrom . import hooks",
        "engine/hooks.py": "from kn_utils.facts import Fact",
    }
    for name, source in sources.items():
        (tmp_path / name).write_text(source)
    assert imports(tmp_path) == {
        ("models", "engine.passes"), ("engine", "engine.passes"), ("engine.passes", "facts"),
        ("engine.passes", "engine.hooks"), ("engine.hooks", "facts"),
    }  # fmt: skip
    assert arrows(tmp_path) == {("models", "engine"), ("engine", "facts")}


def test_circles_and_arrows_that_others_say():
    assert find_cycle({("a", "b"), ("b", "c"), ("a", "c")}) == []
    assert set(find_cycle({("a", "b"), ("b", "c"), ("c", "b")})) == {"b", "c"}
    assert needed({("a", "b"), ("b", "c"), ("c", "d"), ("a", "c"), ("a", "d")}) == {("a", "b"), ("b", "c"), ("c", "d")}


def test_lines_of_code():
    text, function = 'x = """one\ntwo"""  # and code\n', 'def f():\n    "doc"\n    return (\n        1\n    )\n'
    assert library_map.code_lines(f'"""Two\nlines."""\n\n# a comment\n{text}\n\n{function}') == 2 + 4

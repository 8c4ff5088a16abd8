"""What the project says about versions is true: bounds that are tested, pins within them, one Python, all files."""

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version as installed

import pytest
from versions import CHAPTERS, CORE, NOT_INSTALLED, PROJECT, ROOT, constraints

BOUNDS = dict(bound.split(">=") for bound in PROJECT["dependencies"])


def numbers(version):
    return [int(n) for n in re.findall(r"\d+", version.partition("+")[0])]


def text(*path):
    return ROOT.joinpath(*path).read_text(encoding="utf-8")


def test_each_bound_is_lower_only_and_installed_as_it_is():
    assert BOUNDS and all(re.fullmatch(r"[\d.]+", bound) for bound in BOUNDS.values())
    assert constraints("lowest") == [f"{name}=={bound}" for name, bound in BOUNDS.items()]
    assert constraints("latest") == []


def test_every_dependency_is_pinned_within_its_bound():
    pins = dict(pin.split("==") for pin in constraints("pinned"))
    assert [name for name, bound in BOUNDS.items() if numbers(pins[name]) < numbers(bound)] == []


@pytest.mark.parametrize("name", BOUNDS)
def test_this_environment_is_within_the_bounds(name):
    assert numbers(installed(name)) >= numbers(BOUNDS[name])


def test_one_python_is_named_everywhere():
    lowest = PROJECT["requires-python"].removeprefix(">=")
    major, minor = lowest.split(".")
    places = {
        "pyproject.toml": (f'target-version = "py{major}{minor}"',),
        "requirements.txt": (f"Python {lowest} or newer",),
        "Makefile": (f"({major}, {minor})", f"Python {lowest} or newer"),
        "README.md": (f"Python {lowest} or newer",),
        "book/how_to_run.md": (f"Python {lowest} or newer",),
        ".binder/runtime.txt": (f"python-{lowest}\n",),
        ".github/workflows/book.yml": (f'python-version: "{lowest}"',),
        ".github/workflows/latest.yml": (f'python-version: "{lowest}"',),
    }
    for place, phrases in places.items():
        assert [phrase for phrase in phrases if phrase not in text(place)] == [], place
        assert set(re.findall(r"[Pp]ython-?(?:version:)? ?\"?(3\.\d+)", text(place))) <= {lowest}, place


def test_the_core_and_its_chapters_are_there():
    assert [pattern for pattern in CORE if not list(ROOT.glob(pattern))] == []
    assert [name for name in CHAPTERS if not (ROOT / f"notebooks/{name}.ipynb").exists()] == []


@pytest.mark.slow
def test_every_file_of_the_library_is_installed(tmp_path):
    """A wheel holds what lies in the folder kn_utils."""
    copy = tmp_path / "book"
    shutil.copytree(ROOT, copy, ignore=NOT_INSTALLED)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, copy]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    files = {path.relative_to(copy).as_posix() for path in (copy / "kn_utils").rglob("*") if path.is_file()}
    assert files <= set(zipfile.ZipFile(wheel).namelist())

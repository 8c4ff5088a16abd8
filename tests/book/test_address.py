"""One address: `_config.yml` holds it, everything else agrees, one command changes it everywhere."""

import re
import shutil
from pathlib import Path

import pytest

import set_address as address

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?:git\+https://github\.com|/github|/v2/gh)/([\w.-]+/[\w-]+)")  # pip, Colab, Binder


def launched(path):
    """Every repository that a file installs or opens."""
    return set(LINK.findall(path.read_text(encoding="utf-8")))


@pytest.fixture
def copy(tmp_path):
    for path in address.address_files(ROOT):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return tmp_path


@pytest.mark.parametrize("name", ["README.md", "CITATION.cff", "pyproject.toml", "_config.yml"])
def test_metadata_has_the_address(name):
    slug = address.present_slug(ROOT)
    assert f"https://github.com/{slug}" in (ROOT / name).read_text(encoding="utf-8")
    assert launched(ROOT / name) <= {slug}


def test_every_notebook_has_the_address():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    assert [path.name for path in notebooks if launched(path) != {address.present_slug(ROOT)}] == []


def test_one_command_changes_it_everywhere(copy):
    before = address.present_slug(copy)
    having = {path for path in address.address_files(copy) if before in path.read_text()}
    changed = address.set_address(copy, "https://github.com/Some-One/kn.book")
    assert set(changed) == having and len(having) >= 4
    assert not [path for path in address.address_files(copy) if before in path.read_text()]
    assert address.present_slug(copy) == "Some-One/kn.book"
    assert address.set_address(copy, "https://github.com/Some-One/kn.book") == []


def test_colab_binder_and_pages_links(tmp_path):
    (tmp_path / "_config.yml").write_text("repository:\n  url: https://github.com/a/b\n")
    (tmp_path / "README.md").write_text(
        "git+https://github.com/a/b.git, https://github.com/a/bc, https://a.github.io/b/ "
        "https://colab.research.google.com/github/a/b/blob/main/x.ipynb https://mybinder.org/v2/gh/a/b/main"
    )
    address.set_address(tmp_path, "https://github.com/C/d.git")
    assert (tmp_path / "README.md").read_text() == (
        "git+https://github.com/C/d.git, https://github.com/a/bc, https://c.github.io/d/ "
        "https://colab.research.google.com/github/C/d/blob/main/x.ipynb https://mybinder.org/v2/gh/C/d/main"
    )


@pytest.mark.parametrize("wrong", ["github.com/a/b", "https://github.com/a", "https://example.org/a/b", ""])
def test_not_an_address(wrong, tmp_path):
    with pytest.raises(ValueError, match="is not an address like https://github.com/someone/repo"):
        address.slug_of(wrong)

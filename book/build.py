"""Build the book: run the notebooks of `_toc.yml`, then let jupyter-book write the pages.

    python book/build.py                                # the book, on the lab model
    python book/build.py --set MODEL=bert-base-cased --set FACTS=pararel

A notebook runs again when its cells, its parameters, `kn_utils` or the pins have changed.
The pages are written afresh when anything they are made of has changed.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from execute import BuildError, run_notebooks, tree_digest
from finish import finish_pages

ROOT = Path(__file__).resolve().parent.parent
PAGE_SCRIPTS = ["book/docstrings.py", "book/finish.py", "book/icons.py", "book/pictures.py"]


def toc_pages(root):
    """Every page of `_toc.yml` in reading order, as paths relative to `root`."""
    return [find_page(root, name) for name in toc_names(yaml.safe_load((root / "_toc.yml").read_text()))]


def toc_names(node):
    if isinstance(node, list):
        for item in node:
            yield from toc_names(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from [value] if key in ("root", "file") else toc_names(value)


def find_page(root, name):
    for suffix in (".ipynb", ".md"):
        if (root / (name + suffix)).is_file():
            return Path(name + suffix)
    raise BuildError(f"_toc.yml names {name}, but there is no {name}.ipynb or {name}.md: write it or correct the name.")


def stage(root, notebooks):
    """Lay out the sources of the pages in `_build/src`, with the same paths as in the repository."""
    src = root / "_build/src"
    shutil.rmtree(src, ignore_errors=True)
    shutil.copytree(root / "book", src / "book", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for path in [root / "_config.yml", root / "_toc.yml", *(root / "kn_utils").rglob("*.py")]:
        copy(path, src / path.relative_to(root))
    for path in notebooks:
        copy(root / "_build/executed" / path, src / path)
    return src


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def write_pages(root, src):
    """Run jupyter-book on the staged sources, from nothing; warnings are errors. Then finish its pages."""
    stamp_file = root / "_build/html/.stamp"
    stamp = tree_digest(src, ".") + tree_digest(root, "requirements.txt", *PAGE_SCRIPTS)
    if stamp_file.is_file() and stamp_file.read_text() == stamp:
        return False
    remove_pages(root)
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    options = ["--path-output", root, "-W", "-n", "--keep-going", "-q"]
    if subprocess.run([jupyter_book, "build", src, *options], cwd=root, env=importing_from(root)).returncode:
        raise BuildError("The pages have warnings (above): correct the page and line each of them names.")
    finish_pages(root / "_build/html")
    stamp_file.write_text(stamp)
    return True


def importing_from(root):
    """The environment in which the reference imports the library of this tree, and jupyter-book `docstrings.py`."""
    paths = [str(root), str(root / "book"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def remove_pages(root):
    for name in ("html", ".doctrees", "jupyter_execute"):
        shutil.rmtree(root / "_build" / name, ignore_errors=True)


def build(root, parameters=None, jobs=1):
    """The whole book; returns the page to open. After a failure no page looks fresh."""
    try:
        notebooks = [page for page in toc_pages(root) if page.suffix == ".ipynb"]
        ran = run_notebooks(root, notebooks, parameters or {}, jobs)
        written = write_pages(root, stage(root, notebooks))
    except BaseException:
        remove_pages(root)
        shutil.rmtree(root / "_build/src", ignore_errors=True)
        raise
    print(f"{len(ran)} of {len(notebooks)} notebooks run, pages {'written' if written else 'unchanged'}.")
    return root / "_build/html/index.html"


def setting(text):
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, yaml.safe_load(value)


def main():
    parser = argparse.ArgumentParser(description="Run the notebooks and write the pages of the book.")
    parser.add_argument("--set", type=setting, action="append", default=[], metavar="NAME=VALUE", dest="parameters",
                        help="run every notebook with this parameter, such as MODEL=bert-base-cased")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=2, help="notebooks that run at once, sharing the cores (2)")
    options = parser.parse_args()
    try:
        page = build(ROOT, dict(options.parameters), options.jobs)
    except BuildError as error:
        sys.exit(f"\n{error}\n\nThe book was not built.")
    print(f"Open {page.as_uri()}")


if __name__ == "__main__":
    main()

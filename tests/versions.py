"""Test the core as others install it: with the lowest, the pinned or the newest versions, each in an own environment.

    python tests/versions.py lowest               # the lower bounds of pyproject.toml, exactly
    python tests/versions.py pinned               # the versions in requirements.txt
    python tests/versions.py latest --chapters    # the newest of everything, and three chapters as in Colab

The environments lie in `_build`. They are made once, later only updated. kn_utils is installed there from a copy of
this folder, as `pip install` of the repository does, and its tests and chapters run in that copy, which has lost its
own kn_utils.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = "tests/test_*.py", "tests/engine/test_*.py", "tests/data/test_*.py"
CHAPTERS = "what_does_the_model_know", "which_neurons_did_it", "can_we_rewrite_one_fact"
NOT_INSTALLED = shutil.ignore_patterns(".*", "_build", "build", "*.egg-info", "__pycache__")
OFFLINE = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def constraints(which):
    """Lines such as `numpy==1.26`, for pip; none for the newest."""
    if which == "lowest":
        return [bound.replace(">=", "==") for bound in PROJECT["dependencies"]]
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in pins if "==" in line] if which == "pinned" else []


def make_environment(which):
    """The Python of an environment in `_build`; it is made where there is none that runs."""
    folder = ROOT / "_build" / f"env-{which}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists() or subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode:
        venv.create(folder, clear=True, with_pip=True, symlinks=os.name != "nt")
    return python


def install(python, which, *packages):
    """Each dependency in the version that `which` says; what these need in turn, in the newest that fits."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "constraints.txt")
        file.write_text("\n".join(constraints(which)), encoding="utf-8")
        newest = ["--upgrade", "--upgrade-strategy", "eager", "--constraint", file]
        run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *newest, *packages])


def print_versions(python, which):
    names = [bound.partition(">=")[0] for bound in PROJECT["dependencies"]]
    print(f"{which}:", flush=True)
    code = "import platform, sys; from importlib.metadata import version; print(' python', platform.python_version())\n"
    run([python, "-c", f"{code}for name in sys.argv[1:]: print(f' {{name}} {{version(name)}}')", *names])


def run_chapters(python, copy):
    """Each chapter as it is in Colab: all cells, unchanged, with the parameters that it has."""
    notebooks = copy / "notebooks"
    for path in (notebooks / f"{name}.ipynb" for name in CHAPTERS):
        print(f"{path.name} runs", flush=True)
        run([python, "-m", "papermill", "--no-progress-bar", "-k", "python3", path, copy / path.name],
            cwd=notebooks, env=os.environ | OFFLINE)  # fmt: skip


def run_tests(python, copy):
    files = [path for pattern in CORE for path in sorted(copy.glob(pattern))]
    run([python, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "-o", "addopts=--strict-markers", *files],
        cwd=copy, env=os.environ | OFFLINE)  # fmt: skip


def run(command, **options):
    """Ends this program where the command fails, after what that said itself."""
    code = subprocess.run(command, **options).returncode
    if code:
        sys.exit(f"error: {' '.join(map(str, command[1:4]))} ... ended with {code}, see above")


def main():
    parser = argparse.ArgumentParser(description="Test the core with other versions of what it needs.")
    parser.add_argument("which", choices=["lowest", "pinned", "latest"])
    parser.add_argument("--chapters", action="store_true", help="run three chapters, too, before the tests")
    parser.add_argument("--install-only", action="store_true", help="only make or update the environment")
    options = parser.parse_args()
    python = make_environment(options.which)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "book")
        shutil.copytree(ROOT, copy, ignore=NOT_INSTALLED)
        install(python, options.which, copy, *(["papermill", "ipykernel"] if options.chapters else []))
        print_versions(python, options.which)
        if options.install_only:
            return
        install(python, options.which, f"{copy}[test]")
        shutil.rmtree(copy / "kn_utils")
        if options.chapters:
            run_chapters(python, copy)
        run_tests(python, copy)


if __name__ == "__main__":
    main()

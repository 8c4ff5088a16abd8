"""Run notebooks with papermill into `_build/executed`, each only when something it depends on has changed."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import papermill
from ipykernel.kernelspec import write_kernel_spec
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from tqdm import tqdm

TITLE = re.compile(r"^# .*$", re.MULTILINE)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class BuildError(Exception):
    """What stopped the build, in words for the reader of the terminal."""


def read_notebook(root, path):
    try:
        return nbformat.read(root / path, as_version=4)
    except nbformat.reader.NotJSONError:
        raise BuildError(f"{path} is not a notebook (not JSON): restore it from git.") from None


def share_parameters(root, paths, parameters):
    """The parameters that each notebook knows, by path; every name is known to one of them."""
    own, names = {}, set()
    for path in paths:
        tagged = [c for c in read_notebook(root, path).cells if "parameters" in c.metadata.get("tags", [])]
        if len(tagged) != 1:
            raise BuildError(f"{path} has {len(tagged)} cells tagged 'parameters': tag exactly one.")
        known = set(papermill.inspect_notebook(root / path))
        names |= known
        own[path] = {name: value for name, value in parameters.items() if name in known}
    for name in parameters:
        if name not in names:
            raise BuildError(f"No notebook has a parameter {name}: choose from {', '.join(sorted(names))}.")
    return own


# ---------------------------------------------------------------- what has changed

def digest(*parts):
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tree_digest(root, *names):
    """Paths and contents of files, and of all files under folders, except caches."""
    files = [p for name in names for p in [root / name, *(root / name).rglob("*")] if p.is_file()]
    kept = [p for p in sorted(files) if not p.match("*.pyc") and ".ipynb_checkpoints" not in p.parts]
    return digest([[p.relative_to(root).as_posix(), hashlib.sha256(p.read_bytes()).hexdigest()] for p in kept])


def notebook_stamp(root, path, parameters):
    cells = [[c.cell_type, c.source, c.metadata] for c in read_notebook(root, path).cells]
    return digest(cells, parameters, tree_digest(root, "kn_utils", "requirements.txt"))


# ---------------------------------------------------------------- run

class OneBar(NBClientEngine):
    """papermill's engine; every finished cell moves one bar over the whole book."""

    bar = None

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, input_path, environment, **_):
        name, n_cells, finish = Path(input_path).stem, len(nb_man.nb.cells), nb_man.cell_complete

        def cell_complete(cell, cell_index=None, **details):
            finish(cell, cell_index, **details)
            cls.bar.set_description(f"{name} {cell_index + 1}/{n_cells}", refresh=False)
            cls.bar.update()

        nb_man.cell_complete = cell_complete
        client = PapermillNotebookClient(nb_man, kernel_name=kernel_name, startup_timeout=60, timeout=None)
        return client.execute(env=os.environ | environment)


def run_notebook(root, path, parameters, stamp):
    """Execute one notebook into the cache; its stamp is written last, and only after success."""
    target = root / "_build/executed" / path
    stamp_file = target.with_suffix(".sha256")
    target.parent.mkdir(parents=True, exist_ok=True)
    stamp_file.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            root / path, target, parameters, engine_name="one-bar", kernel_name="python3", progress_bar=False,
            environment=claims_environment(path, parameters),
        )  # fmt: skip
    except papermill.exceptions.PapermillExecutionError as error:
        raise BuildError(describe(path, error)) from None
    except DeadKernelError:
        raise BuildError(f"{path}: the kernel died (out of memory?): open the notebook with `make lab`.") from None
    notebook = nbformat.read(target, as_version=4)
    remove_run_details(notebook)
    if parameters:
        say_what_was_run(notebook, parameters)
    nbformat.write(notebook, target)
    stamp_file.write_text(stamp)


def claims_environment(path, parameters):
    """What `kn_utils.page` reads: which page a kernel runs, and that its claims are enforced with what is shipped."""
    return {"KN_PAGE": path.as_posix(), "KN_CLAIMS": "report" if parameters else "stop"}


def describe(path, error):
    """A failed cell in readable form: where, the cell's source, the traceback; of a claim its sentence alone."""
    if error.ename == "ClaimError":
        return error.evalue
    trace = COLOURS.sub("", "\n".join(error.traceback)) or f"{error.ename}: {error.evalue}"
    return (
        f"{path} failed in cell {error.cell_index + 1} (In [{error.exec_count}]):\n\n"
        f"{textwrap.indent(error.source, '    ')}\n\n{trace}"
    )


def remove_run_details(notebook):
    """Timings, absolute paths and finished progress bars have no place in a published notebook."""
    for part in [notebook, *notebook.cells]:
        for key in ("papermill", "execution", "widgets"):
            part.metadata.pop(key, None)
    for cell in (c for c in notebook.cells if c.cell_type == "code"):
        cell.outputs = [o for o in cell.outputs if "application/vnd.jupyter.widget-view+json" not in o.get("data", {})]


def say_what_was_run(notebook, parameters):
    """Below the title: the text is about other results than those that the page shows."""
    settings = ", ".join(f"`{name} = {value!r}`" for name, value in parameters.items())
    note = (
        "```{note}\nThe text describes the models and facts that the book ships. "
        f"Numbers and figures below are of a run with {settings}.\n```"
    )
    title = next(cell for cell in notebook.cells if cell.cell_type == "markdown")
    title.source = TITLE.sub(lambda line: f"{line[0]}\n\n{note}\n", title.source, count=1)


def use_this_python(root, jobs):
    """Kernel `python3` becomes this interpreter; `jobs` kernels share the cores."""
    shutil.rmtree(root / "_build/jupyter", ignore_errors=True)
    write_kernel_spec(root / "_build/jupyter/kernels/python3", extra_arguments=["--log-level=ERROR"])
    os.environ["JUPYTER_PATH"] = str(root / "_build/jupyter")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))


def run_notebooks(root, notebooks, parameters, jobs):
    """Bring the cache of executed notebooks up to date; the names of those that ran."""
    parameters = share_parameters(root, notebooks, parameters)
    stamps = {path: notebook_stamp(root, path, parameters[path]) for path in notebooks}
    stale = [path for path, stamp in stamps.items() if cached_stamp(root, path) != stamp]
    if not stale:
        return []
    use_this_python(root, jobs)
    papermill_engines.register("one-bar", OneBar)
    n_cells = sum(len(read_notebook(root, path).cells) + bool(parameters[path]) for path in stale)
    pool = ThreadPoolExecutor(jobs)
    with contextlib.chdir(root / "notebooks"), tqdm(total=n_cells, unit="cell") as OneBar.bar:
        try:
            for done in [pool.submit(run_notebook, root, path, parameters[path], stamps[path]) for path in stale]:
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return stale


def cached_stamp(root, path):
    stamp_file = (root / "_build/executed" / path).with_suffix(".sha256")
    return stamp_file.read_text() if stamp_file.is_file() else None

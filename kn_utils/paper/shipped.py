"""The runs that the chapters show, shipped as result files: `make results` makes them.

Stopped at any moment and started again, the command continues where it was, and two of them share the work.
"""

import argparse

from ..command_line import one_line_errors
from ..data.shipped import COMMAND, FOLDER
from .results import Results, read_results, write_results
from .runs import run_experiments
from .stages import Run

RUNS = {  # each file's name, and the arguments of its run; all others are as in `run_experiments`
    "lab": {"model": "lab", "facts": "lab"},
    "lab-early": {"model": "lab-early", "facts": "lab", "experiment": "suppress_amplify"},
}
ANOTHER_RUN = ("n_facts", "seed", "measure", "precision")  # if these differ, the file is of another run
STALE = ("model_digest", "facts_digest", "sentences_digest", "parameters")  # if only these differ, it is too old


def shipped_results(run: Run, experiment: str = "all") -> Results | None:
    """The shipped results of a run, where there are some with all that `experiment` asks for.

    A line names a file that is damaged, or was made with another model, facts or parameters of the same names.
    """
    for name, arguments in RUNS.items():
        path = FOLDER / f"{name}.parquet"
        if not path.exists() or any(run.about[of] != arguments[of] for of in ("model", "facts")):
            continue
        try:
            results = read_results(path)
        except ValueError as error:
            print(f"not used: {error}")
            continue
        differs = [key for key in (*ANOTHER_RUN, *STALE) if results.about.get(key) != run.about[key]]
        if differs and differs[0] in STALE:
            print(f"not used: the shipped results {path.name!r} have another {', '.join(differs)}")
        if not differs and run.wanted(experiment) <= {*results.about["experiments"]}:
            return results
    return None


def ship(name: str) -> None:
    """Make one of `RUNS`, or continue it in the user's cache, and write its file into the package."""
    results = run_experiments(**RUNS[name])
    tables = {table: rows.drop(columns=["relation", "known"]) for table, rows in results.tables.items() if len(rows)}
    FOLDER.mkdir(exist_ok=True)
    write_results(FOLDER / f"{name}.parquet", results.about | {"command": COMMAND}, results.facts, tables)


def main():
    parser = argparse.ArgumentParser(prog="python -m kn_utils.paper.shipped", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)}; all when left out")
    names = parser.parse_args().names or list(RUNS)
    if unknown := [name for name in names if name not in RUNS]:
        parser.error(f"unknown name {unknown[0]!r}: choose from {', '.join(RUNS)}")
    with one_line_errors("what is finished is kept; the same command continues"):
        for name in names:
            print(f"{name}: {RUNS[name]}", flush=True)
            ship(name)


if __name__ == "__main__":
    main()

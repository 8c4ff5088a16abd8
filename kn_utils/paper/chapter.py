"""What a chapter about a run begins with: its results, and what to call its model."""

from pathlib import Path
from time import perf_counter

from ..data.shipped import how_made, time_left
from .experiments import find_coarse
from .results import Results, read_results
from .runs import run_experiments
from .shipped import shipped_results
from .stages import Run

__all__ = ["how_made", "model_name", "results_or_run"]

WHOLE = 2.5  # times the finding of neurons, which is what all experiments of the lab take


def results_or_run(path: str | Path, model: str | Path, facts: str | Path, **options) -> Results:
    """The results in a file; where no file is named, the shipped ones of this run; or else those of the run itself.

    A line says how they were made. A run is made once and found again later; before it begins, a line says how long it
    will take.

    Args:
        path: a result file of `python -m kn_utils.paper`, or its folder; "" for the run.
        model, facts, options: of the run, as `run_experiments` takes them.

    Raises:
        FileNotFoundError, ValueError: as `read_results` with a path, as `run_experiments` without one.
    """
    results = read_results(path) if path else run_experiments(model, facts, instead=_shipped, **options)
    print(how_made(results.about))
    return results


def model_name(results: Results) -> str:
    """The model of a run as a sentence names it: "the lab model", "bert-base-cased"."""
    model = results.about["model"]
    return "the lab model" if model == "lab" else model.rpartition("/")[2]


def _shipped(run: Run, experiment: str) -> Results | None:
    """The shipped results of a run; where there are none and nothing is made yet, say how long the run takes."""
    results = shipped_results(run, experiment)
    if results is None and not run.folder.exists():
        print(how_long(run, experiment))
    return results


def how_long(run: Run, experiment: str) -> str:
    """One line on how long a run takes: the time of its first fact, measured, for every fact and experiment."""
    seconds = []
    for _ in range(2):  # the second time without what happens once
        start = perf_counter()
        find_coarse(run.lm, run.facts[:1], run.about["measure"])
        seconds.append(perf_counter() - start)
    length = time_left(seconds[1] * len(run.facts) * (1 if experiment == "find" else WHOLE))
    return (
        f"no results are shipped for this model and these {len(run.facts):,} facts: the run takes {length}; "
        "it may be stopped, and continues when this cell runs again"
    )

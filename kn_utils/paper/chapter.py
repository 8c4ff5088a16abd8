"""What a chapter about a run begins with: its results, and what to call its model."""

from pathlib import Path

from .results import Results, read_results
from .runs import run_experiments


def results_or_run(path: str | Path, model: str | Path, facts: str | Path, **options) -> Results:
    """The results in a file, or, where no file is named, those of a run that is made once and found again later.

    Args:
        path: a result file of `python -m kn_utils.paper`, or its folder; "" for the run.
        model, facts, options: of the run, as `run_experiments` takes them.

    Raises:
        FileNotFoundError, ValueError: as `read_results` with a path, as `run_experiments` without one.
    """
    return read_results(path) if path else run_experiments(model, facts, **options)


def model_name(results: Results) -> str:
    """The model of a run as a sentence names it: "the lab model", "bert-base-cased"."""
    model = results.about["model"]
    return "the lab model" if model == "lab" else model.rpartition("/")[2]

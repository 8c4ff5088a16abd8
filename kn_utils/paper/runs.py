"""The paper's experiments on any model and any facts, into one result file: `python -m kn_utils.paper`.

Killed at any moment and started again, a run continues where it was. What is finished lies in chunks, a few facts each.
Any number of processes may work on one run. They share its folder and nothing else, and none waits for another.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from ..checks import count
from ..data.download import cache_folder
from ..editing import check_update
from ..facts import load_facts
from ..loading import load_model
from ..prompts import askable
from .arguments import check_choices, check_names, check_relations
from .description import describe
from .folder import check_folder, usable
from .prompt_types import bags_of
from .registry import EXPERIMENTS
from .results import Results
from .stages import Run

CHUNK = 64  # facts in one chunk


def run_experiments(
    model: str | Path = "lab",
    facts: str | Path = "lab",
    experiment: str = "all",
    relations: Sequence[str] | None = None,
    n_facts: int | None = None,
    seed: int = 0,
    prompts: str | Path | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    chunk: int = CHUNK,
    measure: str = "probability",
    precision: str = "float32",
    instead: Callable[[Run, str], Results | None] | None = None,
) -> Results:
    """Find the neurons of every fact, then suppress, amplify, update and erase.

    Processes that call this with the same arguments, at the same time or later, share the work. Every argument is
    checked before the model is loaded, every fact before anything is computed.

    Args:
        model, device, precision: as `load_model` takes them.
        facts, relations, n_facts: as `load_facts` takes them. A causal model is asked those that are `askable`.
        experiment: "all", "find" or one of `EXPERIMENTS`; all begin with finding. What `out` holds already stays in
            the result file.
        seed: of the sample and of all random choices, from 0.
        prompts: "bingrel" or a folder of its files, for the prompt types of facts that come from a ParaRel file.
        out: the folder of the run. By default one in the user's cache, which the same call finds again.
        chunk: facts in one chunk, the most that a kill can cost a process.
        measure: by which neurons are found, as `knowledge_attribution` takes it.
        instead: of a run and an experiment, gives results that were made before, or None: then the run is made.

    Raises:
        TypeError: an argument of another type.
        ValueError: an unknown choice, a number outside its bounds, `prompts` for the lab's facts, an experiment that
            has nothing to do with these facts or this model, a fact that the model cannot be asked or whose answer
            the measure does not allow, or `out` holds another run.
        OSError: the model, the facts or the sentences cannot be read, or `out` cannot be written.
    """
    check_names(model, facts, prompts, out, device)
    check_choices(experiment, measure, precision)
    model, source = str(model), str(facts)
    relations, seed, chunk = check_relations(relations), count("seed", seed, 0), count("chunk", chunk)
    n_facts = None if n_facts is None else count("n_facts", n_facts)
    if out is not None:
        check_folder(Path(out))
    loaded = load_facts(source, relations, n_facts, seed)
    alone = EXPERIMENTS.get(experiment)  # what is asked for alone must have something to do
    if alone:
        alone.check(loaded)
    lm = load_model(model, device, precision)
    if alone and alone.needs_update:
        check_update(lm)
    chosen = askable(lm, loaded)
    if not chosen:
        raise ValueError(f"no fact of {source!r} can be asked of {model!r}: give facts prompts that end with [MASK]")
    if alone:
        alone.check(chosen)
    bags = bags_of(chosen, source, prompts)
    about = describe(lm, model, chosen, source, seed, bags, measure)
    folder = Path(out or cache_folder() / "runs" / about["fingerprint"][:16])
    with usable(folder):
        run = Run(lm, chosen, bags, about, folder, chunk)
        found = instead and instead(run, experiment)
        return found or run.results(experiment)

"""`python -m kn_utils.lab`: write the world, train the lab models on it, measure them, and replace what is shipped.

`python -m kn_utils.lab --measure` only measures the models that are there, and replaces their cards.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch
import transformers

from ..checks import count
from ..command_line import folder, one_line_errors
from ..facts import load_facts, write_bags
from ..loading import CARDS, LAB_FOLDER, LAB_MODELS, load_model, weights_sha256
from ..models import LanguageModel
from . import card, training, world

LEAST_STEPS = 11  # the first tenth of the steps, rounded down, warms up
MOST_SEED = 2**63 - 1  # of torch


def main():
    options = parser().parse_args()
    with one_line_errors("the files in its folder may be of two trainings; the same command starts anew"):
        check(options)
        if not options.measure:
            options.out.mkdir(parents=True, exist_ok=True)
            write_bags(world.build_bags(options.people, options.seed), options.out / "facts.json.gz")
        for name in [options.model] if options.model else training.RECIPES:
            (measure_model if options.measure else make_model)(name, options)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kn_utils.lab", description=__doc__)
    parser.add_argument("--model", choices=training.RECIPES, help="this model only")
    parser.add_argument("--measure", action="store_true", help="train nothing, measure what is there")
    parser.add_argument("--out", type=folder, default=LAB_FOLDER, help="folder for facts.json.gz, the models and cards")
    parser.add_argument("--people", type=int, default=world.N_PEOPLE, help="invented people in the world")
    parser.add_argument("--steps", type=int, default=training.N_STEPS, help="training steps")
    parser.add_argument("--seed", type=int, default=0, help="of the world and of the training")
    parser.add_argument("--sample", type=int, default=600, help="facts whose neurons are suppressed for the card")
    return parser


def check(options: argparse.Namespace) -> None:
    """Raise an error for a number that is out of bounds, or a folder that is none."""
    count("people", options.people, most=len(world.FIRST_NAMES) * len(world.LAST_NAMES))
    count("steps", options.steps, LEAST_STEPS)
    count("seed", options.seed, 0, MOST_SEED)
    count("sample", options.sample)
    if options.out.exists() and not options.out.is_dir():
        raise NotADirectoryError(f"out is the file {str(options.out)!r}: pass a folder")


def make_model(name: str, options: argparse.Namespace) -> None:
    """Train a model and write it with its card."""
    facts = load_facts(options.out / "facts.json.gz")
    kind, share = training.RECIPES[name]
    stop = round(share * options.steps)

    start = time.time()
    tokenizer = training.build_tokenizer(facts, kind)
    lm = training.train(facts, tokenizer, kind, options.steps, options.seed, stop)
    minutes = (time.time() - start) / 60

    own = place(LAB_MODELS[name], options)
    lm.model.save_pretrained(own)
    lm.tokenizer.save_pretrained(own)
    origin = {
        "seed": options.seed,
        "steps": stop,
        "schedule_steps": options.steps,
        "training_minutes": round(minutes, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU cores",
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__
        },
        "parameters": lm.model.num_parameters(),
        "weights_sha256": weights_sha256(own),
    }  # fmt: skip
    write_card(name, lm, origin, options)


def measure_model(name: str, options: argparse.Namespace) -> None:
    """Measure a model that is there, and replace its card's figures."""
    path = place(CARDS[name], options)
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist: train {name!r} first, without --measure")
    made = json.loads(path.read_text(encoding="utf-8"))
    write_card(name, load_model(place(LAB_MODELS[name], options)), made, options)


def write_card(name: str, lm: LanguageModel, origin: dict, options: argparse.Namespace) -> None:
    """Measure a model and write its card.

    Args:
        origin: how and of what the model was made; its other entries are replaced.
    """
    source = options.out / "facts.json.gz"
    sample = load_facts(source, n_facts=options.sample, seed=origin["seed"])
    report = origin | card.figures(lm, load_facts(source), sample)
    card.write(report, place(CARDS[name], options))
    print(json.dumps(report, indent=2))


def place(shipped: Path, options: argparse.Namespace) -> Path:
    """Where a shipped file or folder stands in the folder that the command writes."""
    return options.out / shipped.relative_to(LAB_FOLDER)


if __name__ == "__main__":
    main()

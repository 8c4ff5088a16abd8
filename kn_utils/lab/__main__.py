"""`python -m kn_utils.lab`: write the world, train the lab models on it, measure them, and replace what is shipped."""

import argparse
import json
import platform
import time

import torch
import transformers

from ..checks import count
from ..command_line import folder, one_line_errors
from ..facts import load_facts, write_bags
from ..loading import CARDS, LAB_FOLDER, LAB_MODELS, weights_sha256
from . import card, training, world

NAMES = {"masked": "lab", "causal": "lab-causal"}
LEAST_STEPS = 11  # the first tenth of the steps, rounded down, warms up
MOST_SEED = 2**63 - 1  # of torch


def main():
    options = parser().parse_args()
    with one_line_errors("the files in its folder may be of two trainings; the same command starts anew"):
        check(options)
        options.out.mkdir(parents=True, exist_ok=True)
        write_bags(world.build_bags(options.people, options.seed), options.out / "facts.json.gz")
        for kind in [options.kind] if options.kind else NAMES:
            make_model(kind, options)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kn_utils.lab", description=__doc__)
    parser.add_argument("--kind", choices=NAMES, help="train this model only")
    parser.add_argument("--out", type=folder, default=LAB_FOLDER, help="folder for facts.json.gz, model/ and causal/")
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


def make_model(kind: str, options: argparse.Namespace) -> None:
    """Train the model of one kind and write it with its card."""
    facts = load_facts(options.out / "facts.json.gz")
    sample = load_facts(options.out / "facts.json.gz", n_facts=options.sample, seed=options.seed)

    start = time.time()
    lm = training.train(facts, training.build_tokenizer(facts, kind), kind, options.steps, options.seed)
    minutes = (time.time() - start) / 60

    own = options.out / LAB_MODELS[NAMES[kind]].relative_to(LAB_FOLDER)
    lm.model.save_pretrained(own)
    lm.tokenizer.save_pretrained(own)
    report = {
        "seed": options.seed,
        "steps": options.steps,
        "training_minutes": round(minutes, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU cores",
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__
        },
        "parameters": lm.model.num_parameters(),
        "weights_sha256": weights_sha256(own),
        **card.figures(lm, facts, sample),
    }  # fmt: skip
    card.write(report, options.out / CARDS[NAMES[kind]].relative_to(LAB_FOLDER))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

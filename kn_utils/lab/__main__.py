"""`python -m kn_utils.lab`: write the world, train the lab models on it, measure them, and replace what is shipped."""

import argparse
import json
import platform
import time
from pathlib import Path

import torch
import transformers

from ..facts import load_facts, write_bags
from ..models import LAB_FOLDER, LAB_MODELS
from . import card, training, world

NAMES = {"masked": "lab", "causal": "lab-causal"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=NAMES, help="train this model only")
    parser.add_argument("--out", type=Path, default=LAB_FOLDER, help="folder for facts.json.gz, model/ and causal/")
    parser.add_argument("--people", type=int, default=world.N_PEOPLE, help="invented people in the world")
    parser.add_argument("--steps", type=int, default=training.N_STEPS, help="training steps")
    parser.add_argument("--seed", type=int, default=0, help="of the world and of the training")
    parser.add_argument("--sample", type=int, default=600, help="facts whose neurons are suppressed for the card")
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    write_bags(world.build_bags(options.people, options.seed), options.out / "facts.json.gz")
    for kind in [options.kind] if options.kind else NAMES:
        make_model(kind, options)


def make_model(kind: str, options: argparse.Namespace) -> None:
    """Train the model of one kind and write it with its card."""
    facts = load_facts(options.out / "facts.json.gz")
    sample = load_facts(options.out / "facts.json.gz", n_facts=options.sample, seed=options.seed)

    start = time.time()
    lm = training.train(facts, training.build_tokenizer(facts, kind), kind, options.steps, options.seed)
    minutes = (time.time() - start) / 60

    folder = options.out / LAB_MODELS[NAMES[kind]].relative_to(LAB_FOLDER)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    report = {
        "seed": options.seed,
        "steps": options.steps,
        "training_minutes": round(minutes, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU cores",
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__
        },
        "parameters": lm.model.num_parameters(),
        "weights_sha256": card.sha256(folder / "model.safetensors"),
        **card.figures(lm, facts, sample),
    }  # fmt: skip
    (options.out / card.CARDS[NAMES[kind]].relative_to(LAB_FOLDER)).write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

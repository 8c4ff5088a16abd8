"""`python -m kn_utils.lab.seeds`: the leaderboard on three lab models, so that its intervals cover training, too.

The shipped model is seed 0. The others are trained by the same script, in worlds of their own people; they are not
shipped, only what is measured on them, in seeds.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

from ..beyond.answer_key import answer_key
from ..beyond.leaderboard import leaderboard, planted_leaderboard
from ..checks import count
from ..command_line import folder, one_line_errors
from ..data.files import write_atomically
from ..facts import load_facts
from ..loading import load_model

SEEDS = (0, 1, 2)
SHIPPED = Path(__file__).parent / "seeds.json"


def read_seeds() -> dict[str, pd.DataFrame]:
    """The shipped tables: "ablation", one row per seed, method and key, and "planted", per seed and method; means over
    the facts."""
    return {name: pd.DataFrame(rows) for name, rows in json.loads(SHIPPED.read_text(encoding="utf-8")).items()}


def measure(own: Path | None, n_facts: int, n_planted: int) -> dict[str, pd.DataFrame]:
    """The leaderboards of one lab model, the shipped one or the one in the folder `own`."""
    lm = load_model(own / "model" if own else "lab")
    source = own / "facts.json.gz" if own else "lab"
    facts, few = load_facts(source, n_facts=n_facts), load_facts(source, n_facts=n_planted, seed=1)
    keys = {baseline: answer_key(lm, facts, baseline).probability for baseline in ("zero", "mean")}
    ablation = leaderboard(lm, facts, keys).groupby(["method", "key"], sort=False).mean()
    planted = planted_leaderboard(lm, few, load_facts(source)).groupby("method", sort=False).mean()
    return {
        "ablation": ablation.drop(columns=["fact", "seconds"]).reset_index(),
        "planted": planted.drop(columns=["fact", "layer"]).reset_index(),
    }


def train(own: Path, seed: int) -> None:
    """Train the lab model of a seed, unless its card says that this is done.

    Raises:
        ValueError: it cannot be trained; why, the training has printed.
    """
    if (own / "card.json").exists():
        return
    training = [sys.executable, "-m", "kn_utils.lab", "--seed", str(seed), "--out", str(own), "--sample", "60"]
    if code := subprocess.run(training, check=False).returncode:
        raise ValueError(f"the lab model of seed {seed} was not trained (exit code {code}): see the lines above")


def main():
    parser = argparse.ArgumentParser(prog="python -m kn_utils.lab.seeds", description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", type=folder, default=Path("_build/seeds"), help="where the other models are kept")
    parser.add_argument("--facts", type=int, default=96, help="whose neurons are all ablated")
    parser.add_argument("--planted", type=int, default=24, help="facts to plant")
    options = parser.parse_args()
    with one_line_errors(f"the models that are trained stay in {str(options.models)!r}; the same command goes on"):
        count("facts", options.facts)
        count("planted", options.planted)
        write_seeds(options.models, options.facts, options.planted)


def write_seeds(models: Path, n_facts: int, n_planted: int) -> None:
    """Train what is not there, measure all, and replace the shipped tables."""
    tables = {}
    for seed in SEEDS:
        own = models / f"seed{seed}" if seed else None
        if own:
            train(own, seed)
        for name, table in measure(own, n_facts, n_planted).items():
            tables.setdefault(name, []).append(table.assign(seed=seed))
    records = {name: pd.concat(parts).round(6).to_dict("records") for name, parts in tables.items()}
    text = json.dumps(records, indent=1) + "\n"
    write_atomically(SHIPPED, lambda partial: partial.write_text(text, encoding="utf-8", newline="\n"))
    print(pd.concat(tables["ablation"]).groupby(["key", "method"], sort=False)[["precision", "auc", "spearman"]].mean())
    print(pd.concat(tables["planted"]).groupby("method", sort=False)[["precision", "auc"]].mean())


if __name__ == "__main__":
    main()

"""`python -m kn_utils.lab.seeds`: the headline numbers and the leaderboard on three lab models, trained from three
seeds, so that one sees how much depends on the training.

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
from ..models import LanguageModel
from .headline import headline

SEEDS = (0, 1, 2)
SHIPPED = Path(__file__).parent / "seeds.json"


def read_seeds() -> dict[str, pd.DataFrame]:
    """The shipped tables, means over the facts: "headline", one row per seed, quantity and kind of neurons, as of
    `headline`; "ablation", per seed, method and key; and "planted", per seed and method."""
    return {name: pd.DataFrame(rows) for name, rows in json.loads(SHIPPED.read_text(encoding="utf-8")).items()}


def measure_headline(own: Path | None, n_facts: int) -> dict[str, pd.DataFrame]:
    """The headline numbers of one lab model, the shipped one or the one in the folder `own`."""
    lm, source = lab_model(own)
    return {"headline": headline(lm, load_facts(source, n_facts=n_facts), load_facts(source))}


def measure_leaderboard(own: Path | None, n_facts: int, n_planted: int) -> dict[str, pd.DataFrame]:
    """The leaderboards of one lab model, likewise."""
    lm, source = lab_model(own)
    facts, few = load_facts(source, n_facts=n_facts), load_facts(source, n_facts=n_planted, seed=1)
    keys = {baseline: answer_key(lm, facts, baseline).probability for baseline in ("zero", "mean")}
    ablation = leaderboard(lm, facts, keys).groupby(["method", "key"], sort=False).mean()
    planted = planted_leaderboard(lm, few, load_facts(source)).groupby("method", sort=False).mean()
    return {
        "ablation": ablation.drop(columns=["fact", "seconds"]).reset_index(),
        "planted": planted.drop(columns=["fact", "layer"]).reset_index(),
    }


def lab_model(own: Path | None) -> tuple[LanguageModel, str | Path]:
    """The model and the source of its facts."""
    return (load_model(own / "model"), own / "facts.json.gz") if own else (load_model("lab"), "lab")


def train(own: Path, seed: int) -> None:
    """Train the lab model of a seed, unless its card says that this is done.

    Raises:
        ValueError: it cannot be trained; why, the training has printed.
    """
    if (own / "card.json").exists():
        return
    options = ["--model", "lab", "--seed", str(seed), "--out", str(own), "--sample", "60"]
    if code := subprocess.run([sys.executable, "-m", "kn_utils.lab", *options], check=False).returncode:
        raise ValueError(f"the lab model of seed {seed} was not trained (exit code {code}): see the lines above")


def main():
    parser = argparse.ArgumentParser(prog="python -m kn_utils.lab.seeds", description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", type=folder, default=Path("_build/seeds"), help="where the other models are kept")
    parser.add_argument("--only", choices=("headline", "leaderboard"), help="leave the other tables as they are")
    parser.add_argument("--headline", type=int, default=240, help="facts of the headline numbers")
    parser.add_argument("--facts", type=int, default=96, help="whose neurons are all ablated")
    parser.add_argument("--planted", type=int, default=24, help="facts to plant")
    options = parser.parse_args()
    with one_line_errors(f"the models that are trained stay in {str(options.models)!r}; the same command goes on"):
        for name in ("headline", "facts", "planted"):
            count(name, getattr(options, name))
        write_seeds(options)


def write_seeds(options: argparse.Namespace) -> None:
    """Train what is not there, measure, and replace the shipped tables."""
    measured: dict[str, list[pd.DataFrame]] = {}
    for seed in SEEDS:
        own = options.models / f"seed{seed}" if seed else None
        if own:
            train(own, seed)
        for name, table in measure(own, options).items():
            measured.setdefault(name, []).append(table.assign(seed=seed))
    tables = read_seeds() | {name: pd.concat(parts).round(6) for name, parts in measured.items()}
    records = {name: table.to_dict("records") for name, table in tables.items()}
    text = json.dumps(records, indent=1) + "\n"
    write_atomically(SHIPPED, lambda partial: partial.write_text(text, encoding="utf-8", newline="\n"))
    for name, table in tables.items():
        keys = [key for key in ("quantity", "kind", "key", "method") if key in table]
        figures = [figure for figure in ("value", "precision", "auc", "spearman") if figure in table]
        print(name, table.pivot(index=keys, columns="seed", values=figures).to_string(), sep="\n")


def measure(own: Path | None, options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """The tables that are asked for, of one lab model."""
    tables = {}
    if options.only != "leaderboard":
        tables |= measure_headline(own, options.headline)
    if options.only != "headline":
        tables |= measure_leaderboard(own, options.facts, options.planted)
    return tables


if __name__ == "__main__":
    main()

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

from ..answer_key import answer_key
from ..facts import load_facts
from ..leaderboard import leaderboard, planted_leaderboard
from ..models import load_model

SEEDS = (0, 1, 2)
SHIPPED = Path(__file__).parent / "seeds.json"


def read_seeds() -> dict[str, pd.DataFrame]:
    """The shipped tables: "ablation", one row per seed, method and key, and "planted", per seed and method; means over
    the facts."""
    return {name: pd.DataFrame(rows) for name, rows in json.loads(SHIPPED.read_text()).items()}


def measure(folder: Path | None, n_facts: int, n_planted: int) -> dict[str, pd.DataFrame]:
    """The leaderboards of one lab model, the shipped one or the one in `folder`."""
    lm = load_model(folder / "model" if folder else "lab")
    source = folder / "facts.json.gz" if folder else "lab"
    facts, few = load_facts(source, n_facts=n_facts), load_facts(source, n_facts=n_planted, seed=1)
    keys = {baseline: answer_key(lm, facts, baseline).probability for baseline in ("zero", "mean")}
    ablation = leaderboard(lm, facts, keys).groupby(["method", "key"], sort=False).mean()
    planted = planted_leaderboard(lm, few, load_facts(source)).groupby("method", sort=False).mean()
    return {
        "ablation": ablation.drop(columns=["fact", "seconds"]).reset_index(),
        "planted": planted.drop(columns=["fact", "layer"]).reset_index(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", type=Path, default=Path("_build/seeds"), help="where the other models are kept")
    parser.add_argument("--facts", type=int, default=96, help="whose neurons are all ablated")
    parser.add_argument("--planted", type=int, default=24, help="facts to plant")
    options = parser.parse_args()
    tables = {}
    for seed in SEEDS:
        folder = options.models / f"seed{seed}" if seed else None
        if folder and not (folder / "card.json").exists():
            training = [sys.executable, "-m", "kn_utils.lab", "--seed", str(seed), "--out", folder, "--sample", "60"]
            subprocess.run(training, check=True)
        for name, table in measure(folder, options.facts, options.planted).items():
            tables.setdefault(name, []).append(table.assign(seed=seed))
    records = {name: pd.concat(parts).round(6).to_dict("records") for name, parts in tables.items()}
    SHIPPED.write_text(json.dumps(records, indent=1) + "\n")
    print(pd.concat(tables["ablation"]).groupby(["key", "method"], sort=False)[["precision", "auc", "spearman"]].mean())
    print(pd.concat(tables["planted"]).groupby("method", sort=False)[["precision", "auc"]].mean())


if __name__ == "__main__":
    main()

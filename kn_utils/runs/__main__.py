"""`python -m kn_utils.runs`: the paper's experiments on any model and any facts, into one result file."""

import argparse
from pathlib import Path

from . import CHUNK, EXPERIMENTS, run_experiments


def main():
    parser = argparse.ArgumentParser(prog="python -m kn_utils.runs", description=__doc__)
    parser.add_argument("--model", default="lab", help="'lab', a Hugging Face id, or a folder")
    parser.add_argument("--facts", default="lab", help="'lab', 'pararel', or a file in ParaRel's format")
    parser.add_argument("--experiment", default="all", choices=EXPERIMENTS)
    parser.add_argument("--relations", nargs="+", help="such as P36 P19; all by default")
    parser.add_argument("--n-facts", type=int, help="a sample, spread over the relations; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", help="'bingrel' or a folder of its files, for facts from a file")
    parser.add_argument("--device", help="a GPU where there is one, by default")
    parser.add_argument("--chunk", type=int, default=CHUNK, help="facts in one shard: the most that a kill costs")
    parser.add_argument("--out", required=True, help="folder of the run and of its results.parquet")
    options = parser.parse_args()
    try:
        results = run_experiments(**vars(options))
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{len(results.facts)} facts in {Path(options.out) / 'results.parquet'}")


if __name__ == "__main__":
    main()

"""`python -m kn_utils.runs`: the paper's experiments on any model and any facts, into one result file.

With several GPUs, `accelerate launch -m kn_utils.runs ...` starts one process on each.
"""

import argparse
import os
from functools import partialmethod
from pathlib import Path

import torch
from tqdm import tqdm

from ..attribution import MEASURES
from ..models import PRODUCTS
from . import CHUNK, EXPERIMENTS, run_experiments

LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0))  # of this process on its machine, from `accelerate launch`


def main():
    parser = argparse.ArgumentParser(prog="python -m kn_utils.runs", description=__doc__)
    parser.add_argument("--model", default="lab", help="'lab', a Hugging Face id, or a folder")
    parser.add_argument("--facts", default="lab", help="'lab', 'pararel', or a file in ParaRel's format")
    parser.add_argument("--experiment", default="all", choices=EXPERIMENTS)
    parser.add_argument("--relations", nargs="+", help="such as P36 P19; all by default")
    parser.add_argument("--n-facts", type=int, help="a sample, spread over the relations; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", help="'bingrel' or a folder of its files, for facts from a file")
    parser.add_argument("--device", help="each process has its own GPU where there are any, by default")
    parser.add_argument("--products", choices=PRODUCTS, default="float32", help="precision of matrix products")
    parser.add_argument("--measure", choices=MEASURES, default="probability", help="by which neurons are found")
    parser.add_argument("--chunk", type=int, default=CHUNK, help="facts in one shard: the most that a kill can cost")
    parser.add_argument("--out", required=True, help="folder of the run and of its results.parquet")
    options = parser.parse_args()
    if LOCAL_RANK:  # the first process speaks for those beside it
        tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)
    if torch.cuda.is_available():
        torch.cuda.set_device(LOCAL_RANK % torch.cuda.device_count())
    try:
        results = run_experiments(**vars(options))
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    if not LOCAL_RANK:
        print(f"{len(results.facts)} facts in {Path(options.out) / 'results.parquet'}")


if __name__ == "__main__":
    main()

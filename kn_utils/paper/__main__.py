"""`python -m kn_utils.paper`: the paper's experiments on any model and any facts, into one result file.

With several GPUs, `accelerate launch -m kn_utils.paper ...` starts one process on each.
"""

import argparse
import os
from functools import partialmethod
from pathlib import Path

import torch
from tqdm import tqdm

from ..attribution import MEASURES
from ..checks import count
from ..command_line import one_line_errors
from ..loading import SHIPPED_NAMES
from ..models import PRECISIONS
from .registry import choices
from .runs import CHUNK, run_experiments


def main():
    options = parser().parse_args()
    continues = f"what is finished is kept in {options.out!r}; the same command continues the run"
    with one_line_errors(continues):
        rank = local_rank()
        if rank:  # the first process speaks for those beside it
            tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)
        if torch.cuda.is_available():
            torch.cuda.set_device(rank % torch.cuda.device_count())
        results = run_experiments(**vars(options))
        if not rank:
            print(f"{len(results.facts)} facts in {Path(options.out) / 'results.parquet'}")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kn_utils.paper", description=__doc__)
    parser.add_argument("--model", default="lab", help=f"{SHIPPED_NAMES}, a Hugging Face id, or a folder")
    parser.add_argument("--facts", default="lab", help="'lab', 'pararel', or a file in ParaRel's format")
    parser.add_argument("--experiment", default="all", choices=choices())
    parser.add_argument("--relations", nargs="+", action="extend", help="such as P36 P19; all by default")
    parser.add_argument("--n-facts", type=int, help="a sample of at most so many, spread over the relations; else all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of all random choices, from 0")
    parser.add_argument("--prompts", help="'bingrel' or a folder of its files, for facts from a file")
    parser.add_argument("--device", help="each process has its own GPU where there are any, by default")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="precision of matrix products")
    parser.add_argument("--measure", choices=MEASURES, default="probability", help="by which neurons are found")
    parser.add_argument("--chunk", type=int, default=CHUNK, help="facts in one chunk: the most that a kill can cost")
    parser.add_argument("--out", required=True, help="folder of the run and of its results.parquet")
    return parser


def local_rank() -> int:
    """The number of this process on its machine, which `accelerate launch` sets."""
    rank = os.environ.get("LOCAL_RANK", "0")
    return count("LOCAL_RANK", int(rank) if rank.isdecimal() else rank, 0)


if __name__ == "__main__":
    main()

"""What makes attribution fast. Nobody has to read it to understand the method.

The engine rests on public extension points only, and reads one private name, that of the attention in use:

* forward hooks and forward pre-hooks of `torch.nn.Module` (`activations.py`, `passes.py`),
* calling a layer again with the arguments that transformers gave it (`passes.py`),
* transformers' registry of attention functions and masks, and its documented `DynamicCache` (`attention.py`).

Tested with transformers 5.0, 5.2, 5.3, 5.17, 5.23 and 5.24, and with torch 2.4, 2.11, 2.13 and 2.14. With other
versions nothing can go wrong silently: when a model is wrapped, `self_check.py` compares the fast path with whole
passes on one tiny input, and where they differ the library says so and takes whole passes from then on.
"""

from .activations import edit_activations
from .batching import batches, collate, encode, n_rows, unique
from .cached_run import Run
from .measures import log_odds
from .passes import answer_logits, rerun_from, run_with_cache, scaled_logits

__all__ = [
    "Run",
    "answer_logits",
    "batches",
    "collate",
    "edit_activations",
    "encode",
    "log_odds",
    "n_rows",
    "rerun_from",
    "run_with_cache",
    "scaled_logits",
    "unique",
]

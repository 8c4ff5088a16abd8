"""What the results of a run depend on, and its fingerprint."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from ..data.shipped import versions
from ..facts import Fact
from ..models import LanguageModel, model_digest
from . import experiments
from .bingrel import Bag

CODE = (  # the files on which the numbers depend
    "models.py loading.py prompts.py engine/*.py attribution.py refinement.py editing.py asking.py "
    "paper/experiments.py paper/registry.py paper/akin.py paper/prompt_types.py paper/stages.py"
).split()


def describe(
    lm: LanguageModel, model: str, facts: Sequence[Fact], source: str, seed: int, bags: list[Bag], measure: str
) -> dict:
    """All that the results depend on, and its fingerprint."""
    constants = "KINDS THRESHOLDS FACTORS ERASED N_ERASED OWN EDITS_PER_RELATION BYSTANDERS MEASURED".split()
    about = {
        "model": model,
        "revision": getattr(lm.model.config, "_commit_hash", None),
        "model_digest": model_digest(lm),
        "n_layers": lm.n_layers,
        "n_neurons": lm.n_neurons,
        "facts": source,
        "n_facts": len(facts),
        "facts_digest": hashlib.sha256(repr(facts).encode()).hexdigest(),
        "sentences_digest": hashlib.sha256(repr(bags).encode()).hexdigest(),
        "seed": seed,
        "measure": measure,
        "precision": lm.precision,
        "parameters": {name.lower(): getattr(experiments, name) for name in constants},
        "code": code_digest(),
        "versions": versions(),
    }
    about = json.loads(json.dumps(about))  # as it will be read
    return about | {"fingerprint": hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()}


def code_digest() -> str:
    """sha256 of the method's code, whatever its line ends."""
    package = Path(experiments.__file__).parent.parent
    files = [path for name in CODE for path in sorted(package.glob(name))]
    return hashlib.sha256("".join(path.read_text(encoding="utf-8") for path in files).encode()).hexdigest()

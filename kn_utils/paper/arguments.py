"""The arguments of a run: each is used, or refused with one line before a model is loaded."""

import os
from collections.abc import Iterable
from pathlib import Path

import torch

from ..attribution import MEASURES
from ..checks import one_of, shown
from ..facts import relation_id
from ..loading import SHIPPED_NAMES
from ..models import PRECISIONS
from .registry import choices


def check_names(model, facts, prompts, out, device) -> None:
    """Names, files and folders.

    Raises:
        TypeError: one that is neither a text nor a path.
        ValueError: one that is empty, or `prompts` for the lab's facts.
        FileNotFoundError: `prompts` is no folder.
    """
    name_or_path("model", model, f"{SHIPPED_NAMES}, a folder or an id of the hub")
    if isinstance(facts, Iterable) and not isinstance(facts, str | bytes | Path):
        raise TypeError(
            f"facts is a {type(facts).__name__}: write the facts with write_facts(facts, path), and pass that path"
        )
    name_or_path("facts", facts, "'lab', 'pararel' or a file")
    if prompts is not None:
        name_or_path("prompts", prompts, "'bingrel' or a folder of its files, or leave it out")
        if str(facts) == "lab":
            raise ValueError(
                f"prompts is {str(prompts)!r}, but the lab's facts have sentences of their own: leave prompts out"
            )
        if str(prompts) != "bingrel" and not Path(prompts).is_dir():
            raise FileNotFoundError(f"prompts is {str(prompts)!r}, which is no folder: pass 'bingrel' or a folder")
    if out is not None:
        name_or_path("out", out, "a folder")
    if device is not None and not isinstance(device, torch.device):
        name_or_path("device", device, "'cpu' or 'cuda', or leave it out")


def check_choices(experiment, measure, precision) -> None:
    """Raise a ValueError for a choice that is unknown."""
    one_of("experiment", experiment, choices())
    one_of("measure", measure, MEASURES)
    one_of("precision", precision, PRECISIONS)


def check_relations(relations) -> list[str] | None:
    """The relations to keep; None for all.

    Raises:
        TypeError: something else than texts.
        ValueError: none, an empty one, or one that comes twice.
    """
    if relations is None:
        return None
    if isinstance(relations, str) or not isinstance(relations, Iterable):
        raise TypeError(f"relations is {shown(relations)}: pass a list, such as ['P36'], or None for all")
    relations, seen = list(relations), set()
    if not relations:
        raise ValueError("relations is empty: pass at least one, such as ['P36'], or None for all")
    for relation in relations:
        if not isinstance(relation, str) or not relation.strip():
            raise ValueError(f"relation {shown(relation)} is no relation: pass names such as 'P36'")
        if relation_id(relation) in seen:
            raise ValueError(f"relation {relation!r} is given twice: pass each relation once")
        seen.add(relation_id(relation))
    return relations


def name_or_path(name: str, value, remedy: str) -> None:
    """Raise an error if a name or a path is none, empty, or nothing that a file system takes."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} is {shown(value)}: pass {remedy}")
    if not str(value).strip() or "\0" in str(value):
        raise ValueError(f"{name} is {str(value)!r}: pass {remedy}")

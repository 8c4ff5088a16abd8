"""The folder of a run: it belongs to one run, whose description lies in it as run.json."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..data.files import one_line, read_json, write_atomically

MARK = "run.json"


def check_folder(folder: Path) -> None:
    """Raise an OSError if `folder` neither is a folder nor can be made, a ValueError if its description is damaged."""
    with usable(folder):
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise NotADirectoryError(f"{str(there)!r} is a file")
        if not (folder / MARK).exists() and not os.access(there, os.W_OK):
            raise PermissionError(f"no permission to write in {str(there)!r}")
        if (folder / MARK).exists():
            read_description(folder / MARK)


def claim(folder: Path, about: dict) -> None:
    """Make `folder` the folder of this run, or continue in it; never mix two runs.

    Raises:
        OSError: the folder cannot be made or written.
        ValueError: it holds another run, or its description is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / MARK
    if not mark.exists():
        text = json.dumps(about, indent=2)
        write_atomically(mark, lambda partial: partial.write_text(text, encoding="utf-8"))
    there = read_description(mark)
    differs = [name for name, value in about.items() if there.get(name) != value and name != "fingerprint"]
    if differs:
        raise ValueError(f"{str(folder)!r} holds a run with other {', '.join(differs)}: choose another folder")


def read_description(mark: Path) -> dict:
    """The description of the run that a folder belongs to.

    Raises:
        ValueError: the file is damaged.
    """
    remedy = "remove it to continue the run that you have started there, or choose another folder"
    about = read_json(mark, "description of a run", remedy)
    if not isinstance(about, dict):
        raise ValueError(f"description of a run {str(mark)!r} holds a {type(about).__name__}: {remedy}")
    return about


@contextmanager
def usable(folder: Path) -> Iterator[None]:
    """Within the block, a folder that cannot be read or written raises an OSError that names it and says how to go on.

    A full disk is such a case.
    """
    try:
        yield
    except OSError as error:
        raise OSError(
            f"run folder {str(folder)!r} cannot be used ({one_line(error)}): set this right or choose another folder; "
            "what is finished stays, and the same command continues"
        ) from None

"""ParaRel's file format: {"P36": [bag, ...], ...}.

A bag is one fact: a row [prompt, answer, "P36(capital)"] for each prompt. Two columns may follow, in all rows of a bag:
the subject, and the prompt's role, one of ROLES: it finds neurons, selects the facts that are known, or is held out to
measure effects. Files as released have neither; then the subject is read from the prompts, and the last quarter of
them does not find.
"""

import gzip
import json
from pathlib import Path

from .files import is_text, read_json, write_atomically

ROLES = ("find", "select", "heldout")
COLUMNS = ("prompt", "answer", "relation", "subject", "role")
REMEDY = "fetch or write it again"


def read_bags(path: str | Path) -> dict[str, list]:
    """Read a file in ParaRel's format, gzipped or plain.

    A flipped bit in a gzipped file is noticed. In plain JSON one within a word is not: the format has no checksum.

    Raises:
        FileNotFoundError: no such file.
        OSError: a folder, or a file that cannot be read.
        ValueError: a file that is truncated, too large, or not in ParaRel's format.
    """
    try:
        bags = read_json(path, "facts file", REMEDY)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"facts file {str(path)!r} does not exist: pass 'lab', 'pararel' or a path to a JSON file"
        ) from None
    check_bags(bags, f"facts file {str(path)!r}")
    return bags


def write_bags(bags: dict[str, list], path: str | Path) -> None:
    """Write bags at once, gzipped when `path` ends in .gz; `read_bags` reads them.

    Raises:
        ValueError: they are not in ParaRel's format.
        OSError: the file cannot be written.
    """
    check_bags(bags, "what is to be written")
    raw = json.dumps(bags, ensure_ascii=False).encode()
    packed = gzip.compress(raw, mtime=0) if str(path).lower().endswith(".gz") else raw
    write_atomically(path, lambda partial: partial.write_bytes(packed))


def check_bags(bags, name: str) -> None:
    """Raise ValueError unless `bags` are in ParaRel's format."""
    if not _is_pararel(bags):
        raise ValueError(
            f"{name} is not in ParaRel's format: expected "
            '{"P36": [[["The capital of Ireland is [MASK].", "Dublin", "P36(capital)"], ...], ...]}'
        )
    for row in (row for group in bags.values() for bag in group for row in bag):
        if len(row) == len(COLUMNS) and row[4] not in ROLES:
            raise ValueError(f"{name} has the role {row[4]!r} for {row[0]!r}: choose one of {', '.join(ROLES)}")


def _is_pararel(bags) -> bool:
    return isinstance(bags, dict) and _is_list_of(lambda group: _is_list_of(_is_bag, group), list(bags.values()))


def _is_list_of(is_item, value) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(is_item, value))


def _is_bag(bag) -> bool:
    """Whether this is a list of rows that differ in prompt and role only."""
    return _is_list_of(_is_row, bag) and len({(len(row), *row[1:4]) for row in bag}) == 1


def _is_row(row) -> bool:
    is_cell = _is_list_of(lambda cell: is_text(cell) and cell.strip() != "", row)
    return is_cell and 3 <= len(row) <= len(COLUMNS) and row[2] == row[2].strip()

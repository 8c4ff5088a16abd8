"""How a command of this package ends when its input is bad or it is stopped: with one line, never a traceback."""

import argparse
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .data.files import one_line

PACKAGE = Path(__file__).parent
INTERRUPTED = 130  # the exit code of a program that ctrl-C stopped: 128 and the number of the signal


@contextmanager
def one_line_errors(when_stopped: str) -> Iterator[None]:
    """Within the block, an error ends the program with `error: ...` and exit code 1, ctrl-C with exit code 130.

    A usage error of argparse keeps its exit code, 2.

    Args:
        when_stopped: what ctrl-C leaves, and how to go on.
    """
    if hasattr(sys.stdout, "reconfigure"):  # a path may hold letters that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped: {when_stopped}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        print(f"error: {told(error)}", file=sys.stderr)
        raise SystemExit(1) from None


def told(error: Exception) -> str:
    """What an error says. One that this package did not foresee also says where it arose, as no traceback does so."""
    message = one_line(error)
    if isinstance(error, ValueError | TypeError | OSError):
        return message
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if PACKAGE in Path(frame.filename).parents] or frames
    where = f"{Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else "unknown place"
    return f"{type(error).__name__} in {where} ({message}): not foreseen, please report this command"


def folder(text: str) -> Path:
    """A folder, as an argument of argparse; an empty text, which Path takes for the current folder, is none."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name of the folder is empty")
    return Path(text)

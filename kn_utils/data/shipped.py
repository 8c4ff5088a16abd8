"""Where the shipped result files lie, and how results were made."""

from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parent / "results"  # `make results` writes there, nothing else
COMMAND = "make results"


def versions() -> dict[str, str]:
    """Of the libraries on which numbers depend."""
    return {name: version(name) for name in ("torch", "transformers")}


def how_made(about: dict) -> str:
    """One line on how results were made: command, versions, and the first digits of the model's and facts' SHA-256.

    Args:
        about: of a run's results, or of an answer key. What an older file does not say is left out.
    """
    made = ", ".join(f"{name} {number}" for name, number in about.get("versions", {}).items())
    parts = [f"made by `{about.get('command', 'python -m kn_utils.paper')}`", f"({made})" if made else ""]
    model, facts = (about.get(f"{of}_digest", "")[:8] for of in ("model", "facts"))
    parts += [f"from model {model} and {about['n_facts']:,} facts {facts}"] if model and facts else []
    return " ".join(filter(None, parts))


def time_left(seconds: float) -> str:
    """A rough duration in words.

    Example:
        >>> time_left(40), time_left(300), time_left(9000)
        ('less than a minute', '5 minutes', '2.5 hours')
    """
    if seconds < 60:
        return "less than a minute"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"

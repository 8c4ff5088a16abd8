"""Copy a figure of the built book into the README: `make book`, then `python book/readme_figure.py`."""

import base64
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
CHAPTER, FIGURE = "notebooks/does_it_hold_for_every_fact.ipynb", "fig-every-relations"


def figure_png(notebook, name):
    """The PNG that the cell with this figure name printed."""
    for cell in notebook.cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == name:
            return base64.b64decode(next(o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})))
    raise SystemExit(f"no cell of {CHAPTER} makes {name}: name the figure in its metadata")


if __name__ == "__main__":
    executed = nbformat.read(ROOT / "_build/executed" / CHAPTER, as_version=4)
    (ROOT / "book/_static/suppression.png").write_bytes(figure_png(executed, FIGURE))

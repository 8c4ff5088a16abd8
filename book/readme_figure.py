"""Copy a figure of the built book into the README, light and dark: `make book`, then `python book/readme_figure.py`."""

from pathlib import Path

import nbformat

from pictures import write_copies

ROOT = Path(__file__).resolve().parent.parent
CHAPTER, FIGURE = "notebooks/does_it_hold_for_every_fact.ipynb", "fig-every-relations"


def figure_svg(notebook, name):
    """The SVG that the cell with this figure name printed."""
    for cell in notebook.cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == name:
            return next(o.data["image/svg+xml"] for o in cell.outputs if "image/svg+xml" in o.get("data", {}))
    raise SystemExit(f"no cell of {CHAPTER} makes {name}: name the figure in its metadata")


if __name__ == "__main__":
    executed = nbformat.read(ROOT / "_build/executed" / CHAPTER, as_version=4)
    picture = ROOT / "book/_static/suppression.svg"
    picture.write_text(figure_svg(executed, FIGURE), encoding="utf-8")
    write_copies(picture)

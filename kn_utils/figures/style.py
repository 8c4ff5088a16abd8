"""One palette and one style for all figures, readable on a light and on a dark page."""

import sys

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.colors import to_rgb

COLOURS = {  # one meaning each; told apart by colour-blind readers, with a contrast of 3 on white and on black
    name: to_rgb(colour)
    for name, colour in {
        "knowledge": "#0173b2",
        "activation": "#cc8400",
        "most active": "#029e73",
        "random": "#949494",
        "another fact": "#94622f",
        "path": "#2f9bd8",
        "negative": "#808080",
        "highlight": "#c43c00",
        "other": "#c873b8",
    }.items()
}
_INK = "#333333"


def use_house_style() -> None:
    """Call once at the top of a notebook.

    Figures become SVG with text as outlines. `book/pictures.py` turns greys, such as the ink, over for a dark page;
    seaborn's ".15", black and white stay as they are: they are written on coloured cells.
    """
    sns.set_theme(style="ticks", context="notebook", palette=list(COLOURS.values()))
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    plt.rcParams.update(dict.fromkeys(inked, _INK))
    plt.rcParams.update(
        {
            "figure.figsize": (7.5, 4),
            "figure.dpi": 96,
            "figure.constrained_layout.use": True,
            "axes.facecolor": "none",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titlesize": "medium",
            "svg.fonttype": "path",
            "svg.hashsalt": "kn_utils",
        }
    )
    show_as_svg()


def show_as_svg() -> None:
    """Let a notebook show its figures as SVG, the same bytes in every run; parts made of points have 192 dots per inch.

    Outside a notebook this does nothing.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if not hasattr(shell, "kernel"):
        return
    from matplotlib_inline.config import InlineBackend

    backend = InlineBackend.instance(parent=shell)
    no_details = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    backend.print_figure_kwargs = {"bbox_inches": "tight", "dpi": 192, "metadata": no_details}
    backend.shell = shell
    backend.figure_formats = {"svg"}

"""One palette and one style for all figures."""

import matplotlib.pyplot as plt
import seaborn as sns

_BLUE, _ORANGE, _GREEN, _VERMILION, _PURPLE, _BROWN, _, _GREY, _, _SKY = sns.color_palette("colorblind")
COLOURS = {  # safe for colour-blind readers; one meaning each, throughout the book
    "knowledge": _BLUE,
    "activation": _ORANGE,
    "most active": _GREEN,
    "random": _GREY,
    "another fact": _BROWN,
    "path": _SKY,
    "negative": (0.3, 0.3, 0.3),
    "highlight": _VERMILION,
    "other": _PURPLE,
}


def use_house_style() -> None:
    """Call once at the top of a notebook."""
    sns.set_theme(style="ticks", context="notebook", palette=list(COLOURS.values()))
    plt.rcParams.update(
        {
            "figure.figsize": (7.5, 4),
            "figure.dpi": 96,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titlesize": "medium",
            "svg.hashsalt": "kn_utils",
        }
    )

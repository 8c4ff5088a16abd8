"""Figures of the method: scores, activations, and what an edit does."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import PercentFormatter
from torch import Tensor
from torch.nn.functional import max_pool1d

from .inputs import colour, layers_by_neurons, value_low_high
from .style import COLOURS


def attribution_map(scores: Tensor, ax: Axes | None = None, n_labels: int = 5) -> Axes:
    """Every neuron's score as a vertical stroke, one band per layer, layer 1 at the bottom; the highest are named.

    Args:
        scores: (layers, neurons), for example the mean over a fact's prompts.
    """
    ax = ax or plt.gca()
    scores = layers_by_neurons("scores", scores)
    n_layers, n_neurons = scores.shape
    tallest = np.abs(scores).max() or 1.0  # all zero is drawn, too
    for layer in range(n_layers):
        heights = 0.85 * scores[layer] / tallest
        colours = np.where(heights[:, None] >= 0, [COLOURS["knowledge"]], [COLOURS["negative"]])
        ax.vlines(np.arange(n_neurons), layer, layer + heights, colors=colours, linewidth=1.2, rasterized=True)
        ax.axhline(layer, color="0.8", linewidth=0.8, zorder=0)
    for flat in np.argsort(scores, axis=None)[::-1][:n_labels]:
        layer, index = divmod(int(flat), n_neurons)
        top = layer + 0.85 * scores[layer, index] / tallest
        ax.annotate(f"{index}", (index, top), textcoords="offset points", xytext=(3, -2), fontsize="x-small")
    ax.set(xlabel="Neuron", ylabel="Layer", xlim=(-0.01 * n_neurons, 1.02 * n_neurons), ylim=(-0.6, n_layers + 0.1))
    ax.set_yticks(range(n_layers), [str(layer + 1) for layer in range(n_layers)])
    return ax


def effect_bars(effects: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Horizontal bars with intervals: one group per row, one colour per kind of neurons.

    Args:
        effects: columns are kinds ("knowledge", "activation", "random"), rows are groups such as relations, entries are
            `Interval`s of a relative change (-0.29 is a fall by 29 %).
    """
    ax = ax or plt.gca()
    height = 0.8 / len(effects.columns)
    for i, kind in enumerate(effects.columns):
        where = np.arange(len(effects)) + (i - (len(effects.columns) - 1) / 2) * height
        value, low, high = value_low_high(f"effects[{kind!r}]", effects[kind])
        ax.barh(where, value, height * 0.9, color=colour(kind), label=kind)
        ax.errorbar(value, where, xerr=[value - low, high - value], fmt="none", ecolor="0.25", elinewidth=1)
    ax.axvline(0, color="0.25", linewidth=0.8)
    ax.set_yticks(range(len(effects)), effects.index)
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.legend(title="Neurons", frameon=False)
    return ax


def dose_response(effects: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Lines with bands: one colour per kind of neurons, over the dose of an edit, such as its factor.

    Args:
        effects: as in `effect_bars`, with one row per dose.
    """
    ax = ax or plt.gca()
    ax.axhline(0, color="0.25", linewidth=0.8)
    for kind in effects.columns:
        value, low, high = value_low_high(f"effects[{kind!r}]", effects[kind])
        ax.plot(effects.index, value, marker="o", markersize=4, color=colour(kind), label=kind)
        ax.fill_between(effects.index, low, high, color=colour(kind), alpha=0.2, linewidth=0)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.legend(title="Neurons", frameon=False)
    return ax


def neuron_heatmap(values: Tensor, ax: Axes | None = None, label: str = "", decades: float | None = None) -> Axes:
    """One cell per neuron, one row per layer, layer 1 at the bottom.

    Wide layers are pooled to at most 512 columns, each with the highest value of its neurons.

    Args:
        values: (layers, neurons), not negative.
        label: of the colour bar.
        decades: colour follows the logarithm over so many powers of ten below the highest value; linear when None.
    """
    ax = ax or plt.gca()
    values = layers_by_neurons("values", values)
    if values.min() < 0:
        raise ValueError(f"values holds {values.min():g}: pass values from 0, such as values.clamp(min=0)")
    n_layers, n_neurons = values.shape
    pool = -(-n_neurons // 512)
    cells = max_pool1d(torch.from_numpy(values)[None], pool, ceil_mode=True)[0].numpy()
    top = max(cells.max(), 1e-12)  # all zero is drawn, too
    norm = Normalize(0, top) if decades is None else LogNorm(top * 10**-decades, top, clip=True)
    image = ax.imshow(
        cells, aspect="auto", origin="lower", interpolation="nearest", cmap="viridis", norm=norm,
        extent=(0, cells.shape[1] * pool, -0.5, n_layers - 0.5),
    )  # fmt: skip
    ax.set(xlabel="Neuron", ylabel="Layer")
    ax.set_yticks(range(n_layers), [str(layer + 1) for layer in range(n_layers)])
    ax.figure.colorbar(image, ax=ax, label=label, pad=0.02)
    return ax

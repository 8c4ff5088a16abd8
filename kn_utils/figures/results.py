"""Figures of the results over many facts."""

from collections.abc import Sequence
from textwrap import shorten

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from ..checks import same_length
from ..stats import SAME_SIZE, Interval, mean_interval
from .inputs import colour, value_low_high
from .style import COLOURS


def depth_bars(shares: Sequence[Interval], ax: Axes | None = None, color: str = COLOURS["knowledge"]) -> Axes:
    """Each layer's share of the neurons as a bar at its relative depth, so that models of any depth compare.

    Args:
        shares: one per layer, from the lowest on. A dashed line marks an even spread over the layers.
    """
    ax = ax or plt.gca()
    n_layers = len(shares)
    depth = (np.arange(n_layers) + 0.5) / n_layers
    value, low, high = value_low_high("shares", shares)
    ax.barh(depth, value, 0.8 / n_layers, color=color)
    ax.errorbar(value, depth, xerr=[value - low, high - value], fmt="none", ecolor="0.25", elinewidth=1)
    ax.axvline(1 / n_layers, color="0.25", linestyle="--", linewidth=0.8)
    ax.set_yticks(depth, [str(layer + 1) for layer in range(n_layers)])
    ax.set(ylim=(0, 1), xlabel="Share of the neurons", ylabel="Layer")
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return ax


def model_bars(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Horizontal bars with intervals: one group per row, one colour per model.

    Args:
        table: columns are models, two at most, the one from elsewhere first; entries are `Interval`s, or not a number
            where there is nothing to show.
    """
    ax = ax or plt.gca()
    if not 1 <= len(table.columns) <= 2:
        raise ValueError(f"table has {len(table.columns)} columns: pass one or two models")
    height = 0.8 / len(table.columns)
    for i, (model, color) in enumerate(zip(table.columns, [COLOURS["other"], COLOURS["knowledge"]], strict=False)):
        where = np.arange(len(table)) + (i - (len(table.columns) - 1) / 2) * height
        value, low, high = value_low_high(f"table[{model!r}]", table[model])
        ax.barh(where, value, height * 0.9, color=color, label=model)
        ax.errorbar(value, where, xerr=[value - low, high - value], fmt="none", ecolor="0.25", elinewidth=1)
    ax.set_yticks(range(len(table)), table.index)
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.legend(frameon=False)
    return ax


def commonest_bars(by_relation: dict[str, dict], ax: Axes | None = None) -> Axes:
    """For each relation the share of its facts that hold its commonest neuron, which is named layer:index at the bar.

    Neurons that are the commonest of several relations are drawn in the highlight colour.

    Args:
        by_relation: of `sharing.commonest`.
    """
    ax = ax or plt.gca()
    entries = [(shorten(relation, 34, placeholder=" …"), e) for relation, e in by_relation.items() if e["commonest"]]
    entries.sort(key=lambda entry: -entry[1]["share"].value)
    heads = [tuple(entry["commonest"][0][:2]) for _, entry in entries]
    for row, ((_, entry), head) in enumerate(zip(entries, heads, strict=True)):
        value, low, high = entry["share"]
        ax.barh(row, value, 0.75, color=COLOURS["highlight" if heads.count(head) > 1 else "other"])
        ax.errorbar(value, row, xerr=[[value - low], [high - value]], fmt="none", ecolor="0.25", elinewidth=1)
        name = f"{head[0] + 1}:{head[1]}"
        ax.annotate(name, (np.nanmax([value, high]) + 0.02, row), va="center", fontsize="x-small")
    ax.set_yticks(range(len(entries)), [relation for relation, _ in entries])
    ax.tick_params(axis="y", labelsize="x-small", length=0)
    ax.set(xlim=(0, 1.25), ylim=(len(entries) - 0.4, -0.6), xlabel="Facts that hold it")
    ax.set_xticks(np.linspace(0, 1, 5))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    return ax


def score_against_key(scores: Tensor, key: Tensor, ax: Axes | None = None) -> Axes:
    """One point per neuron and fact: what a method says (up) and what the key knows (across), equal on the dotted line.

    Args:
        scores, key: (facts, layers, neurons).
    """
    ax = ax or plt.gca()
    scores, key = (values.detach().flatten().cpu().numpy() for values in (scores, key))
    same_length(scores=scores, key=key)
    ax.scatter(key, scores, s=5, color=COLOURS["knowledge"], alpha=0.35, linewidths=0, rasterized=True)
    ends = [min(key.min(), scores.min()), max(key.max(), scores.max())]
    ax.plot(ends, ends, color="0.25", linestyle=":", linewidth=1)
    return ax


def leaderboard_dots(board: pd.DataFrame, metric: str, ax: Axes | None = None) -> Axes:
    """A dot with its interval over facts for every method (row) and key (colour).

    Args:
        board: of `leaderboard`.
    """
    ax = ax or plt.gca()
    methods, keys = board.method.unique(), board.key.unique()
    colors = (COLOURS["knowledge"], COLOURS["highlight"])
    if len(keys) > len(colors):
        raise ValueError(f"board has {len(keys)} keys: choose the rows of at most {len(colors)}")
    for i, (key, color) in enumerate(zip(keys, colors, strict=False)):
        where = np.arange(len(methods)) + 0.25 * (i - (len(keys) - 1) / 2)
        rows = board[board.key == key].groupby("method")[metric]
        value, low, high = np.array([mean_interval(rows.get_group(method)) for method in methods]).T
        ax.errorbar(value, where, xerr=[value - low, high - value], fmt="o", color=color, label=f"{key} ablation")
    ax.set_yticks(range(len(methods)), methods)
    ax.invert_yaxis()
    ax.set(xlim=(-0.03, 1.03), xlabel=metric.capitalize())
    ax.legend(title="Key", frameon=False)
    return ax


def activation_rows(values: Tensor, rows: Sequence[str], marked: Sequence[bool], ax: Axes | None = None) -> Axes:
    """One dot per fact: a neuron's activation, one line per group such as the relation; marked facts stand out.

    Args:
        values: (facts,).
        rows: the group of each fact, drawn in order of appearance.
    """
    ax = ax or plt.gca()
    values, marked = values.detach().cpu().numpy(), np.asarray(marked, dtype=bool)
    same_length(values=values, rows=rows, marked=marked)
    line, groups = pd.factorize(np.asarray(rows))
    height = line + np.random.default_rng(0).uniform(-0.3, 0.3, len(line))  # so that dots do not hide each other
    for chosen, style in ((~marked, dict(color="0.6", s=5)), (marked, dict(color=COLOURS["highlight"], s=16))):
        ax.scatter(values[chosen], height[chosen], linewidths=0, rasterized=True, **style)
    ax.axvline(0, color="0.8", linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(groups)), groups, fontsize="x-small" if len(groups) > 15 else "small")
    ax.set(ylim=(len(groups) - 0.5, -0.5), xlabel="Activation")
    return ax


def count_steps(numbers: dict[str, Sequence[int]], ax: Axes | None = None, band: tuple[float, float] = (2, 5)) -> Axes:
    """For each kind of neurons the share of facts that have at most so many; a grey band marks the paper's aim."""
    ax = ax or plt.gca()
    ax.axvspan(*band, color="0.92", zorder=0)
    for kind, values in numbers.items():
        sns.ecdfplot(x=np.asarray(values), ax=ax, color=colour(kind), label=kind)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.legend(title="Neurons", frameon=False)
    return ax


def layer_table(shares: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """A heat map of each layer's share of the neurons, one row per relation, layer 1 at the left.

    Args:
        shares: one row per relation, one column per layer.
    """
    ax = ax or plt.subplots(figsize=(2.5 + 0.6 * shares.shape[1], 1 + 0.33 * len(shares)))[1]
    columns = [str(layer + 1) for layer in range(shares.shape[1])]
    sns.heatmap(
        shares.set_axis(columns, axis=1), ax=ax, cmap="viridis", vmin=0, annot=shares.shape[1] <= 12, fmt=".0%",
        annot_kws={"fontsize": "x-small"}, cbar=False,
    )  # fmt: skip
    ax.set(xlabel="Layer", ylabel="")
    ax.tick_params(length=0)
    return ax


def effect_steps(changes: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The distribution over facts behind a mean: the share of facts with at most this change, a curve per kind.

    Args:
        changes: one row per fact, one column per kind of neurons.
    """
    ax = ax or plt.gca()
    ax.axvline(0, color="0.25", linewidth=0.8)
    for kind in changes.columns:
        sns.ecdfplot(x=changes[kind].to_numpy(), ax=ax, color=colour(kind), label=kind)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.legend(title="Neurons", frameon=False)
    return ax


def erasure_map(growth: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """A heat map of the growth of log perplexity, erased relations by measured ones; frames mark a relation itself."""
    ax = ax or plt.subplots(figsize=(3 + 0.55 * growth.shape[1], 1.2 + 0.5 * len(growth)))[1]
    limit = np.nanmax([1e-9, *growth.abs().to_numpy().ravel()])
    sns.heatmap(
        growth, ax=ax, cmap="vlag", vmin=-limit, vmax=limit, annot=growth.shape[1] < 20, fmt=".2f",
        annot_kws={"fontsize": "small"}, cbar_kws={"label": "Growth of log perplexity"},
    )  # fmt: skip
    for row, relation in enumerate(growth.index):
        if relation in growth.columns:
            corner = (list(growth.columns).index(relation), row)
            ax.add_patch(plt.Rectangle(corner, 1, 1, fill=False, edgecolor="black", linewidth=2, clip_on=False))
    ax.set(xlabel="Measured", ylabel="Erased")
    ax.tick_params(length=0)
    return ax


def ledger_dots(book: pd.DataFrame, ax: Axes | None = None, ends: tuple[float, float] = (-1, 3)) -> Axes:
    """Ours divided by the paper's number, with its interval: a row for each number that is not near zero in the paper.

    Args:
        book: of `contrasts`, or rows of `ledger`; a number that was not run is left out. BERT, where it was run, is
            drawn in its own colour below ours. A hollow dot: the paper's number is unchecked.
        ends: of the axis; what lies beyond is drawn at its edge.
    """
    runs = {"ours": ("here", COLOURS["knowledge"], 0), "bert": ("BERT", COLOURS["other"], 0.25)}
    runs = {run: style for run, style in runs.items() if run in book}
    there = book[list(runs)].map(lambda value: isinstance(value, Interval))
    rows = book[there.any(axis=1) & (book.paper.abs() > book.near_zero)]
    ax = ax or plt.subplots(figsize=(4.6, 1.2 + 0.42 * len(rows)))[1]
    ax.axvspan(1 / SAME_SIZE, SAME_SIZE, color="0.5", alpha=0.25, linewidth=0, label="same size")
    ax.axvline(0, color="0.5", linewidth=1)
    for run, (label, color, shift) in runs.items():
        for mark, face in (("", color), ("unchecked", "none")):
            shown = (there.loc[rows.index, run] & (rows.mark == mark)).to_numpy()
            if shown.any():
                ratios = np.array(rows[run][shown].tolist()) / rows.paper[shown].to_numpy()[:, None]
                value, *limits = np.clip(ratios, *ends).T
                ax.errorbar(
                    value, np.flatnonzero(shown) + shift, xerr=[value - np.min(limits, 0), np.max(limits, 0) - value],
                    fmt="o", color=color, mfc=face, elinewidth=1, label=f"{label}, {mark}" if mark else label,
                )  # fmt: skip
    for where, name in enumerate(rows.get("contrast", rows.quantity)):
        ax.text(ends[0], where - 0.42, name, fontsize=9, va="center")
    ax.spines["left"].set_visible(False)
    ax.set(xlabel="Here / in the paper", xlim=(ends[0] - 0.1, ends[1] + 0.1), ylim=(len(rows) - 0.5, -0.8), yticks=[])
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, fontsize=9)
    return ax


def type_dots(means: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """A dot with its interval for every type of prompt (row) and kind of neurons (column).

    Args:
        means: entries are `Interval`s.
    """
    ax = ax or plt.gca()
    means = means.sort_index()
    for i, kind in enumerate(means.columns):
        where = np.arange(len(means)) + 0.2 * (i - (len(means.columns) - 1) / 2)
        value, low, high = value_low_high(f"means[{kind!r}]", means[kind])
        ax.errorbar(value, where, xerr=[value - low, high - value], fmt="o", color=colour(kind), label=kind)
    ax.axvline(0, color="0.25", linewidth=0.8)
    ax.set_yticks(range(len(means)), means.index)
    ax.invert_yaxis()
    ax.legend(title="Neurons", frameon=False)
    return ax

"""The book's figures: one palette, layers always upwards, data and Axes in, Axes out."""

import matplotlib.pyplot as plt

from .method import attribution_map, dose_response, effect_bars, neuron_heatmap
from .results import (
    activation_rows,
    commonest_bars,
    count_steps,
    depth_bars,
    effect_steps,
    erasure_map,
    layer_table,
    leaderboard_dots,
    ledger_dots,
    model_bars,
    score_against_key,
    type_dots,
)
from .style import COLOURS, use_house_style

__all__ = [
    "COLOURS",
    "plt",
    "use_house_style",
    "attribution_map",
    "effect_bars",
    "dose_response",
    "neuron_heatmap",
    "depth_bars",
    "model_bars",
    "commonest_bars",
    "score_against_key",
    "leaderboard_dots",
    "activation_rows",
    "count_steps",
    "layer_table",
    "effect_steps",
    "erasure_map",
    "ledger_dots",
    "type_dots",
]

"""What figures cannot draw is refused in one line."""

import math

import matplotlib
import pandas as pd
import pytest
import torch
from common import one_line_error

import kn_utils as kn
from kn_utils import figures

matplotlib.use("agg")
SCORES = torch.rand(3, 3, 40, generator=torch.Generator().manual_seed(0))  # (prompts, layers, neurons)
INTERVALS = pd.DataFrame({"knowledge": [kn.Interval(0.5, 0.4, 0.6)] * 2}, index=["a", "b"])


@pytest.mark.parametrize("draw", [figures.attribution_map, figures.neuron_heatmap])
def test_maps_of_neurons(draw):
    with one_line_error(ValueError, "(3, 3, 40)", ".mean(0)"):
        draw(SCORES)
    with one_line_error(ValueError, "NaN or infinity"):
        draw(SCORES[0].index_fill(-1, torch.tensor([2]), math.nan))
    figures.plt.close(draw(SCORES[0] * 0).figure)  # all zero is drawn, too
    with one_line_error(ValueError, "-1", "clamp"):
        figures.neuron_heatmap(SCORES[0] * 0 - 1)
    figures.plt.close("all")


@pytest.mark.parametrize("draw", [figures.effect_bars, figures.dose_response, figures.type_dots, figures.model_bars])
def test_tables_of_intervals(draw):
    with one_line_error(TypeError, "['knowledge']", "Interval"):
        draw(INTERVALS.map(lambda interval: interval.value))
    if draw is not figures.model_bars:
        with one_line_error(ValueError, "'guess'", "knowledge, activation, most active"):
            draw(INTERVALS.set_axis(["guess"], axis=1))
    figures.plt.close("all")


def test_figures_of_points():
    with one_line_error(ValueError, "one for each"):
        figures.score_against_key(SCORES, SCORES[:2])
    with one_line_error(ValueError, "one for each"):
        figures.activation_rows(torch.rand(3), ["a", "b", "c"], [True])
    with one_line_error(ValueError, "3 columns"):
        figures.model_bars(pd.DataFrame({name: INTERVALS.knowledge for name in "abc"}))
    with one_line_error(ValueError, "'guess'"):
        figures.count_steps({"guess": [1, 2]})
    figures.plt.close("all")

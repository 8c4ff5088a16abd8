"""Find the neurons that express a fact, test them, and edit the fact there.

After Dai et al., Knowledge Neurons in Pretrained Transformers (ACL 2022).
"""

from .asking import (
    Interval,
    answer_distribution,
    answer_probability,
    ask,
    ask_scaled,
    mean_interval,
    perplexity,
    relative_change,
    top_answers,
)
from .attribution import ffn_activations, knowledge_attribution, knowledge_attributions
from .beyond.names import (
    ask_relatives,
    comparable_facts,
    name_neurons,
    neuron_shares,
    prompt_labels,
    relatives,
    variance_shares,
)
from .beyond.planting import plant_fact
from .data.bingrel import load_prompts
from .editing import amplify, erase_relation, suppress, update_fact
from .engine import edit_activations
from .engine.quadrature import riemann_points
from .facts import Fact, load_facts, relation_id, write_facts
from .loading import load_model
from .models import LanguageModel, Neuron
from .paper.results import Results, read_results
from .paper.runs import run_experiments
from .prompts import askable
from .refinement import choose_share, coarse_neurons, random_neurons, refine_neurons, top_neurons

__all__ = [
    "Fact",
    "Interval",
    "LanguageModel",
    "Neuron",
    "Results",
    "amplify",
    "answer_distribution",
    "answer_probability",
    "ask",
    "ask_scaled",
    "askable",
    "ask_relatives",
    "choose_share",
    "coarse_neurons",
    "comparable_facts",
    "edit_activations",
    "erase_relation",
    "ffn_activations",
    "knowledge_attribution",
    "knowledge_attributions",
    "load_facts",
    "load_model",
    "load_prompts",
    "mean_interval",
    "name_neurons",
    "neuron_shares",
    "perplexity",
    "plant_fact",
    "prompt_labels",
    "random_neurons",
    "read_results",
    "refine_neurons",
    "relation_id",
    "relative_change",
    "relatives",
    "riemann_points",
    "run_experiments",
    "suppress",
    "top_answers",
    "top_neurons",
    "update_fact",
    "variance_shares",
    "write_facts",
]

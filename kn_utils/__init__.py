"""Find the neurons that express a fact, test them, and edit the fact there.

After Dai et al., Knowledge Neurons in Pretrained Transformers (ACL 2022).
"""

from .asking import (
    Interval,
    answer_distribution,
    answer_probability,
    ask,
    ask_scaled,
    known,
    mean_interval,
    perplexity,
    relative_change,
    top_answers,
)
from .attribution import ffn_activations, knowledge_attribution, knowledge_attributions
from .editing import amplify, erase_relation, suppress, update_fact
from .engine import edit_activations
from .engine.quadrature import riemann_points
from .facts import Fact, load_facts, relation_id, write_facts
from .loading import load_model
from .models import LanguageModel, Neuron
from .prompts import askable
from .refinement import another_facts_neurons, choose_share, coarse_neurons, random_neurons, refine_neurons, top_neurons

__all__ = [
    "Fact",
    "Interval",
    "LanguageModel",
    "Neuron",
    "amplify",
    "another_facts_neurons",
    "answer_distribution",
    "answer_probability",
    "ask",
    "ask_scaled",
    "askable",
    "choose_share",
    "coarse_neurons",
    "edit_activations",
    "erase_relation",
    "ffn_activations",
    "knowledge_attribution",
    "knowledge_attributions",
    "known",
    "load_facts",
    "load_model",
    "mean_interval",
    "perplexity",
    "random_neurons",
    "refine_neurons",
    "relation_id",
    "relative_change",
    "riemann_points",
    "suppress",
    "top_answers",
    "top_neurons",
    "update_fact",
    "write_facts",
]

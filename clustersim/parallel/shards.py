"""Parameters that one rank holds, chunk by chunk."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustersim.model import transformer
from clustersim.parallel.layers import Layers
from clustersim.parallel.shape import rank_kv_heads
from clustersim.spec.model import Model
from clustersim.spec.scenario import Scenario


def rank_layer_parameters(model: Model, tensor_parallel: int) -> float:
    """Parameters of one layer on one tensor-parallel rank.

    Products are divided; norms, and the biases of row-parallel products, are on every rank. A rank
    holds at least one key and value head: more ranks than such heads hold copies.

    Parameters
    ----------
    model : Model
        A dense one: experts are not counted.
    tensor_parallel : int

    Returns
    -------
    float
        A count; a fraction where the degree does not divide a product.
    """
    norms = transformer.norm_parameters(model) * (1 if model.parallel_block else 2)
    copied = norms + (2 * model.hidden if model.bias else 0)
    kv_head = 2 * model.head_dim * (model.hidden + (1 if model.bias else 0))
    divided = transformer.layer_parameters(model) - copied - model.kv_heads * kv_head
    kv_heads = rank_kv_heads(model, tensor_parallel)
    return divided / tensor_parallel + kv_heads * kv_head + copied


def chunk_parameters(scenario: Scenario, layers: Layers) -> NDArray[np.float64]:
    """Parameters of each chunk on one rank, embedding and head included.

    Parameters
    ----------
    scenario : Scenario
    layers : Layers
        Layers of each stage and chunk.

    Returns
    -------
    ndarray of float64 (stages, chunks)
        With tied embeddings and more than one stage, the last stage holds a copy of the table.
    """
    model, tp = scenario.model, scenario.parallelism.tensor_parallel
    held = layers.count.astype(np.float64) * rank_layer_parameters(model, tp)
    positions = model.max_positions * model.hidden if model.position == "learned" else 0
    table = model.padded_vocab * model.hidden / tp
    held[0, 0] += table + positions
    held[-1, -1] += transformer.norm_parameters(model)
    if not model.tied_embeddings or layers.stages > 1:
        held[-1, -1] += table
    return held

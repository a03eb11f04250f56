"""Parameters and arithmetic of a transformer.

Covers GPT and Llama shapes: learned, rotary or ALiBi positions, grouped-query and latent attention,
gated MLP, experts, parallel block, sliding window, tied or untied embeddings. The arithmetic of a
training step is that of dense models.
"""

from __future__ import annotations

from clustersim.spec.model import Model


def attention_weights(model: Model) -> int:
    """Weights of the query, key, value and output products of one layer.

    Latent attention has products down to the latents and up to the heads instead.

    Parameters
    ----------
    model : Model

    Returns
    -------
    int
        ``h (2 a d + 2 k d)``: hidden size, heads, heads of keys and values, width of a head. Biases
        are not counted.

    References
    ----------
    .. [1] DeepSeek-AI, "DeepSeek-V2," arXiv:2405.04434, section 2.1 and appendix C.
    """
    if (latent := model.latent) is not None:
        heads, query_dim = model.attention_heads, latent.key_dim + latent.rotary_dim
        query = heads * query_dim
        down = model.hidden * (latent.query_rank + latent.kv_rank + latent.rotary_dim)
        up_query = (latent.query_rank or model.hidden) * query
        up_kv = latent.kv_rank * heads * (latent.key_dim + latent.value_dim)
        return down + up_query + up_kv + heads * latent.value_dim * model.hidden
    q_width = model.attention_heads * model.head_dim
    kv_width = model.kv_heads * model.head_dim
    return model.hidden * (2 * q_width + 2 * kv_width)


def mlp_weights(model: Model) -> int:
    """Weights of the matrix products of one MLP.

    Parameters
    ----------
    model : Model

    Returns
    -------
    int
        ``2 h f``, with a gate ``3 h f``. Biases are not counted.
    """
    return model.hidden * model.ffn * (3 if model.gated_mlp else 2)


def expert_weights(model: Model) -> int:
    """Weights of the matrix products of one routed or shared expert; 0 without experts.

    Parameters
    ----------
    model : Model

    Returns
    -------
    int
        As of an MLP of width `expert_ffn`.
    """
    if model.experts is None:
        return 0
    return model.hidden * model.experts.expert_ffn * (3 if model.gated_mlp else 2)


def router_weights(model: Model) -> int:
    """Weights of the product that scores the experts of one layer; 0 without experts.

    Parameters
    ----------
    model : Model

    Returns
    -------
    int
        Hidden size times routed experts.
    """
    return model.hidden * model.experts.experts if model.experts is not None else 0


def norm_parameters(model: Model) -> int:
    """Parameters of one norm: a gain, and a bias for a layer norm.

    Parameters
    ----------
    model : Model

    Returns
    -------
    int
        Once or twice the hidden size.
    """
    return model.hidden * (2 if model.norm == "layer_norm" else 1)


def layer_vector_parameters(model: Model) -> int:
    """Parameters of one layer outside its matrix products: norms and biases.

    Parameters
    ----------
    model : Model
        A parallel block has one norm, others two; biases only where `bias` is set.

    Returns
    -------
    int
        ``a d + 2 k d + 2 h + f`` for the biases, the last term twice with a gate.
    """
    norms = norm_parameters(model) * (1 if model.parallel_block else 2)
    if not model.bias:
        return norms
    q_width = model.attention_heads * model.head_dim
    kv_width = model.kv_heads * model.head_dim
    branches = 2 if model.gated_mlp else 1
    return norms + q_width + 2 * kv_width + model.hidden + branches * model.ffn + model.hidden


def layer_parameters(model: Model) -> int:
    """All parameters of one layer.

    Parameters
    ----------
    model : Model

    Returns
    -------
    int
        Of a dense layer: experts are not counted.
    """
    return attention_weights(model) + mlp_weights(model) + layer_vector_parameters(model)


def embedding_parameters(model: Model) -> int:
    """The (padded) token table and the table of learned positions.

    Parameters
    ----------
    model : Model

    Returns
    -------
    int
        The second only where positions are learned.
    """
    positions = model.max_positions * model.hidden if model.position == "learned" else 0
    return model.padded_vocab * model.hidden + positions


def head_parameters(model: Model) -> int:
    """Final norm and, where it is not tied to the embedding, the output projection.

    Parameters
    ----------
    model : Model

    Returns
    -------
    int
    """
    projection = 0 if model.tied_embeddings else model.padded_vocab * model.hidden
    return norm_parameters(model) + projection


def total_parameters(model: Model) -> int:
    """All parameters, a tied embedding once.

    Parameters
    ----------
    model : Model

    Returns
    -------
    int
        All experts count, not only those that a token visits; in a layer with experts they and the
        router replace the MLP.
    """
    experts = 0
    if model.experts is not None:
        every = model.experts.experts + model.experts.shared_experts
        experts = every * expert_weights(model) + router_weights(model) - mlp_weights(model)
    return (
        model.layers * layer_parameters(model)
        + model.expert_layers * experts
        + embedding_parameters(model)
        + head_parameters(model)
    )


def attention_context(model: Model, sequence_length: int) -> float:
    """Keys that a query meets on average under a causal mask, and a window where there is one.

    Parameters
    ----------
    model : Model
    sequence_length : int
        At least 1. [tokens]

    Returns
    -------
    float
        ``w - w (w - 1) / (2 s)`` for a window w of at most s; ``(s + 1) / 2`` without one. [tokens]
    """
    s, w = sequence_length, model.sliding_window or sequence_length
    w = min(w, s)
    return w - w * (w - 1) / (2 * s)


def model_flop_per_token(model: Model, sequence_length: int) -> float:
    """Arithmetic of one token, forward and backward, without recomputation.

    Parameters
    ----------
    model : Model
        A dense one.
    sequence_length : int
        [tokens]

    Returns
    -------
    float
        ``6 (W + V h) + 12 l s a d``: weights in matrix products and the output projection (the
        vocabulary as the model defines it, without padding), and the whole attention matrix: no
        credit for causality or a window. [FLOP]

    References
    ----------
    .. [1] A. Chowdhery et al., "PaLM: Scaling language modeling with pathways", appendix B, 2022,
       https://arxiv.org/abs/2204.02311
    .. [2] V. Korthikanti et al., "Reducing activation recomputation in large transformer models",
       appendix A, 2022, https://arxiv.org/abs/2205.05198
    """
    weights = model.layers * (attention_weights(model) + mlp_weights(model))
    head = model.vocab * model.hidden
    return 6.0 * (weights + head) + attention_flop_per_token(model, sequence_length)


def attention_flop_per_token(model: Model, sequence_length: int) -> float:
    """The attention core's part of `model_flop_per_token`.

    Parameters
    ----------
    model : Model
    sequence_length : int
        [tokens]

    Returns
    -------
    float
        ``12 l s a d``: layers, sequence, heads and their width. [FLOP]
    """
    width = model.attention_heads * model.head_dim
    return 12.0 * model.layers * sequence_length * width


def recomputed_flop_per_token(
    model: Model, sequence_length: int, core_layers: float, full_layers: float
) -> float:
    """Arithmetic that is done again in the backward pass.

    Parameters
    ----------
    model : Model
        A dense one.
    sequence_length : int
        [tokens]
    core_layers, full_layers : float
        Layers whose attention core alone, and layers that whole, are computed again.

    Returns
    -------
    float
        [FLOP] a token, counted as `model_flop_per_token` counts.
    """
    core = 4.0 * sequence_length * model.attention_heads * model.head_dim
    weights = 2.0 * (attention_weights(model) + mlp_weights(model))
    return core_layers * core + full_layers * (core + weights)

"""The model of a published serving row: its shape by the row, its family by gates and name."""

from __future__ import annotations

from typing import Any

from clustersim.spec.model import Model
from clustersim.validate.capabilities import NotComparableError
from clustersim.validate.serving_records import Shape

# Families that norm queries and keys: config.json and modeling code of each.
NORMED = (("qwen3", "heads"), ("gemma-3", "heads"), ("minimax-m2", "whole"))
# DeepSeek-V3, Table of its report (arXiv:2412.19437), also Kimi-K2: where a row has no ranks.
QUERY_RANK, KEY_DIM, ROTARY_DIM, VALUE_DIM = 1536, 128, 64, 128
KINDS = ("full", "window", "chunked", "linear")


def serving_model(shape: Shape, name: str, notes: list[str]) -> Model:
    """Shape of the model of a row.

    Parameters
    ----------
    name : str
        Its name; rows of equal models with equal names share their prices.
    notes : list of str
        What had to be assumed is appended.

    Raises
    ------
    NotComparableError
        If a layer is of a kind that is not known.
    """
    for kind in shape.layer_pattern:
        if kind not in KINDS:
            raise NotComparableError(f"layers of kind {kind} are not simulated")
    gated = shape.ffn_gated
    data: dict[str, Any] = {
        "name": name,
        "layers": shape.layers,
        "hidden": shape.hidden,
        "ffn": shape.ffn or 0,
        "attention_heads": shape.heads,
        "kv_heads": shape.kv_heads or shape.heads,
        "head_dim": shape.head_dim or 0,
        "vocab": shape.vocab,
        "gated_mlp": gated,
        "position": "rotary" if gated else "learned",
        "norm": "rms_norm" if gated else "layer_norm",
        "bias": not gated,
        "qk_norm": next((how for word, how in NORMED if word in name.lower()), "none"),
        "sliding_window": shape.window,
        "layer_pattern": shape.layer_pattern,
        "tied_embeddings": not gated if shape.tied_embeddings is None else shape.tied_embeddings,
        "source": "published row",
    }
    if set(shape.layer_pattern) <= {"full"}:
        data |= {"layer_pattern": (), "sliding_window": None}
    if shape.moe is not None:
        moe = shape.moe
        data["experts"] = {
            "experts": moe.experts,
            "top_k": moe.topk,
            "expert_ffn": moe.expert_ffn,
            "shared_experts": moe.shared,
            "first_dense_layers": moe.first_dense_layers,
            "every": moe.every,
            "groups": moe.groups,
            "top_k_groups": moe.topk_groups,
        }
    if shape.kv_lora_rank is not None:
        data["latent"] = _latent(shape, notes)
    elif shape.attention == "mla":
        raise NotComparableError("latent attention without its ranks")
    return Model.model_validate(data)


def _latent(shape: Shape, notes: list[str]) -> dict[str, int]:
    stated = (
        shape.q_lora_rank,
        shape.qk_nope_head_dim,
        shape.qk_rope_head_dim,
        shape.v_head_dim,
    )
    usual = (QUERY_RANK, KEY_DIM, ROTARY_DIM, VALUE_DIM)
    query, key, rotary, value = (one or other for one, other in zip(stated, usual, strict=True))
    if None in stated:
        notes.append(f"latent attention as DeepSeek-V3's: query rank {query}, heads {key}+{rotary}")
    return {
        "query_rank": query,
        "kv_rank": shape.kv_lora_rank or 0,
        "key_dim": key,
        "rotary_dim": rotary,
        "value_dim": value,
    }

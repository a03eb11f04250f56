"""The shape of a transformer, dense or with experts: what it computes, not how it is run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from clustersim.spec.base import Record

Position = Literal["learned", "rotary", "alibi", "none"]
LayerKind = Literal["full", "window", "chunked", "linear"]


class Experts(Record):
    """Layers whose MLP is a set of experts, of which every token takes a few."""

    experts: int = Field(gt=1, description="routed experts of a layer")
    top_k: int = Field(gt=0, description="routed experts a token")
    expert_ffn: int = Field(gt=0, description="width of one expert, of one branch where gated")
    shared_experts: int = Field(default=0, ge=0, description="experts that every token takes")
    first_dense_layers: int = Field(default=0, ge=0, description="leading layers without experts")
    every: int = Field(default=1, gt=0, description="each n-th layer has experts")
    groups: int = Field(default=1, gt=0, description="groups of experts that the router picks from")
    top_k_groups: int = Field(default=1, gt=0, description="groups a token; all of them: no limit")


class LatentAttention(Record):
    """Multi-head latent attention: keys and values are kept as one latent vector a token."""

    query_rank: int = Field(default=0, ge=0, description="0: queries are not compressed")
    kv_rank: int = Field(gt=0, description="width of the latent")
    key_dim: int = Field(default=128, gt=0, description="of a head, without its rotary part")
    rotary_dim: int = Field(default=64, gt=0, description="rotary part, one for all heads")
    value_dim: int = Field(default=128, gt=0, description="of a head")


class Model(Record):
    """A decoder-only transformer.

    Left out: encoder-decoder shapes, vision towers.
    """

    name: str
    layers: int = Field(gt=0)
    hidden: int = Field(gt=0)
    ffn: int = Field(
        default=0,
        ge=0,
        description="width of the MLP, of one branch where it is gated; 0: all layers have experts",
    )
    attention_heads: int = Field(gt=0)
    kv_heads: int = Field(default=0, ge=0, description="0: as many as attention_heads")
    head_dim: int = Field(default=0, ge=0, description="0: hidden / attention_heads")
    vocab: int = Field(gt=0)
    padded_vocab_to: int | None = Field(default=None, gt=0, description="vocab is rounded up to it")
    gated_mlp: bool = False
    position: Position = "learned"
    max_positions: int = Field(default=2048, gt=0, description="rows of a learned position table")
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    bias: bool = True
    parallel_block: bool = Field(default=False, description="attention and MLP share one norm")
    qk_norm: Literal["none", "heads", "whole"] = Field(
        default="none", description="norm of queries and keys: head by head, or over all heads"
    )
    sliding_window: int | None = Field(default=None, gt=0)
    layer_pattern: tuple[LayerKind, ...] = Field(
        default=(),
        description="repeats over the layers: full, window (the last `sliding_window` tokens), "
        "chunked (blocks of `sliding_window` tokens), linear (constant state); empty: all window "
        "where there is one, else all full",
    )
    experts: Experts | None = None
    latent: LatentAttention | None = None
    tied_embeddings: bool = True
    source: str = ""

    @model_validator(mode="before")
    @classmethod
    def _fill_heads(cls, data: object) -> object:
        """Write out the defaults that depend on other fields, so that records are complete."""
        if isinstance(data, dict):
            heads, hidden = data.get("attention_heads"), data.get("hidden")
            if isinstance(heads, int) and heads > 0:
                data = {**data, "kv_heads": data.get("kv_heads") or heads}
                if isinstance(hidden, int):
                    data["head_dim"] = data.get("head_dim") or max(1, hidden // heads)
            if isinstance(pattern := data.get("layer_pattern"), list):
                data = {**data, "layer_pattern": tuple(pattern)}  # no longer JSON from here on
        return data

    @property
    def padded_vocab(self) -> int:
        """Rows of the embedding table after padding."""
        if self.padded_vocab_to is None:
            return self.vocab
        return -(-self.vocab // self.padded_vocab_to) * self.padded_vocab_to

    @model_validator(mode="after")
    def _check_shape(self) -> Model:
        if not self.ffn and (self.experts is None or self.expert_layers < self.layers):
            raise ValueError("ffn is 0, but layers without experts need an MLP")
        windows = {"window", "chunked"} & set(self.layer_pattern)
        if windows and self.sliding_window is None:
            raise ValueError(f"layer_pattern has {min(windows)!r}, and no sliding_window")
        if self.experts is not None and self.experts.top_k > self.experts.experts:
            raise ValueError(
                f"experts.top_k {self.experts.top_k} exceeds experts.experts {self.experts.experts}"
            )
        return self

    @property
    def expert_layers(self) -> int:
        """Layers whose MLP is a set of experts."""
        if self.experts is None:
            return 0
        return max(0, self.layers - self.experts.first_dense_layers) // self.experts.every

    def layers_of_kind(self, kind: LayerKind) -> int:
        """Layers with this kind of attention.

        Parameters
        ----------
        kind : str
            An entry of `layer_pattern`.

        Returns
        -------
        int
            Of all layers. A pattern that does not divide them is cut off at the last. Without a
            pattern all are of one kind: `window` where there is a `sliding_window`, else `full`.
        """
        pattern = self.layer_pattern or ("window" if self.sliding_window else "full",)
        whole, rest = divmod(self.layers, len(pattern))
        return whole * pattern.count(kind) + pattern[:rest].count(kind)

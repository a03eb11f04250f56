"""The shape of a dense transformer: what it computes, nothing of how it is run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from clustersim.spec.base import Record

Position = Literal["learned", "rotary", "alibi", "none"]


class Model(Record):
    """A decoder-only dense transformer (GPT and Llama families).

    Left out: mixture of experts, latent attention, encoder-decoder shapes.
    """

    name: str
    layers: int = Field(gt=0)
    hidden: int = Field(gt=0)
    ffn: int = Field(gt=0, description="width of the MLP, of one branch where it is gated")
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
    sliding_window: int | None = Field(default=None, gt=0)
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
        return data

    @property
    def padded_vocab(self) -> int:
        """Rows of the embedding table after padding."""
        if self.padded_vocab_to is None:
            return self.vocab
        return -(-self.vocab // self.padded_vocab_to) * self.padded_vocab_to

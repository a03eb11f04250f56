"""What one rank of a tensor-parallel group works on: the shapes that memory and workload share.

References
----------
.. [1] NVIDIA, Megatron-LM, fused_softmax.py: shapes that the fused kernel takes, and the fallback,
   https://github.com/NVIDIA/Megatron-LM
"""

from __future__ import annotations

from dataclasses import dataclass

from clustersim.spec.datatypes import ELEMENT_BYTES
from clustersim.spec.model import Model
from clustersim.spec.scenario import Scenario
from clustersim.spec.software import Features

FUSED_KEYS = (16, 4096)  # more than the first, at most the second


def rank_kv_heads(model: Model, tensor_parallel: int) -> int:
    """Key and value heads of a rank: its share, or one that other ranks hold too.

    Parameters
    ----------
    model : Model
    tensor_parallel : int

    Returns
    -------
    int
        At least 1.
    """
    return max(1, model.kv_heads // tensor_parallel)


@dataclass(frozen=True)
class RankShape:
    """What one rank of a tensor-parallel group works on in one micro-batch.

    Attributes
    ----------
    tokens : int
        Tokens of a micro-batch.
    norm_tokens : int
        Tokens that this rank normalises: a share under sequence parallelism.
    heads, kv_heads, ffn, vocab : int
        This rank's share.
    element_bytes, grad_bytes : float
        One element of an activation and of an accumulated gradient. [bytes]
    """

    model: Model
    features: Features
    sequences: int
    sequence_length: int
    tensor_parallel: int
    sequence_parallel: bool
    dtype: str
    dropout: bool
    grad_bytes: float

    @property
    def tokens(self) -> int:
        return self.sequences * self.sequence_length

    @property
    def norm_tokens(self) -> int:
        return self.tokens // (self.tensor_parallel if self.sequence_parallel else 1)

    @property
    def heads(self) -> int:
        return max(1, self.model.attention_heads // self.tensor_parallel)

    @property
    def kv_heads(self) -> int:
        return rank_kv_heads(self.model, self.tensor_parallel)

    @property
    def ffn(self) -> int:
        return self.model.ffn // self.tensor_parallel

    @property
    def vocab(self) -> int:
        return -(-self.model.padded_vocab // self.tensor_parallel)

    @property
    def attention(self) -> str:
        """How the attention core runs here: a feature, or "fp32_softmax".

        Megatron-LM's fused softmax takes 17 to 4,096 keys, and heads times sequences in fours;
        other shapes fall back to a softmax of separate operations in fp32 [1].
        """
        wanted = self.features.attention
        groups = self.sequences * self.heads
        fits = FUSED_KEYS[0] < self.sequence_length <= FUSED_KEYS[1] and groups % 4 == 0
        return "fp32_softmax" if wanted == "fused_softmax" and not fits else wanted

    @property
    def flash(self) -> bool:
        """Whether the core is one kernel that keeps no scores."""
        return self.attention.startswith("flash")

    @property
    def element_bytes(self) -> float:
        return ELEMENT_BYTES[self.dtype]

    @property
    def hidden_bytes(self) -> float:
        """The whole residual stream of a micro-batch. [bytes]"""
        return self.tokens * self.model.hidden * self.element_bytes

    @property
    def norm_bytes(self) -> float:
        """The part of the residual stream that this rank normalises. [bytes]"""
        return self.norm_tokens * self.model.hidden * self.element_bytes


def rank_shape(scenario: Scenario) -> RankShape:
    """The shape that every rank of the scenario works on.

    Parameters
    ----------
    scenario : Scenario

    Returns
    -------
    RankShape
        Sequence parallelism is off where there is no tensor parallelism.
    """
    training, parallelism = scenario.training, scenario.parallelism
    return RankShape(
        model=scenario.model,
        features=scenario.software.features,
        sequences=training.micro_batch,
        sequence_length=training.sequence_length,
        tensor_parallel=parallelism.tensor_parallel,
        sequence_parallel=parallelism.sequence_parallel and parallelism.tensor_parallel > 1,
        dtype=training.dtype,
        dropout=training.dropout,
        grad_bytes=ELEMENT_BYTES[training.grad_dtype],
    )

"""Arithmetic of one step over all GPUs: what the model needs, and what is executed."""

from __future__ import annotations

from dataclasses import dataclass

from clustersim.model.transformer import (
    attention_flop_per_token,
    model_flop_per_token,
    recomputed_flop_per_token,
)
from clustersim.parallel.layers import split_layers
from clustersim.spec.scenario import Scenario


@dataclass(frozen=True)
class StepFlop:
    """FLOP of a step over all GPUs.

    Attributes
    ----------
    model, attention : float
        Forward and backward without recomputation, and the attention core's part of it. [FLOP]
    executed : float
        The same with recomputation. [FLOP]
    """

    model: float
    attention: float
    executed: float


def step_flop(scenario: Scenario) -> StepFlop:
    """Count the arithmetic of one optimizer step.

    Parameters
    ----------
    scenario : Scenario

    Returns
    -------
    StepFlop

    Notes
    -----
    Selective recomputation repeats the attention core of every layer, and nothing where attention
    is a flash kernel.
    """
    training, model = scenario.training, scenario.model
    tokens, length = float(training.global_batch), training.sequence_length
    tokens *= length
    flash = scenario.software.features.attention.startswith("flash")
    core = model.layers if training.recompute.kind == "selective" and not flash else 0
    whole = float(split_layers(scenario).recomputed.sum())
    useful = model_flop_per_token(model, length)
    again = recomputed_flop_per_token(model, length, core, whole)
    attention = attention_flop_per_token(model, length)
    return StepFlop(tokens * useful, tokens * attention, tokens * (useful + again))

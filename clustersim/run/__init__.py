"""Scenario to result; sensitivities and what-ifs, which re-price and replay the same program."""

from clustersim.run.serving_knobs import nearest_serving_knobs
from clustersim.run.simulate import Result, simulate
from clustersim.run.whatif import nearest_knobs

__all__ = ["Result", "nearest_knobs", "nearest_serving_knobs", "simulate"]

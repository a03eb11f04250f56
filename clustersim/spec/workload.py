"""Which requests a replica is asked: when they arrive and how long they are."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from clustersim.spec.base import PerSecond, Record, Seconds, refuse_unused

ArrivalKind = Literal[
    "poisson", "gamma", "diurnal", "closed_loop", "saturated", "static", "offline", "trace"
]
TraceFormat = Literal["auto", "mooncake", "azure", "burstgpt", "requests"]
Sampling = Literal["greedy", "filtered", "engine"]

OPEN = ("poisson", "gamma", "diurnal")
AT_ONCE = ("static", "offline")
KINDS_OF = {
    "rate": OPEN,
    "variation": ("gamma",),
    "peak_to_mean": ("diurnal",),
    "period": ("diurnal",),
    "concurrency": ("closed_loop", "saturated"),
    "speed_up": ("trace",),
}
WIDEST_UNIFORM = 1.0 / math.sqrt(3.0)  # variation of a uniform distribution that begins at 0


class Arrivals(Record):
    """When requests arrive."""

    kind: ArrivalKind
    rate: PerSecond | None = Field(
        default=None, gt=0, description="poisson, gamma; the mean of diurnal"
    )
    variation: float = Field(
        default=1.0, gt=0, description="gamma: coefficient of variation of the gaps; 1 is poisson"
    )
    peak_to_mean: float = Field(
        default=2.0, ge=1.0, le=2.0, description="diurnal: peak rate over its mean"
    )
    period: Seconds = Field(default=86400.0, gt=0, description="diurnal: of the sine")
    concurrency: int | None = Field(
        default=None,
        gt=0,
        description="closed_loop, saturated: requests in flight; saturated may leave it to memory",
    )
    speed_up: float = Field(default=1.0, gt=0, description="trace: its clock runs so much faster")

    @model_validator(mode="after")
    def _check_kind(self) -> Arrivals:
        if self.kind in OPEN and self.rate is None:
            raise ValueError(f"arrivals of kind {self.kind} need a rate, such as '10 requests/s'")
        if self.kind == "closed_loop" and self.concurrency is None:
            raise ValueError("a closed loop needs its concurrency")
        refuse_unused(self, "kind", KINDS_OF)
        return self


class Spread(Record):
    """A distribution of lengths in tokens, rounded, at least 1."""

    kind: Literal["fixed", "uniform", "lognormal"] = "fixed"
    mean: float = Field(gt=0, le=1e9)
    variation: float = Field(
        default=0.0, ge=0, le=100, description="coefficient of variation of uniform and lognormal"
    )
    most: int | None = Field(default=None, gt=0, description="longer ones are cut to it")

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, data: object) -> object:
        is_number = isinstance(data, int | float) and not isinstance(data, bool)
        return {"mean": data} if is_number else data

    @model_validator(mode="after")
    def _check_variation(self) -> Spread:
        if self.kind == "fixed" and self.variation:
            raise ValueError("fixed lengths do not vary; use kind uniform or lognormal")
        if self.kind == "uniform" and self.variation > WIDEST_UNIFORM:
            message = f"uniform lengths of variation {self.variation:g} would be negative"
            raise ValueError(f"{message}; use at most 0.577, or kind lognormal")
        return self


class Lengths(Record):
    """How long prompts and answers are: two distributions, or pairs drawn from a file."""

    input: Spread | None = None
    output: Spread | None = None
    file: str | None = Field(
        default=None, description="CSV of pairs, or a joint histogram; drawn with replacement"
    )
    input_mean: float | None = Field(
        default=None, gt=0, le=1e9, description="file: prompts scaled to it"
    )
    output_mean: float | None = Field(
        default=None, gt=0, le=1e9, description="file: answers scaled to it"
    )

    @model_validator(mode="after")
    def _check_source(self) -> Lengths:
        both = self.input is not None and self.output is not None
        if self.file is None and not both:
            raise ValueError("lengths need input and output, or a file of pairs")
        if self.file is not None and (self.input is not None or self.output is not None):
            raise ValueError("lengths have a file and distributions; state one of them")
        if self.file is None and (self.input_mean is not None or self.output_mean is not None):
            raise ValueError("only lengths of a file are scaled; state means in input and output")
        return self


class Prefixes(Record):
    """What prompts share: one system prompt, and the turns of a conversation.

    Lengths are then what a request adds: its prompt is the shared beginning, all that was said
    before in its conversation, and its own words. The rate counts all turns.
    """

    shared: int = Field(default=0, ge=0, description="tokens that all prompts begin with")
    groups: int = Field(default=1, gt=0, description="different shared beginnings")
    turns: int = Field(default=1, gt=0, description="requests of a conversation")
    think: Seconds = Field(default=0.0, ge=0, description="from an answer to the next turn")


class Workload(Record):
    """The requests of one run."""

    arrivals: Arrivals
    lengths: Lengths | None = None
    trace: str | None = Field(default=None, description="file of requests")
    format: TraceFormat = "auto"
    requests: int | None = Field(
        default=None, gt=0, description="null: all of a trace, else what the kind of arrivals needs"
    )
    prefixes: Prefixes = Prefixes()
    sampling: Sampling = Field(
        default="greedy",
        description="greedy: the likeliest token, as benchmark clients ask; filtered: top-k or "
        "top-p over the whole vocabulary; engine: what the engine does for requests that say "
        "nothing",
    )

    @model_validator(mode="after")
    def _check_source(self) -> Workload:
        if (self.arrivals.kind == "trace") != (self.trace is not None):
            raise ValueError("arrivals of kind trace and a trace file belong together")
        if self.trace is None and self.lengths is None:
            raise ValueError("lengths are needed where there is no trace")
        if self.trace is not None and self.lengths is not None:
            raise ValueError("a trace has lengths of its own; leave out lengths")
        if self.trace is not None and self.prefixes != Prefixes():
            raise ValueError("a trace has prefixes of its own; leave out prefixes")
        if self.trace is None and self.format != "auto":
            raise ValueError("a format without a trace; leave it out")
        return self

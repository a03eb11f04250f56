"""Which requests a replica is asked: when they arrive and how long they are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from clustersim.spec.base import PerSecond, Record, Seconds

ArrivalKind = Literal[
    "poisson", "gamma", "diurnal", "closed_loop", "saturated", "static", "offline", "trace"
]
TraceFormat = Literal["auto", "mooncake", "azure", "burstgpt", "requests"]

OPEN = ("poisson", "gamma", "diurnal")
AT_ONCE = ("static", "offline")


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
        return self


class Spread(Record):
    """A distribution of lengths in tokens, rounded, at least 1."""

    kind: Literal["fixed", "uniform", "lognormal"] = "fixed"
    mean: float = Field(gt=0)
    variation: float = Field(
        default=0.0, ge=0, description="coefficient of variation of uniform and lognormal"
    )
    most: int | None = Field(default=None, gt=0, description="longer ones are cut to it")

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, data: object) -> object:
        is_number = isinstance(data, int | float) and not isinstance(data, bool)
        return {"mean": data} if is_number else data


class Lengths(Record):
    """How long prompts and answers are: two distributions, or pairs drawn from a file."""

    input: Spread | None = None
    output: Spread | None = None
    file: str | None = Field(
        default=None, description="CSV of pairs, or a joint histogram; drawn with replacement"
    )
    input_mean: float | None = Field(default=None, gt=0, description="file: prompts scaled to it")
    output_mean: float | None = Field(default=None, gt=0, description="file: answers scaled to it")

    @model_validator(mode="after")
    def _check_source(self) -> Lengths:
        both = self.input is not None and self.output is not None
        if self.file is None and not both:
            raise ValueError("lengths need input and output, or a file of pairs")
        if self.file is not None and (self.input is not None or self.output is not None):
            raise ValueError("lengths have a file and distributions; state one of them")
        return self


class Prefixes(Record):
    """What prompts share: one system prompt, and the turns of a conversation."""

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

    @model_validator(mode="after")
    def _check_source(self) -> Workload:
        if (self.arrivals.kind == "trace") != (self.trace is not None):
            raise ValueError("arrivals of kind trace and a trace file belong together")
        if self.trace is None and self.lengths is None:
            raise ValueError("lengths are needed where there is no trace")
        return self

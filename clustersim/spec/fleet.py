"""How far real GPUs differ from each other and from themselves."""

from __future__ import annotations

from pydantic import Field

from clustersim.spec.base import Record


class Fleet(Record):
    """Speeds and noise of the GPUs of a cluster.

    A slowdown of 0.1 makes every kernel of that GPU take 1.1 times as long; links are not touched.
    """

    name: str = "uniform"
    slow_host_fraction: float = Field(
        default=0.0, ge=0, le=1, description="share of hosts whose GPUs are all slow"
    )
    slow_host_slowdown: float = Field(
        default=0.0, ge=0, le=1000, description="extra time of a slow host's kernels, as a fraction"
    )
    speed_spread: float = Field(
        default=0.0,
        ge=0,
        lt=0.5,
        description="standard deviation of a GPU's mean kernel time, as a fraction",
    )
    kernel_jitter: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="standard deviation of the time of one kernel run between two "
        "synchronisations, as a fraction",
    )
    slowdowns: dict[int, float] = Field(
        default_factory=dict, description="rank to slowdown, for named stragglers"
    )
    sources: dict[str, str] = Field(default_factory=dict)

    @property
    def is_random(self) -> bool:
        """Whether two replications can differ."""
        hosts = self.slow_host_fraction > 0 and self.slow_host_slowdown > 0
        return hosts or self.speed_spread > 0 or self.kernel_jitter > 0

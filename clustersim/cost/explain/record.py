"""What an explanation of one operator holds; plain figures in SI units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from clustersim.errors import ModelDomainError
from clustersim.spec.datatypes import ELEMENT_BYTES
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile
from clustersim.spec.suggest import did_you_mean
from clustersim.spec.topology import Topology


@dataclass(frozen=True)
class Site:
    """Where an operator runs: a device with its fitted behaviour, and a datatype.

    `topology` is the cluster, for operators of several devices.
    """

    device: Device
    profile: Profile
    dtype: str
    topology: Topology | None = None


@dataclass(frozen=True)
class Term:
    """A part of the time. [s]"""

    name: str
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Hint:
    """A change, the time with it [s], and how much more work a second that is (a fraction)."""

    change: str
    seconds: float
    gain_fraction: float


@dataclass(frozen=True)
class Trust:
    """Where the coefficients come from and how far they miss (mean absolute, a fraction)."""

    source: str
    origin: str
    operator: str
    points: int
    error_fraction: float
    evidence: str


@dataclass(frozen=True)
class Roof:
    """One point under a roof ``min(peak, slope x)``.

    `axes` is "intensity" (x in FLOP/byte, y in FLOP/s, slope in bytes/s) or "size" (x in bytes,
    y in bytes/s, slope in 1/s, one over the time without bytes).
    """

    axes: str
    x: float
    y: float
    peak: float
    slope: float

    @property
    def ridge(self) -> float:
        """Where the slope meets the peak, in units of x."""
        return self.peak / self.slope


@dataclass(frozen=True)
class Explanation:
    """What one operator costs and why; `terms` add up to `time_s`.

    Attributes
    ----------
    time_s, training_s : float
        Alone in a micro-benchmark; in a training step, with its clocks and gaps (None: the same).
    cold_s : float
        Between the layers of a model, where nothing of its operands is left in L2 (None: the same).
    flop, bytes : float
        Executed arithmetic; least traffic with memory, or the message of a collective.
    peak_flop_per_s, peak_bytes_per_s : float
        Dense matrix peak; bandwidth of the memory or of the slowest link on the way.
    bound : str
        compute, memory, launch, power limit, thread blocks, network latency, network bandwidth,
        copying SMs, host link or drives.
    facts : mapping
        How it runs: tile, waves, algorithm, ...; names carry units as everywhere.
    rejected : tuple of Term
        Other ways to run it, with their times.
    fixed_s : float
        What it takes without bytes or arithmetic. [s]
    """

    kind: str
    title: str
    place: str
    dtype: str
    time_s: float
    training_s: float | None
    flop: float
    bytes: float
    peak_flop_per_s: float | None
    peak_bytes_per_s: float
    rate_bytes_per_s: float
    bound: str
    roof: Roof
    terms: tuple[Term, ...]
    trust: Trust
    facts: Mapping[str, Any] = field(default_factory=dict)
    rejected: tuple[Term, ...] = ()
    hints: tuple[Hint, ...] = ()
    notes: tuple[str, ...] = ()
    fixed_s: float = 0.0
    cold_s: float | None = None

    @property
    def flop_per_s(self) -> float:
        """Arithmetic a second. [FLOP/s]"""
        return self.flop / self.time_s

    @property
    def intensity(self) -> float:
        """Arithmetic of one byte of traffic. [FLOP/byte]"""
        return self.flop / self.bytes if self.bytes else 0.0

    def document(self) -> dict[str, Any]:
        """Plain values for ``--json`` and for the report; names carry their units."""
        peak, roof = self.peak_flop_per_s, self.roof
        plain = asdict(replace(self, facts=dict(self.facts)))
        plain["roof"] |= {"ridge": roof.ridge}
        return plain | {
            "flop_per_s": self.flop_per_s,
            "peak_fraction": self.flop_per_s / peak if peak else None,
            "bandwidth_fraction": self.rate_bytes_per_s / self.peak_bytes_per_s,
            "intensity_flop_per_byte": self.intensity,
            "roof_fraction": roof.y / min(roof.peak, roof.slope * roof.x),
        }


def check_dtype(device: Device, dtype: str | None) -> str:
    """The datatype asked for, or the 16-bit type of the device.

    Parameters
    ----------
    device : Device
    dtype : str or None
        None: bf16 where the device has matrix units for it, else fp16.

    Returns
    -------
    str
        Where a datatype was asked for, a key of `device.matrix_peak`.

    Raises
    ------
    ModelDomainError
        The device has no matrix peak for the datatype asked for.
    """
    if dtype is None:
        return "bf16" if "bf16" in device.matrix_peak else "fp16"
    known = sorted(set(device.matrix_peak) & set(ELEMENT_BYTES))
    if dtype not in known:
        hint = did_you_mean(dtype, known, what="it has")
        raise ModelDomainError(f"{device.name} has no matrix peak for `{dtype}`\n  fix: {hint}")
    return dtype

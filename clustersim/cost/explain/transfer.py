"""One copy between a device, its host and NVMe drives: latency, host link, drives."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from clustersim.cost.explain.checks import check_group
from clustersim.cost.explain.parts import (
    Cause,
    bound_of,
    column,
    gains,
    over_links,
    seconds_of,
    taken_apart,
    trust_in,
    without,
)
from clustersim.cost.explain.record import Explanation, Hint, Site, Term
from clustersim.cost.transfers import DRIVE, LINK, transfer_s
from clustersim.errors import ModelDomainError
from clustersim.spec.suggest import did_you_mean
from clustersim.units import format_bytes, format_rate

LATENCY = ("latency", "start of a copy")
THROUGH = ("nvme_to_device", "device_to_nvme")  # copies that cross the link and the drives
endless_drives = without("transfer", drive_read_bandwidth=math.inf, drive_write_bandwidth=math.inf)
TRANSFER_CAUSES: tuple[Cause, ...] = (
    (*LATENCY, without("transfer", latency_s=0.0)),
    ("drives", "beyond what the link hides", endless_drives),
    ("link below peak", "protocol, pinned memory", without("transfer", link_efficiency=1.0)),
)
WAYS = {"host link": without("transfer", link_efficiency=math.inf), "drives": endless_drives}


@dataclass(frozen=True)
class _Copy:
    """One copy; `drives` share it, striped."""

    direction: str
    bytes: float
    drives: int
    bounced: bool

    def price(self, site: Site) -> float:
        """Time of the copy.

        Parameters
        ----------
        site : Site
            Its profile has coefficients of transfers.

        Returns
        -------
        float
            [s]
        """
        c = site.profile.transfer
        assert c is not None
        drives = column(self.drives)
        found = transfer_s(self.direction, column(self.bytes), drives, site.device, c, self.bounced)
        return float(found[0])


def explain_transfer(
    site: Site, direction: str, bytes: float, drives: int = 1, bounced: bool = False
) -> Explanation:
    """Account for one copy between a device, its host and drives.

    Parameters
    ----------
    site : Site
    direction : str
        host_to_device, device_to_host, nvme_to_host, host_to_nvme, nvme_to_device or
        device_to_nvme.
    bytes : float
        Of the copy, at least 1. [bytes]
    drives : int
        That share it, striped.
    bounced : bool
        Between device and drives by way of host memory, one after the other.

    Returns
    -------
    Explanation
        Parts: the link at its rate and below, drives beyond it, latency.
    """
    check_group(site.profile, "transfer", "copies to host and drives")
    _check(direction, bytes, drives, bounced)
    copy = _Copy(direction, bytes, drives, bounced)
    causes, bare = taken_apart(copy.price, site, TRANSFER_CAUSES)
    rate = format_rate(site.device.pcie_bandwidth)
    terms = [Term("bytes at the link's rate", copy.price(bare), rate), *reversed(causes)]
    time_s, fixed_s = copy.price(site), seconds_of(terms, LATENCY[0])
    bound = bound_of(copy.price, site, WAYS, fixed_s)
    (_, _, no_latency), _, (_, _, whole_link) = TRANSFER_CAUSES
    allowed = bytes / copy.price(whole_link(no_latency(site)))
    way = direction.replace("_", " ")
    if direction in DRIVE:
        way += f", {drives} drive{'s' if drives > 1 else ''}"
    found = over_links(
        site,
        (
            "transfer",
            f"{way}{', by way of the host' if bounced else ''}: {format_bytes(bytes)}",
            "latency" if bound == "launch" else bound,
        ),
        (f"{site.device.title} ({site.device.name})", bytes),
        (time_s, fixed_s),
        (bytes / time_s, allowed, allowed),
        terms,
        trust_in(site.profile, "transfer", ["host_io", "transfer"]),
    )
    return replace(
        found,
        facts={
            "link_bandwidth_bytes_per_s": site.device.pcie_bandwidth,
            "latency_equals_bandwidth_at_bytes": fixed_s * allowed,
        },
        hints=_hints(site, copy, time_s),
    )


def _check(direction: str, size_bytes: float, drives: int, bounced: bool) -> None:
    known = sorted(LINK | DRIVE)
    if direction not in known:
        hint = did_you_mean(direction, known)
        raise ModelDomainError(f"--direction `{direction}` is not known\n  fix: {hint}")
    if size_bytes < 1.0:
        raise ModelDomainError(f"--bytes is {size_bytes:g}; a copy holds at least one byte")
    if drives > 1 and direction in LINK:
        raise ModelDomainError(
            f"--drives {drives}: {direction} meets no drive\n  fix: leave --drives out"
        )
    if bounced and direction not in THROUGH:
        raise ModelDomainError(
            f"--bounced is for {' and '.join(THROUGH)}, not {direction}\n  fix: leave it out"
        )


def _hints(site: Site, copy: _Copy, now_s: float) -> tuple[Hint, ...]:
    """Larger copies, more drives, no way round by the host."""
    tries = [
        (
            f"copies of {format_bytes(times * copy.bytes)} ({times:.0f} joined)",
            replace(copy, bytes=times * copy.bytes).price(site),
            times,
        )
        for times in (4.0, 16.0)
    ]
    if copy.direction in DRIVE:
        more = replace(copy, drives=2 * copy.drives)
        tries.append((f"{more.drives} drives", more.price(site), 1.0))
    if copy.bounced:
        tries.append(("direct storage", replace(copy, bounced=False).price(site), 1.0))
    return gains(tries, now_s)

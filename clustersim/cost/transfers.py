"""Time of copies between a device, its host and NVMe drives.

A copy over PCIe is a latency and bytes over the share of the link that pinned memory reaches. A
drive is slower than the link: striped drives add their bandwidths, the slower of link and drives
decides, and a copy by way of a buffer in host memory runs both one after the other for its
pieces that do not overlap. Left out: pageable memory, file systems, switches shared by devices.

References
----------
.. [1] DeepSpeed, "DeepNVMe: Improving DL Applications through I/O Optimizations," 2024 (drives,
   direct storage and bounce buffers on one A100).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import ModelDomainError
from clustersim.spec.device import Device
from clustersim.spec.profile_elementwise import TransferCoefficients

Array = NDArray[np.float64]
LINK = frozenset(("host_to_device", "device_to_host"))
DRIVE = frozenset(("nvme_to_host", "host_to_nvme", "nvme_to_device", "device_to_nvme"))


def transfer_s(
    op: str,
    size_bytes: Array,
    drives: Array,
    device: Device,
    coefficients: TransferCoefficients,
    bounced: bool = False,
) -> Array:
    """Time of copies [1].

    Parameters
    ----------
    op : str
        "host_to_device", "device_to_host", "nvme_to_host", "host_to_nvme", "nvme_to_device",
        "device_to_nvme".
    size_bytes : ndarray (n,)
        One copy. [bytes]
    drives : ndarray (n,)
        Drives that share a copy, striped; not looked at without drives.
    device, coefficients
        The accelerator, for its link, and the fitted behaviour.
    bounced : bool
        Between device and drives by way of host memory, one after the other.

    Returns
    -------
    ndarray (n,)
        Duration. [s]

    Raises
    ------
    ModelDomainError
        The copy is none of these.

    Notes
    -----
    latency + bytes / min(link, drives); bounced: latency + bytes / link + bytes / drives.
    """
    c = coefficients
    link_s = size_bytes / (device.pcie_bandwidth * c.link_efficiency)
    if op in LINK:
        return np.asarray(c.latency_s + link_s)
    if op not in DRIVE:
        raise ModelDomainError(f"unknown transfer {op!r}; known: {', '.join(sorted(LINK | DRIVE))}")
    one = c.drive_read_bandwidth if op.startswith("nvme") else c.drive_write_bandwidth
    drive_s = size_bytes / (one * drives)
    if op in ("nvme_to_host", "host_to_nvme"):
        return np.asarray(c.latency_s + drive_s)
    joined = link_s + drive_s if bounced else np.maximum(link_s, drive_s)
    return np.asarray(c.latency_s + joined)

"""Measured exchanges of tokens between experts (``moe_all_to_all``).

DeepEP's normal and low-latency kernels on one to four nodes, and exchanges inside one NVLink rack,
which count as one node. Rows over network adapters need a `topology` that states their rate, such
as ``nvswitch+infiniband_8x400g``.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.collectives.expert import Exchange, exchange_s
from clustersim.cost.measured.columns import numbers, take, words
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

SHAPE = ("tokens_per_rank", "hidden", "topk", "experts", "ranks", "nodes", "sms")
# Bytes of one element with its scales: fp32 of 128 elements (fp8), 8 bits of 16 (nvfp4).
PAYLOAD_BYTES = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0 + 4.0 / 128.0, "nvfp4": 0.5625}
PHASES = ("dispatch", "combine", "prepare", "combine_low_precision")
MODES = ("normal", "low_latency", "nvlink_one_sided", "nvlink_two_sided")
LOW_LATENCY = "low_latency"
ADAPTERS = re.compile(r"_(\d+)x(\d+)g$")

COEFFICIENTS = (
    Coefficient("base_s", 1e-6, 1e-3),
    Coefficient("expert_s", 1e-13, 1e-6),
    Coefficient("chunk_bandwidth", 1e8, 1e14),
    Coefficient("chunk_tokens", 1e-3, 100.0),
    Coefficient("token_s", 1e-11, 1e-4),
    Coefficient("copy_s", 1e-11, 1e-5),
    Coefficient("sm_bandwidth", 1e9, 1e13),
    Coefficient("link_efficiency", 0.05, 1.0),
)
BETWEEN_NODES = (
    Coefficient("node_s", 1e-7, 1e-3),
    Coefficient("nic_efficiency", 0.3, 1.0),
    Coefficient("forward_ratio", 0.01, 20.0),
)


def _nodes(columns: Columns) -> Floats:
    """Nodes that only adapters join: a rack of one NVLink domain is one."""
    (nodes,) = numbers(columns, "nodes")
    racks = np.char.find(words(columns, "topology"), "rack") >= 0
    return np.where(racks, 1.0, nodes)


def _adapters(columns: Columns) -> Floats:
    """Adapters' rate of one rank, from the topology; NaN where it states none. [bytes/s]"""
    names, place = np.unique(words(columns, "topology"), return_inverse=True)
    rates = np.full(names.shape, np.nan)
    for index, name in enumerate(names):
        found = ADAPTERS.search(str(name))
        if found:
            rates[index] = int(found[1]) * int(found[2]) * 1e9 / 8.0
    ranks, nodes = numbers(columns, "ranks", "nodes")
    return np.asarray(rates[place.reshape(-1)] / (ranks / nodes))


def sections(columns: Columns) -> NDArray[np.str_]:
    """Section of each row, by its kernels and its phase.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        As `FAMILY.required` names them; ``topology`` gives adapters, where it is there.

    Returns
    -------
    ndarray of str (n,)
        ``expert_exchange/<mode>_<phase>``; "" outside the domain, such as several nodes whose
        adapters are not stated.
    """
    mode, phase, dtype = (words(columns, name) for name in ("mode", "phase", "dtype"))
    tokens, hidden, top_k, experts, ranks, nodes, _ = numbers(columns, *SHAPE)
    legal = (np.stack([tokens, hidden, top_k, nodes]) >= 1).all(axis=0) & (ranks >= 2)
    legal &= (top_k <= experts) & (np.mod(ranks, np.maximum(nodes, 1.0)) == 0)
    legal &= np.isin(mode, MODES) & np.isin(phase, PHASES) & np.isin(dtype, tuple(PAYLOAD_BYTES))
    legal &= (_nodes(columns) == 1) | np.isfinite(_adapters(columns))
    keys = np.char.add(np.char.add(mode, "_"), phase)
    return np.where(legal, np.char.add("expert_exchange/", keys), "")


def coefficients(section: str) -> tuple[Coefficient, ...]:
    """Free coefficients of a section; those between nodes only where nodes were measured."""
    deep = section.split("/")[-1].startswith(("normal", LOW_LATENCY))
    return COEFFICIENTS + (BETWEEN_NODES if deep else ())


def predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    """Time of each row.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        As `FAMILY.required` names them.
    device, profile
        The accelerator and its fitted behaviour.

    Returns
    -------
    ndarray (n,)
        NaN outside the domain or without coefficients. [s]
    """
    found = sections(columns)
    time_s = np.full(found.shape, np.nan)
    for key, coefficient in profile.expert_exchange.items():
        rows = np.flatnonzero(found == f"expert_exchange/{key}")
        if rows.size:
            time_s[rows] = exchange_s(exchange(take(columns, rows)), device, coefficient)
    return time_s


def exchange(columns: Columns) -> Exchange:
    """Calls of the rows; results travel in 16 bit, preparation moves counters only.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        As `FAMILY.required` names them; all of them inside the domain.

    Returns
    -------
    Exchange
        A row without stated adapters has them without limit, a negative number of SMs is 0.
    """
    tokens, hidden, top_k, experts, ranks, _, sms = numbers(columns, *SHAPE)
    dtype, phase = words(columns, "dtype"), words(columns, "phase")
    size = np.array([PAYLOAD_BYTES[str(name)] for name in dtype])
    size = np.where(phase == "combine", PAYLOAD_BYTES["bf16"], size)
    adapters = _adapters(columns)
    return Exchange(
        tokens=tokens,
        token_bytes=np.where(phase == "prepare", 0.0, hidden * size),
        experts=experts,
        top_k=top_k,
        ranks=ranks,
        nodes=_nodes(columns),
        sms=np.maximum(sms, 0.0),
        nic_bytes_per_s=np.where(np.isfinite(adapters), adapters, np.inf),
        per_expert=words(columns, "mode") == LOW_LATENCY,
        spread=words(columns, "routing") == "balanced",
    )


def size(columns: Columns) -> Floats:
    """Elements that a rank sends, one copy of a token for each of its experts.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        With tokens_per_rank, hidden and topk.

    Returns
    -------
    ndarray (n,)
        [elements]
    """
    tokens, hidden, top_k = numbers(columns, "tokens_per_rank", "hidden", "topk")
    return np.asarray(tokens * hidden * top_k)


def variant(columns: Columns) -> NDArray[np.str_]:
    """Mode and phase of each row."""
    return np.char.add(np.char.add(words(columns, "mode"), " "), words(columns, "phase"))


FAMILY = Family(
    stem="moe_all_to_all",
    required=("mode", "phase", "dtype", *SHAPE),
    sections=sections,
    coefficients=coefficients,
    predict=predict,
    size=size,
    variant=variant,
)

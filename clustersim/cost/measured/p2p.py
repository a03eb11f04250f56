"""Rows of ``p2p``: one message between two GPUs, priced by `cost.collectives`.

Rows between nodes that do not name their adapters (``inter_node``) are outside the domain.
"""

from __future__ import annotations

import numpy as np

from clustersim.cost.measured.collective import (
    LIBRARY,
    Group,
    by_place,
    in_domain,
    no_coefficients,
    predict_groups,
    size_bytes,
)
from clustersim.cost.measured.columns import words
from clustersim.cost.measured.family import Columns, Family, Floats
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

OPS = ("send_recv",)


def message_groups(columns: Columns) -> list[Group]:
    """Rows of one place together.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        As `FAMILY.required` names them.

    Returns
    -------
    list of Group
        Only rows inside the domain: send_recv of NCCL, over a fabric that is known.
    """
    names = words(columns, "op")
    inside = np.isin(names, OPS) & (words(columns, "library") == LIBRARY)
    return by_place(columns, names, inside, np.full(names.size, 2))


def _predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    return predict_groups(columns, message_groups(columns), device)


FAMILY = Family(
    stem="p2p",
    required=("op", "bytes", "nodes", "library", "topology"),
    sections=in_domain(message_groups),
    coefficients=no_coefficients,
    predict=_predict,
    size=size_bytes,
    variant=lambda columns: words(columns, "op"),
)

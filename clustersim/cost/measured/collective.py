"""Rows of ``collective``: collectives of a library on a fabric, priced by `cost.collectives`.

Rows of NCCL's own algorithms are inside the domain. The custom all-reduce of serving frameworks,
other libraries, and fabrics whose adapters are not stated are outside. Coefficients belong to
links, not to a device's profile: `calibrate` fits them into a link file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.cost.collectives import COLLECTIVES, Links, collective_s
from clustersim.cost.measured.columns import numbers, words
from clustersim.cost.measured.fabrics import Place, is_known, path_of, shipped_link
from clustersim.cost.measured.family import Coefficient, Columns, Family, Floats
from clustersim.hardware.paths import GroupPath
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile

SECTION = "links"
LIBRARY = "nccl"

Group = tuple[str, Place, NDArray[np.int64]]


def collective_groups(columns: Columns) -> list[Group]:
    """Rows of one collective at one place together.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        As `FAMILY.required` names them.

    Returns
    -------
    list of (str, Place, ndarray of int)
        Collective, place and row numbers; only rows inside the domain.
    """
    names = words(columns, "collective")
    inside = np.isin(names, COLLECTIVES) & (words(columns, "library") == LIBRARY)
    return by_place(columns, names, inside, columns["ranks"])


def by_place(
    columns: Columns,
    names: NDArray[np.str_],
    inside: NDArray[np.bool_],
    ranks: NDArray[np.generic],
) -> list[Group]:
    """Rows of one name at one place together.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        With `topology`, `nodes` and, where known, the rate of a node's adapters. [bytes/s]
    names : ndarray of str (n,)
        Collective of each row.
    inside : ndarray of bool (n,)
        Rows inside the domain of the family.
    ranks : ndarray (n,)
        Ranks of the group.

    Returns
    -------
    list of Group
        Only rows whose fabric is known.
    """
    rates = columns.get("nic_bw_bytes_per_s_per_node", np.full(names.size, np.nan))
    keys: dict[str, NDArray[Any]] = {
        "name": names,
        "topology": words(columns, "topology"),
        "ranks": ranks.astype(np.float64),
        "nodes": numbers(columns, "nodes")[0],
        "rate": np.nan_to_num(rates.astype(np.float64), nan=-1.0),
    }
    codes = np.zeros(names.size, dtype=np.int64)
    for column in keys.values():
        values, code = np.unique(column, return_inverse=True)
        codes = codes * values.size + code
    usable = inside & (keys["ranks"] >= 1) & (keys["nodes"] >= 1)
    groups = []
    for code in np.unique(codes[usable]):
        rows = np.flatnonzero(usable & (codes == code))
        name, topology, ranks_, nodes, rate = (column[rows[0]] for column in keys.values())
        place = Place(str(topology), int(ranks_), int(nodes), float(rate))
        if is_known(place):
            groups.append((str(name), place, rows))
    return groups


def predict_groups(
    columns: Columns, groups: list[Group], device: Device, links: Links | None = None
) -> Floats:
    """Time of rows in groups.

    Parameters
    ----------
    columns : mapping of str to ndarray (n,)
        Holds ``bytes`` by the nccl-tests convention. [bytes]
    groups : list of Group
        From `collective_groups`.
    device : Device
        Gives the rates of its links.
    links : mapping of str to Link, optional
        Coefficients before those of the shipped files.

    Returns
    -------
    ndarray (n,)
        NaN outside the groups and where the device has no such links. [s]
    """
    sizes = numbers(columns, "bytes")[0]
    predicted_s = np.full(sizes.size, np.nan)
    for name, place, rows in groups:
        path = path_of(place, device)
        found = links_of(path, links) if path else None
        if path and found is not None:
            predicted_s[rows] = collective_s(name, sizes[rows], path, found)
    return predicted_s


def links_of(path: GroupPath, links: Links | None = None) -> Links | None:
    """The links that a path names.

    Parameters
    ----------
    path : GroupPath
        Each of its two levels names a link, or "".
    links : mapping of str to Link, optional
        Looked at before the shipped files.

    Returns
    -------
    mapping of str to Link, or None
        None where one of them is in no catalogue.
    """
    found = {}
    for name in filter(None, (path.scale_up_link, path.nic_link)):
        link = (links or {}).get(name) or shipped_link(name)
        if link is None:
            return None
        found[name] = link
    return found


def in_domain(groups: Callable[[Columns], list[Group]]) -> Callable[[Columns], NDArray[np.str_]]:
    """Sections of a family whose coefficients belong to links.

    Parameters
    ----------
    groups : callable
        Columns to the groups of rows inside the domain.

    Returns
    -------
    callable
        Columns to the section of each row, ndarray of str (n,): `SECTION`, "" outside the domain.
    """

    def sections(columns: Columns) -> NDArray[np.str_]:
        found = np.full(columns["bytes"].size, "", dtype=f"<U{len(SECTION)}")
        for _, _, rows in groups(columns):
            found[rows] = SECTION
        return found

    return sections


def no_coefficients(section: str) -> tuple[Coefficient, ...]:
    """None: link files hold them."""
    return ()


def size_bytes(columns: Columns) -> Floats:
    """Message sizes. [bytes]"""
    return numbers(columns, "bytes")[0]


def _predict(columns: Columns, device: Device, profile: Profile) -> Floats:
    return predict_groups(columns, collective_groups(columns), device)


FAMILY = Family(
    stem="collective",
    required=("collective", "bytes", "ranks", "nodes", "library", "topology"),
    sections=in_domain(collective_groups),
    coefficients=no_coefficients,
    predict=_predict,
    size=size_bytes,
    variant=lambda columns: words(columns, "collective"),
)

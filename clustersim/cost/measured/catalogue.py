"""Which families of measured rows there are; each module is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec

from clustersim.cost.measured.family import Family

STEMS = (
    "gemm",
    "gemm_in_layer",
    "attention_prefill",
    "attention_decode",
    "attention_bidirectional",
    "mla_prefill",
    "mla_decode",
    "mla_bmm",
    "mla_module",
    "elementwise",
    "moe",
    "moe_subops",
    "moe_all_to_all",
    "training_kernels",
    "host_io",
    "collective",
    "p2p",
)
"""Files of the measured schema, sections that others build on first."""


def families(stems: Iterable[str] = STEMS) -> tuple[dict[str, Family], dict[str, str]]:
    """Look up the families of some files.

    Parameters
    ----------
    stems : iterable of str
        Names of files without their ending; all of the schema by default.

    Returns
    -------
    found : dict of str to Family
        In the order of `stems`.
    missing : dict of str to str
        The reason for each stem that is not modelled.
    """
    found: dict[str, Family] = {}
    missing: dict[str, str] = {}
    for stem in stems:
        name = f"{__package__}.{stem}"
        if stem not in STEMS:
            missing[stem] = f"no file of the measured schema is called {stem!r}"
        elif find_spec(name) is None:
            missing[stem] = f"{stem} is not modelled"
        else:
            found[stem] = import_module(name).FAMILY
    return found, missing

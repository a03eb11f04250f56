"""Measured memory in bytes, and which part of our prediction it is compared with (rule 19).

A predictor gives the terms of a stage's memory by name. Model states are parameters, gradients and
the optimizer's state; activations are the terms whose names start so. What a process needs beside
its tensors (`context`, `fragmentation`) is no part of allocated memory: rule 19 adds its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from clustersim.spec.scenario import Recompute, Scenario
from clustersim.validate.cases import Case

GIB = 2.0**30
RESERVED_RATIO = 1.05  # convention of rule 19, not a measurement
CONTEXT_BYTES = 1.5 * GIB  # convention of rule 19: a CUDA context as nvidia-smi counts it

TERMS: Mapping[str, tuple[str, ...]] = {  # prefixes of term names
    "weights_grads": ("parameter", "weight", "gradient"),
    "master_optimizer": ("optimizer", "master", "moment"),
    "activations": ("activation",),
}
CACHED = "cached_blocks"  # free blocks that the allocator keeps reserved
BESIDE_TENSORS = frozenset({"total", "context", "fragmentation", CACHED})
MODEL_STATES = TERMS["weights_grads"] + TERMS["master_optimizer"]
VARIANTS: Mapping[str, tuple[bool, str]] = {  # activation_pct_of_tp_baseline: sp, recompute
    "sequence_parallel": (True, "none"),
    "selective": (False, "selective"),
    "selective_sequence_parallel": (True, "selective"),
    "full": (False, "full"),
}


@dataclass(frozen=True)
class MemoryQuantity:
    """One measured memory figure.

    Attributes
    ----------
    key : str
        Its key in `measured`, dotted where nested.
    kind : str
        `allocated`, `reserved`, `nvidia_smi`, `model_states`, `activations`, `unknown`, a key of
        `memory_breakdown`, or `variant` (a share of the activations of the row's own run).
    value : float
        [bytes]; for `variant` a fraction.
    """

    key: str
    kind: str
    value: float
    variant: str = ""


def memory_quantities(case: Case) -> list[MemoryQuantity]:
    """Every memory figure of a row that can be compared as a number.

    Parameters
    ----------
    case : Case
        Its figures are in GiB whether their keys say `gib` or `gb`, and shares in per cent.

    Returns
    -------
    list of MemoryQuantity
        In the order of the row, in bytes or as fractions; terms and variants that are unknown are
        left out.
    """
    found: list[MemoryQuantity] = []
    for key, value in case.measured.items():
        if key == "memory_breakdown" and isinstance(value, dict):
            found += [
                MemoryQuantity(f"{key}.{part}", part, float(size) * GIB)
                for part, size in value.items()
                if part in TERMS and isinstance(size, int | float)
            ]
        elif key == "activation_pct_of_tp_baseline" and isinstance(value, dict):
            found += [
                MemoryQuantity(f"{key}.{name}", "variant", float(share) / 100, name)
                for name, share in value.items()
                if name in VARIANTS and isinstance(share, int | float)
            ]
        elif _is_memory(key) and isinstance(value, int | float):
            found.append(MemoryQuantity(key, _kind(case, key), float(value) * GIB))
    return found


def _is_memory(key: str) -> bool:
    """`memory_gib`, `memory_gb` and keys such as `memory_activation_gib`; both units are 2^30."""
    return key.startswith("memory_") and key.endswith(("_gib", "_gb"))


def _kind(case: Case, key: str) -> str:
    kind = case.memory_kind
    if isinstance(kind, dict):
        kind = kind.get(key)
    return kind or "unknown"


def predicted_bytes(kind: str, terms: Mapping[str, float]) -> float:
    """The part of a prediction that a measured figure of this kind stands for (rule 19).

    Parameters
    ----------
    kind : str
        A kind of `MemoryQuantity`. `unknown`, and any that is not listed, means allocated memory.
    terms : mapping
        Of one stage, by name; `total` is not used. [bytes]

    Returns
    -------
    float
        Reserved memory is `RESERVED_RATIO` times the allocated, and the cached blocks;
        `nvidia_smi` has `CONTEXT_BYTES` on top. [bytes]
    """
    match kind:
        case "model_states":
            return _sum(terms, MODEL_STATES)
        case "reserved":
            return RESERVED_RATIO * allocated_bytes(terms) + terms.get(CACHED, 0.0)
        case "nvidia_smi":
            return predicted_bytes("reserved", terms) + CONTEXT_BYTES
        case _ if kind in TERMS:
            return _sum(terms, TERMS[kind])
        case _:
            return allocated_bytes(terms)


def allocated_bytes(terms: Mapping[str, float]) -> float:
    """Peak of live tensors.

    Parameters
    ----------
    terms : mapping
        Of one stage, by name. [bytes]

    Returns
    -------
    float
        The sum of all that are not `BESIDE_TENSORS`. [bytes]
    """
    return float(sum(size for name, size in terms.items() if name not in BESIDE_TENSORS))


def of_first_stage(kind: str) -> bool:
    """Whether a figure is of the first stage; others are the largest over the stages.

    Parameters
    ----------
    kind : str
        A kind of `MemoryQuantity`: states, activations and what a breakdown lists are of the first.
    """
    return kind in {"model_states", "variant", *TERMS}


def variant_of(scenario: Scenario, variant: str) -> Scenario:
    """The run whose activations a row prints as a share of its own.

    Parameters
    ----------
    scenario : Scenario
        The row's own run.
    variant : str
        A key of `VARIANTS`: says whether sequence parallelism is on, and what is recomputed.

    Returns
    -------
    Scenario
        The same in all else; it is not checked again.
    """
    sequence_parallel, recompute = VARIANTS[variant]
    parallelism = scenario.parallelism.model_copy(update={"sequence_parallel": sequence_parallel})
    training = scenario.training.model_copy(
        update={"recompute": Recompute.model_validate(recompute)}
    )
    return scenario.model_copy(update={"parallelism": parallelism, "training": training})


def as_bytes(quantity: MemoryQuantity, baseline_bytes: float) -> MemoryQuantity:
    """A share of the baseline in bytes, so that the error is the share's.

    Parameters
    ----------
    quantity : MemoryQuantity
        A `variant`: its value is a fraction.
    baseline_bytes : float
        Activations of the row's own run as we predict them, not as measured. [bytes]

    Returns
    -------
    MemoryQuantity
        Its value in bytes.
    """
    return replace(quantity, value=quantity.value * baseline_bytes)


def _sum(terms: Mapping[str, float], prefixes: tuple[str, ...]) -> float:
    return float(sum(size for name, size in terms.items() if name.startswith(prefixes)))

"""The software of a published row: features from its tokens (rules 10, 11, 14, 15).

A feature whose token is absent is off, except as the rules say. Three features have no token and
follow from the software and its year: the input-gradient collective beside the weight gradient,
the weight gradient added up by its product, and updated parameters broadcast by their owners.
"""

from __future__ import annotations

import re
from typing import cast

from clustersim.spec.device import Device
from clustersim.spec.scenario import WireDtype
from clustersim.spec.software import Attention, Features, Software
from clustersim.validate.cases import Case

FUSED_STACKS = frozenset(
    {"megatron_bridge", "megatron_core", "torchtitan", "hai_llm", "megascale_moe"}
)
DROPOUT_STACKS = frozenset({"megatron_lm", "megatron_deepspeed", "deepspeed"})
WGRAD_STACKS = frozenset(
    {"megatron_core", "megatron_bridge", "megascale", "megascale_moe", "internevo", "hai_llm"}
)
DEEPSPEED_STACKS = frozenset({"megatron_deepspeed", "deepspeed"})
NEWER_ARCHITECTURES = frozenset({"hopper", "blackwell"})

FEATURE_TOKENS = {
    "fused_cross_entropy": "fused_cross_entropy",
    "tp_overlap": "tp_overlap",
    "pp_overlap": "pp_overlap",
    "pp_scatter_gather": "pp_scatter_gather",
    "cuda_graphs_full": "cuda_graphs",
    "async_data_pipeline": "async_data_pipeline",
    "dp_overlap_reduce": "dp_overlap_reduce",
    "dp_overlap_gather": "dp_overlap_gather",
    "fused_kernels": "fused_kernels",
    "torch_compile": "fused_kernels",
}
HANDLED_ELSEWHERE = frozenset(
    {
        "dp_overlap",
        "no_comm_overlap",
        "flash_attention_1",
        "flash_attention_2",
        "flash_attention_3",
        "unfused_attention",
        "fused_softmax",
        "dp_comm_compression",
        "embedding_balanced_partition",
        "flexible_layout",
        "flexible_micro_batches",
        "sliding_window_attention",
        "lamb",
    }
)


def build_software(case: Case, device: Device, notes: list[str]) -> Software:
    """Features of the row's software; what is not a token of the row goes to `notes`.

    Parameters
    ----------
    case : Case
    device : Device
        Its architecture decides where the row leaves attention or the year open.
    notes : list of str
        Features that follow from software and year, and tokens without effect, are added.

    Returns
    -------
    Software
        Named by stack and year.
    """
    tokens = case.tokens
    features: dict[str, object] = dict.fromkeys(FEATURE_TOKENS.values(), False)
    features.update({FEATURE_TOKENS[token]: True for token in tokens & FEATURE_TOKENS.keys()})
    if "dp_overlap" in tokens:
        features["dp_overlap_reduce"] = features["dp_overlap_gather"] = True
    features["attention"] = attention_kind(case, device, notes)
    features["wgrad_overlap"] = wgrad_overlap(case, device, notes)
    features["fused_grad_accumulation"] = recent_megatron(case, device)
    features["owner_broadcast"] = case.stack == "internevo"
    features["gradient_copies"] = case.stack in DEEPSPEED_STACKS
    features["keep_stage_outputs"] = case.stack in DEEPSPEED_STACKS or (
        case.stack == "megatron_lm" and not recent_megatron(case, device)
    )
    partitioned = case.stack in DEEPSPEED_STACKS and (case.parallel.tp or 1) > 1
    features["pp_scatter_gather"] = partitioned or features["pp_scatter_gather"]
    notes.append(
        "by software and year: "
        f"fused gradient accumulation {_on(features['fused_grad_accumulation'])}, "
        f"broadcast by owners {_on(features['owner_broadcast'])}, "
        f"gradient copies {_on(features['gradient_copies'])}, "
        f"stage outputs kept {_on(features['keep_stage_outputs'])}"
        + (", stage transfers partitioned" if partitioned else "")
    )
    ignored = sorted(tokens - FEATURE_TOKENS.keys() - HANDLED_ELSEWHERE)
    if ignored:
        notes.append(f"tokens without effect on this row: {', '.join(ignored)}")
    year = source_year(case)
    name = case.stack or "unnamed"
    return Software(
        name=f"{name}-{year}" if year else name,
        features=Features.model_validate(features),
        source=case.source.title,
    )


def attention_kind(case: Case, device: Device, notes: list[str]) -> Attention:
    """How the attention core runs: by token, else by rule 10.

    Parameters
    ----------
    case : Case
        The newest generation among its tokens counts.
    device : Device
        Its architecture decides between `flash_2` and `flash_3`.
    notes : list of str
        A kind that follows from rule 10 is added.

    Returns
    -------
    Attention
        By rule 10, fused attention on Blackwell, for `FUSED_STACKS`, and where no stack is named;
        else `fused_softmax`.
    """
    tokens = case.tokens
    for generation in ("3", "2", "1"):
        if f"flash_attention_{generation}" in tokens:
            return cast(Attention, f"flash_{generation}")
    if "unfused_attention" in tokens:
        return "unfused"
    if tokens & {"fused_softmax", "fused_kernels"}:
        return "fused_softmax"
    fused = device.architecture == "blackwell" or case.stack is None or case.stack in FUSED_STACKS
    kind: Attention = "fused_softmax"
    if fused:
        kind = "flash_3" if device.architecture in NEWER_ARCHITECTURES else "flash_2"
    notes.append(f"rule 10: attention {kind}")
    return kind


def wgrad_overlap(case: Case, device: Device, notes: list[str]) -> bool:
    """Whether the input-gradient collective runs beside the weight gradient in the backward pass.

    On for Megatron-LM from 2022 (Korthikanti et al., arXiv:2205.05198, section 4.2.2) and for
    stacks built on it later; a source without a year counts as such on Hopper and later devices.
    Off for older Megatron-LM, DeepSpeed and all others, and where the row says that nothing
    overlaps.

    Parameters
    ----------
    case : Case
    device : Device
        Its architecture decides where the source has no year.
    notes : list of str
        The answer and its basis are added where there is tensor parallelism.

    Returns
    -------
    bool
        False without tensor parallelism.
    """
    if (case.parallel.tp or 1) == 1:
        return False
    on = recent_megatron(case, device) and "no_comm_overlap" not in case.tokens
    basis = f"{case.stack or 'software not stated'}, {source_year(case) or 'no year'}"
    notes.append(f"wgrad_overlap {_on(on)} by software and year ({basis})")
    return on


def recent_megatron(case: Case, device: Device) -> bool:
    """Whether the software is Megatron-LM from 2022, or a stack built on it later.

    Parameters
    ----------
    case : Case
    device : Device
        Its architecture decides where Megatron-LM has no year: Hopper and later count as recent.
    """
    if case.stack != "megatron_lm":
        return case.stack in WGRAD_STACKS
    year = source_year(case)
    return year >= 2022 if year else device.architecture in NEWER_ARCHITECTURES


def _on(value: object) -> str:
    return "on" if value else "off"


def source_year(case: Case) -> int | None:
    """Year of the software.

    Parameters
    ----------
    case : Case

    Returns
    -------
    int or None
        From 2010 to 2029, out of its version, else of the source's title or table; else of an arXiv
        number in its address. None where nothing tells.
    """
    for text in (case.software.version or "", case.source.title, case.source.table or ""):
        if found := re.search(r"\b(20[12]\d)\b", text):
            return int(found[1])
    if found := re.search(r"arxiv\.org/abs/(\d\d)\d\d\.", case.source.url or ""):
        return 2000 + int(found[1])
    return None


def gradient_dtypes(case: Case, notes: list[str]) -> tuple[WireDtype, WireDtype]:
    """Datatypes of the accumulated gradient and of the gradient on the wire (rule 14).

    Parameters
    ----------
    case : Case
    notes : list of str
        What follows from rule 14 is added.

    Returns
    -------
    tuple of str
        Accumulated, and on the wire. Compressed communication is in the datatype of the arithmetic,
        unless the row states another.
    """
    compute = case.precision or "bf16"
    grad, wire = case.grad_dtype, case.comm_dtype
    if grad is None:
        grad, by_rule = _rule_14(case.stack, compute)
        wire = wire or by_rule
        notes.append(f"rule 14: gradients {grad} accumulated, {wire} on the wire")
    elif wire is None:
        wire = grad
        notes.append(f"rule 14: gradients {wire} on the wire")
    if "dp_comm_compression" in case.tokens and case.comm_dtype is None:
        wire = compute
    return cast(WireDtype, grad), cast(WireDtype, wire)


def _rule_14(stack: str | None, compute: str) -> tuple[str, str]:
    if stack in {"megatron_bridge", "llm_foundry"}:
        return "bf16", "bf16"
    if stack in {"megatron_deepspeed", "deepspeed"} and compute == "fp16":
        return "fp16", "fp16"
    return "fp32", "fp32"


def dropout(case: Case) -> bool:
    """Whether dropout masks are stored (rule 15).

    Parameters
    ----------
    case : Case
        It stores them where it runs in fp16 on one of the `DROPOUT_STACKS`.
    """
    return case.precision == "fp16" and case.stack in DROPOUT_STACKS

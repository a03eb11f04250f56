"""Engine, number formats and node of a published serving row: rules 12, 13, 15 and 17."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clustersim.cost.power import limit_factor
from clustersim.errors import SpecError
from clustersim.spec.device import Device
from clustersim.spec.serving import Precision
from clustersim.spec.serving_engine import ServingEngine
from clustersim.spec.topology import Topology
from clustersim.validate.capabilities import NotComparableError
from clustersim.validate.clusters import build_node, one_node
from clustersim.validate.serving_records import EngineWords, Shape

# Word in an engine's name -> family of the shipped tables, or the name of one of them.
ENGINES = (
    ("splitwise artifact", "vllm-0.1"),  # a fork of vLLM of 2023 [arXiv:2311.18677, appendix]
    ("tensorrt", "tensorrt_llm"),
    ("trtllm", "tensorrt_llm"),
    ("vllm", "vllm"),
    ("sglang", "sglang"),
    ("sarathi", "sarathi"),
    ("orca", "orca"),
    ("fastgen", "deepspeed_mii"),  # the system inside DeepSpeed-MII
    ("mii", "deepspeed_mii"),
    ("deepspeed", "hf-static"),  # inference kernels under the loop of Transformers
    ("transformers", "hf-static"),
    ("accelerate", "hf-static"),
)
# Key of a source -> engine and version that it states elsewhere: ML.ENERGY, "LLM Inference Energy:
# A Longitudinal Analysis," ml.energy/blog.
STATED_ELSEWHERE = {"mlenergy-v3": "vLLM 0.11.1"}
OFFLOAD_ENGINES = (
    "flexgen",
    "zero-inference",
    "ktransformers",
    "kt-kernel",
    "moe-lightning",
    "moe-infinity",
    "moe-lens",
    "fiddler",
    "powerinfer",
)
OFFLOAD_KEYS = (
    "weight_offload",
    "kv_offload",
    "expert_offload",
    "offload_to",
    "cpu_attention",
    "cpu_experts",
)
FORMATS = {  # words of columns and of sources -> our formats
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "fp4": "nvfp4",
    "nvfp4": "nvfp4",
    "mxfp4": "mxfp4",
    "w4a16_mxfp4": "w4a16_mxfp4",
    "int4": "w4a16_int",
    "int4_wo": "w4a16_int",
    "w4a16": "w4a16_int",
    "awq": "w4a16_int",
    "gptq": "w4a16_int",
    "int8": "int8",
    "w8a8": "int8",
    "int8_wo": "w8a16_int",
    "w8a16": "w8a16_int",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "fp16",
    "float16": "fp16",
}
FOUR_BITS = ("nvfp4", "mxfp4", "w4a16_mxfp4", "w4a16_int")
# Models, in letters and digits, whose 8-bit checkpoint has a scale for each 128 x 128 block:
# `weight_block_size` in quantization_config of its config.json.
IN_BLOCKS = ("deepseekv3", "deepseekr1", "kimik2", "minimaxm2", "qwen3")
NARROW = ("fp8", "fp8_block", "nvfp4")  # weights that give TensorRT-LLM an 8-bit cache (rule 13)


@dataclass
class Stock:
    """What rows refer to by name; devices are read once."""

    engines: tuple[ServingEngine, ...]
    load: Callable[[str], Device]
    devices: dict[str, Device] = field(default_factory=dict)

    def device(self, name: str | None) -> Device:
        """Device of the catalogue, by id or alias.

        Raises
        ------
        NotComparableError
            If there is none of this name.
        """
        if not name:
            raise NotComparableError("the device is not stated")
        if name not in self.devices:
            try:
                self.devices[name] = self.load(name)
            except SpecError as error:
                raise NotComparableError(f"device {name} is not in the catalogue") from error
        return self.devices[name]


def shipped_stock() -> Stock:
    """Devices and engines that ship."""
    from clustersim.spec.names import list_names
    from clustersim.spec.resolve import load_device, load_engine

    return Stock(tuple(load_engine(name) for name in list_names("engine")), load_device)


def version_of(text: str) -> tuple[int, ...]:
    """Numbers of the first version in a text, such as 1.0.0 in 1.0.0rc3; empty without one."""
    found = re.search(r"(?<![\w.])v?(\d+(?:\.\d+)+)", text)
    return tuple(map(int, found[1].split("."))) if found else ()


def stated_version(name: str, source: str) -> str:
    """Words with the version of an engine: those of the row, else what its source says elsewhere.

    Parameters
    ----------
    name : str
        Engine in the words of the row, with or without a version.
    source : str
        Key of the source.
    """
    elsewhere = STATED_ELSEWHERE.get(source, "")
    family = elsewhere.partition(" ")[0].lower()
    return elsewhere if family and name.lower().strip() == family else name


def pick_engine(
    stock: Stock, name: str, version: str, measured_on: str, notes: list[str]
) -> ServingEngine:
    """Generation of an engine (rule 12).

    Parameters
    ----------
    name, version : str
        Words of the row; a version is also looked for in the name by the caller.
    measured_on : str
        Date of the measurement or a later one, such as 2025-10-29; may be empty.
    notes : list of str
        What had to be assumed is appended.

    Returns
    -------
    ServingEngine
        For a stated version the nearest entry that is not newer, or the oldest; else the newest
        entry that is not younger than the measurement, else the newest. An engine without a table
        is taken as the newest vLLM.
    """
    words = name.lower()
    family = next((family for word, family in ENGINES if word in words), None)
    if family is None:
        notes.append(f"rule 12: engine {name or 'not stated'} has no table: as vLLM")
        family, version, measured_on = "vllm", "", ""
    known = [one for one in stock.engines if family in (one.family, one.name)]
    if not known:
        raise NotComparableError(f"engine {name}: no table of {family}")
    if wanted := version_of(version):
        chosen = _by_version(known, wanted)
        notes.append(f"rule 12: engine table {chosen.name}")
        return chosen
    known.sort(key=lambda one: one.released)
    older = [one for one in known if one.released <= measured_on]
    chosen = older[-1] if older else known[-1]
    by = f", measured by {measured_on}" if measured_on else ""
    notes.append(f"rule 12: engine table {chosen.name}{by}")
    return chosen


def _by_version(known: list[ServingEngine], wanted: tuple[int, ...]) -> ServingEngine:
    """The nearest that is not newer, or the oldest."""
    known.sort(key=lambda one: _padded(version_of(one.version)))
    older = [one for one in known if _padded(version_of(one.version)) <= _padded(wanted)]
    return older[-1] if older else known[0]


def published_by(reference: str) -> str:
    """Latest date that a reference names: of its data, or the month of its arXiv number.

    Returns
    -------
    str
        Such as 2026-02-16, or 2024-11-30 for arXiv:2411.00136; empty without a date.

    Notes
    -----
    Nobody measured an engine before it was there: a row without `measured_on` of its own was
    measured by this date.
    """
    dates = re.findall(r"\b20\d\d-\d\d-\d\d\b", reference)
    for year, month in re.findall(r"arXiv:(\d\d)(0[1-9]|1[0-2])\.\d+", reference):
        days = monthrange(2000 + int(year), int(month))[1]
        dates.append(f"20{year}-{month}-{days}")
    return max(dates, default="")


def _padded(version: tuple[int, ...]) -> tuple[int, ...]:
    return (*version, 0, 0, 0, 0)[:4]


def adjust_engine(engine: ServingEngine, words: EngineWords) -> ServingEngine:
    """An engine with the settings that a row states itself."""
    stated = {
        "max_sequences": words.max_num_seqs or words.max_batch_per_rank,
        "token_budget": words.max_num_batched_tokens or words.dense_batch_tokens,
        "block_tokens": words.block_size,
        "memory_fraction": words.gpu_memory_utilization,
        "chunked_prefill": words.chunked_prefill,
        "prefix_caching": words.prefix_caching,
        "async_scheduling": words.overlap_scheduling,
    }
    update: dict[str, Any] = {name: value for name, value in stated.items() if value is not None}
    if words.dense_batch_tokens is not None:
        most = update.get("max_sequences", engine.max_sequences)
        update["max_sequences"] = min(int(most), words.dense_batch_tokens)
    if words.cuda_graphs is False:
        update["graph_sizes"] = ()
    if words.static_batching:
        update["policy"] = "static"
    return engine.model_copy(update=update)


def check_simulated(words: EngineWords) -> None:
    """Refuse what is not simulated yet, by what the row names.

    Raises
    ------
    NotComparableError
        With the reason.
    """
    name = words.name.lower()
    offload = any(word in name for word in OFFLOAD_ENGINES)
    if offload or any(getattr(words, key) for key in OFFLOAD_KEYS):
        raise NotComparableError("weights or cache in host memory: offload is not simulated yet")


def node_cluster(
    device: Device,
    gpus: int,
    words: str,
    power_limit_w: float | None,
    memory_limit_gb: float | None,
    notes: list[str],
) -> Topology:
    """The node of a row; equal devices and numbers of GPUs give equal clusters.

    Products follow a power limit by the cubic law (rule 17).
    """
    if power_limit_w is not None and power_limit_w != device.power_limit:
        factor = limit_factor(power_limit_w, float(device.power_limit))
        device = device.model_copy(update={"power_limit": power_limit_w})
        notes.append(f"rule 17: products sustain {factor:.2f} of their rate at {power_limit_w:g} W")
    if memory_limit_gb is not None:
        device = device.model_copy(update={"memory": memory_limit_gb * 1e9})
    return one_node(f"{device.name}-x{gpus}", build_node(device, gpus, words))


def formats_of(
    shape: Shape, model: str, weights: str | None, experts: str | None, notes: list[str]
) -> dict[str, str]:
    """Formats of `Precision` but for the cache (rule 13).

    Parameters
    ----------
    shape : Shape
        What its `weights` and `note` say bounds a 4-bit format.
    model : str
        Its name: gpt-oss is MXFP4 whatever the columns print.
    weights, experts : str or None
        Formats of dense products and of experts, in the words of the row.
    """
    dense = _format(weights or experts)
    routed = _format(experts or weights)
    if "gpt-oss" in model.lower():
        notes.append("rule 13: gpt-oss has MXFP4 experts, the rest has 16 bits")
        return {"weights": "bf16", "experts": "mxfp4", "attention": "bf16", "head": "bf16"}
    found = {"weights": dense, "head": "fp16" if dense == "fp16" else "bf16"}
    if shape.moe is not None:
        found["experts"] = routed
    note = (shape.note or "").lower()
    if found.get("experts") == "fp8" and _is_in_blocks(note, model):
        found["experts"] = "fp8_block"
        notes.append("rule 13: 8-bit experts in blocks, as the checkpoint has them")
    if dense in FOUR_BITS and "experts only" in note:
        found |= {"weights": "bf16", "attention": "bf16"}
        notes.append("rule 13: only routed experts have 4 bits")
    elif dense in FOUR_BITS and "attention projections" in note and "not quantised" in note:
        found["attention"] = "bf16"
        notes.append("rule 13: projections of attention have 16 bits")
    return found


def _is_in_blocks(note: str, model: str) -> bool:
    """Whether the 8-bit checkpoint of a model has a scale for each block of 128 x 128."""
    spelling = re.sub(r"[-_. ]", "", model.lower())
    return "blocks of 128" in note or any(word in spelling for word in IN_BLOCKS)


def _format(words: str | None) -> str:
    form = FORMATS.get((words or "").lower())
    if form is None:
        raise NotComparableError(f"number format {words or 'not stated'} is not known")
    return form


def cache_format(stated: str | None, family: str, formats: dict[str, str]) -> str:
    """KV cache: as stated, else 8 bits for TensorRT-LLM with narrow weights, else 16 (rule 13)."""
    if stated is not None:
        return stated
    narrow = {formats["weights"], formats.get("experts")} & set(NARROW)
    if family == "tensorrt_llm" and narrow:
        return "fp8"
    return "fp16" if formats["weights"] == "fp16" else "bf16"


def split_words(words: str) -> tuple[str | None, str | None]:
    """Formats of weights and of the cache in words such as ``nvfp4 weights / fp8 kv``.

    Words without a known format come back whole.

    Raises
    ------
    NotComparableError
        If the format of the cache is none that is simulated.
    """
    text = words.lower()
    cache = None
    if found := re.search(r"(?:(?<!\w)([\w-]+)[ -]|\+)kv\b", text):
        cache = found[1] or "of the weights"
        text = text.replace(found[0], " ")
        if cache not in ("fp8", "bf16", "fp16"):
            raise NotComparableError(f"a KV cache in {cache} is not simulated")
    known = re.findall(r"[a-z]+\d+(?:_[a-z]+)?|w\da\d+|awq|gptq|bfloat16", text)
    return next((word for word in known if word in FORMATS), words or None), cache


def precision_of(formats: dict[str, str], cache: str) -> Precision:
    """Formats as a record."""
    return Precision.model_validate({**formats, "kv_cache": cache})

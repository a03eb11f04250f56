"""Files of published measurements, read into records.

Three schemas are known: training cases (`cases:`), serving rows (`rows:`) and the table of serving
points (`silicon_e2e.csv`). Training cases become `Case` records in the units of their source;
serving rows are kept as they are read (`ServingRow`), since each protocol reads other keys of
them. Unknown keys of a row are ignored, because other people write these files; a key of the wrong
type in a training case is an error with its line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from clustersim.errors import Problem, SpecError
from clustersim.validate.published import Count, Row
from clustersim.validate.serving_csv import read_points
from clustersim.validate.serving_records import ServingRow

KNOWN = "a mapping with 'cases:' (training) or 'rows:' (serving), or a CSV with ttft_ms and tpot_ms"


class Source(Row):
    """Where the numbers were printed."""

    title: str = ""
    url: str | None = None
    table: str | None = None


class SoftwareName(Row):
    """Which stack ran, in the words of the schema."""

    name: str | None = None
    version: str | None = None

    @field_validator("version", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int | float) else value


class Interconnect(Row):
    """Links inside and between nodes; rates as printed (GB/s per direction, Gb/s per adapter)."""

    intra: str | None = None
    inter: str | None = None
    intra_gbytes_per_s: float | None = None
    nvlink_domain_gpus: int | None = None
    nic_count: int | None = None
    nic_gbps: float | None = None


class Moe(Row):
    """Mixture of experts."""

    experts: int
    top_k: int
    expert_ffn: int
    shared_experts: int = 0
    first_dense_layers: int = 0


class LatentAttention(Row):
    """Multi-head latent attention."""

    type: str = "mla"
    q_lora_rank: int | None = None
    kv_lora_rank: int
    qk_nope_dim: int
    qk_rope_dim: int
    v_dim: int


class SlidingWindow(Row):
    """Layers, each `every`-th one, that see only `window` tokens."""

    window: int | None = None
    every: int = 1


class Shape(Row):
    """Shape of the model."""

    layers: Count | None = None
    hidden: Count | None = None
    ffn: Count | None = None
    heads: Count | None = None
    kv_heads: Count | None = None
    head_dim: Count | None = None
    vocab: Count | None = None
    padded_vocab_to: Count | None = None
    seq_len: Count | None = None
    gated_mlp: bool | None = None
    moe: Moe | None = None
    attention: LatentAttention | None = None
    sliding_window: SlidingWindow | None = None
    parallel_block: bool | None = None
    position: str | None = None
    activation: str | None = None
    mtp_layers: int | None = None


class Degrees(Row):
    """Degrees of parallelism."""

    tp: Count | None = None
    pp: Count | None = None
    vpp: Count | None = None
    dp: Count | None = None
    cp: Count | None = None
    ep: Count | None = None
    sp: bool | None = None
    zero: int | None = None
    zero1_group: Count | None = None
    activation_partitioning: bool | None = None


class Batch(Row):
    """Sequences a forward, a step, and (torchtitan) a data-parallel rank."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)
    micro: Count | None = None
    global_: Count | None = Field(default=None, alias="global")
    local: Count | None = None


class RecomputeRule(Row):
    """What is computed again in the backward pass."""

    kind: str = "none"
    method: str | None = None
    layers: int | None = None
    modules: tuple[str, ...] | None = None
    detail: str | None = None


class Case(Row):
    """One published row; `tolerance`, `evidence`, `known_miss`, `expect_fits` are our own keys."""

    id: str
    kind: str = "training"
    source: Source = Source()
    software: SoftwareName = SoftwareName()
    device: str | None = None
    gpus: Count | None = None
    gpus_per_node: Count | None = None
    interconnect: Interconnect = Interconnect()
    model: Shape = Shape()
    parallel: Degrees = Degrees()
    schedule: str | None = None
    batch: Batch = Batch()
    precision: str | None = None
    grad_dtype: str | None = None
    comm_dtype: str | None = None
    recompute: RecomputeRule = RecomputeRule(kind="unknown")
    offload: dict[str, Any] | None = None
    optimisations: tuple[str, ...] = ()
    measured: dict[str, Any] = Field(default_factory=dict)
    flop_formula: str | None = None
    peak_tflops: float | None = None
    memory_kind: str | dict[str, str] | None = None
    inferred: tuple[str, ...] = ()
    notes: str | None = None
    confidence: str | None = None
    tolerance: float | None = Field(default=None, gt=0)
    evidence: Literal["calibrated", "held_out"] | None = None
    known_miss: str | None = None  # why the case is outside its tolerance, as far as we know
    expect_fits: bool | None = None
    file: str = ""
    line: int = 0

    @field_validator(
        "source",
        "software",
        "interconnect",
        "model",
        "parallel",
        "batch",
        "measured",
        mode="before",
    )
    @classmethod
    def _null_is_empty(cls, value: object) -> object:
        return {} if value is None else value

    @field_validator("optimisations", "inferred", mode="before")
    @classmethod
    def _null_is_none_of_them(cls, value: object) -> object:
        return () if value is None else value

    @field_validator("recompute", mode="before")
    @classmethod
    def _from_word(cls, value: object) -> object:
        if value is None:
            return {"kind": "unknown"}
        return {"kind": value} if isinstance(value, str) else value

    @property
    def source_name(self) -> str:
        """Short name of the source, the group of the summary."""
        return short_name(self.source.title)

    @property
    def stack(self) -> str | None:
        """Name of the software, or None where the row does not say."""
        return self.software.name

    @property
    def tokens(self) -> frozenset[str]:
        """Optimisation tokens, with merged spellings written out."""
        merged = {new for token in self.optimisations for new in MERGED.get(token, (token,))}
        return frozenset(merged)


MERGED: Mapping[str, tuple[str, ...]] = {
    "overlap_dp": ("dp_overlap",),
    "overlapped_distributed_optimizer": ("dp_overlap",),
    "overlap_tp": ("tp_overlap",),
    "async_tp": ("tp_overlap",),
    "async_p2p": ("pp_overlap",),
    "float8_linear": ("fp8_tensorwise",),
    "efficient_operators": ("flash_attention_2", "fused_kernels"),
    "balanced_stages": ("embedding_balanced_partition",),
}

SHORT_NAMES: Mapping[str, str] = {
    "MegaScale: Scaling": "MegaScale",
    "Reducing Activation Recomputation": "Korthikanti",
    "Efficient Large-Scale Language Model Training on GPU": "PTD-P",
    "Megatron-LM: Training Multi-Billion": "Megatron 2019",
    "BigScience BLOOM-176B chronicles (prequel)": "BLOOM prequel",
    "BigScience BLOOM-176B chronicles": "BLOOM",
    "BigScience GPT-2 experiments": "Jean Zay V100",
    "MosaicML LLM Foundry": "LLM Foundry",
    "Megatron Bridge": "Megatron Bridge",
    "InternEvo": "InternEvo",
    "SimuMax": "SimuMax",
    "FlashAttention-2": "FlashAttention-2",
    "ZeRO: Memory": "ZeRO",
    "Optimizing Distributed Training on Frontier": "Frontier",
    "The Llama 3 Herd": "Llama 3",
    "Scalable Training of Mixture-of-Experts": "Megatron Core MoE",
    "Insights into DeepSeek-V3": "DeepSeek-V3",
}


def short_name(title: str) -> str:
    """Short name of a source.

    Parameters
    ----------
    title : str
        As the row states it.

    Returns
    -------
    str
        From the table above by the beginning of the title; else what stands before a colon or
        bracket, 40 characters at most; `unnamed source` where that is empty.
    """
    for prefix, name in SHORT_NAMES.items():
        if title.startswith(prefix):
            return name
    head = title.split(":")[0].split(" (")[0].strip()
    return head[:40].rstrip() or "unnamed source"


@dataclass(frozen=True)
class CaseFile:
    """What one file holds."""

    path: Path
    cases: tuple[Case, ...] = ()
    serving: tuple[ServingRow, ...] = ()


def read_case_file(path: str | Path) -> CaseFile:
    """Read one file of published measurements, whichever of the known schemas it has.

    Parameters
    ----------
    path : str or Path
        YAML with ``cases:`` of training or ``rows:`` of serving; with the ending .csv, a table of
        serving points.

    Returns
    -------
    CaseFile
        Cases or serving rows, never both, in the order of the file.

    Raises
    ------
    SpecError
        If the file is missing, is no YAML, has a duplicate key or none of the known schemas, or if
        a value has the wrong type; every problem is listed with file and line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            Problem(f"cannot be read: {error}", f"give {KNOWN}", file=str(path))
        ) from error
    if path.suffix.lower() == ".csv":
        return CaseFile(path, serving=read_points(text, path, KNOWN))
    data, node = _load(text, path)
    if isinstance(data, dict) and isinstance(data.get("cases"), list):
        return CaseFile(path, cases=_cases(data["cases"], _value_node(node, "cases"), path))
    if isinstance(data, dict) and isinstance(data.get("rows"), list):
        return CaseFile(path, serving=tuple(_serving_rows(data["rows"], path)))
    keys = ", ".join(map(str, data)) if isinstance(data, dict) else type(data).__name__
    raise SpecError(
        Problem(
            f"holds no published cases (found: {keys[:120] or 'nothing'})",
            f"give {KNOWN}",
            file=str(path),
            line=1,
        )
    )


def _load(text: str, path: Path) -> tuple[Any, Any]:
    """Values and their node tree; the C parser is used where it is installed."""
    yaml = YAML(typ="safe")
    try:
        node = yaml.compose(text)
        return (None if node is None else yaml.constructor.construct_document(node)), node
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        message = " ".join(str(error.problem or error.context or "is not YAML").split())
        raise SpecError(
            Problem(message, "correct the YAML", file=str(path), line=line, column=column)
        ) from error
    except YAMLError as error:
        raise SpecError(Problem(str(error), "correct the YAML", file=str(path))) from error


def _value_node(node: Any, key: object) -> Any:
    """Node of a value in a mapping or sequence node; the node itself where there is none."""
    children = getattr(node, "value", None)
    if not isinstance(children, list):
        return node
    if isinstance(key, int):
        return children[key] if key < len(children) else node
    for child in children:
        if isinstance(child, tuple) and child[0].value == key:
            return child[1]
    return node


def _line(node: Any) -> int:
    mark = getattr(node, "start_mark", None)
    return 0 if mark is None else int(mark.line) + 1


def _cases(raw: Sequence[Any], node: Any, path: Path) -> tuple[Case, ...]:
    problems: list[Problem] = []
    cases: list[Case] = []
    seen: dict[str, int] = {}
    for index, data in enumerate(raw):
        case_node = _value_node(node, index)
        line = _line(case_node)
        if not isinstance(data, dict):
            problems.append(
                Problem(
                    f"case {index + 1} is {type(data).__name__}, not a mapping",
                    "write the keys of the schema",
                    file=str(path),
                    line=line,
                )
            )
            continue
        try:
            case = Case.model_validate({**data, "file": str(path), "line": line})
        except ValidationError as error:
            problems.extend(_problems(error, data, case_node, path))
            continue
        if case.id in seen:
            problems.append(
                Problem(
                    f"id {case.id} is used twice, first on line {seen[case.id]}",
                    "give each case its own id",
                    file=str(path),
                    line=line,
                    field="id",
                )
            )
        seen.setdefault(case.id, line)
        cases.append(case)
    if problems:
        raise SpecError(problems)
    return tuple(cases)


def _problems(
    error: ValidationError, data: Mapping[str, Any], node: Any, path: Path
) -> Iterator[Problem]:
    for detail in error.errors():
        place = node
        for key in detail["loc"]:
            place = _value_node(place, key)
        field = ".".join(map(str, detail["loc"]))
        value = "" if detail["type"] == "missing" else f" (found {str(detail['input'])[:60]!r})"
        yield Problem(
            f"{detail['msg']}{value}",
            "see the schema of published cases",
            file=str(path),
            line=_line(place),
            field=f"{data.get('id', 'case without id')}: {field}",
        )


def _serving_rows(rows: Iterable[Any], path: Path) -> Iterator[ServingRow]:
    for row in rows:
        if isinstance(row, dict):
            source = row.get("source") or {}
            name = source.get("key") or short_name(str(source.get("title", "")))
            scored = row.get("scored") or {}
            device = row.get("device")
            yield ServingRow(str(row.get("id")), str(name), device, scored, row, path.parent)

"""``clustersim explain op KIND``: what one operator costs on a device, and why.

A kind is one row of `KINDS`: its flags, and the function of the same name in
`clustersim.cost.explain.table`. Typer builds the command from the row.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clustersim.cli import console

if TYPE_CHECKING:
    from clustersim.cost.explain.record import Explanation, Site

MOST = 2**30  # of any count
Document = dict[str, Any]


@dataclass(frozen=True)
class Flag:
    """One flag of a kind of operator.

    Attributes
    ----------
    name : str
        Of the argument that the explanation takes; the flag is ``--name`` with hyphens.
    type : type
        int (a count of at least 1), float (a pure number), str or bool.
    default
        None where the explanation has its own; `REQUIRED` where there is none.
    choices : tuple of str
        Words that a text may be.
    unit : str
        Of a quantity, which is then read by `clustersim.units`.
    flag : str
        How the flag is called where that is not its name.
    least, most : int
        Of a count or a pure number.
    """

    name: str
    help: str
    type: type = int
    default: Any = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    flag: str = ""
    least: int = 1
    most: int = MOST

    @property
    def word(self) -> str:
        """As it is typed."""
        return self.flag or f"--{self.name.replace('_', '-')}"


@dataclass(frozen=True)
class Kind:
    """A kind of operator: its name, what it is, and its flags.

    `on_device` is whether --device is needed; a collective has its topology's. `typed` is whether
    --dtype is a flag; a kind without it names each of its datatypes.
    """

    name: str
    help: str
    flags: tuple[Flag, ...]
    on_device: bool = True
    typed: bool = True


REQUIRED = inspect.Parameter.empty
HEADS = Flag("heads", "Heads of the queries on this GPU.", default=REQUIRED)
KV_HEADS = Flag("kv_heads", "Heads of keys and values; without: as many as heads.")
HEAD_DIM = Flag("head_dim", "Width of a head.", default=128)
KV_DTYPE = Flag(
    "kv_dtype", "Of the cache; without: as the arithmetic.", str, choices=("bf16", "fp16", "fp8")
)
RANKS = Flag("ranks", "Members of the group.", default=REQUIRED, least=2)
PER_NODE = Flag("per_node", "Members on each node; without: as many as it has GPUs.")
EXPERTS = Flag("experts", "Routed experts of a layer.", default=REQUIRED)
TOP_K = Flag("top_k", "Experts that a token takes.", default=REQUIRED)
HIDDEN = Flag("hidden", "Width of the model.", default=REQUIRED)
WINDOW = Flag("window", "Most keys that a query sees; 0 is all.", default=0, least=0)
KINDS = (
    Kind(
        "gemm",
        "A matrix product C[m,n] = A[m,k] B[k,n].",
        (
            Flag("m", "Rows of the result; tokens of a layer.", default=REQUIRED),
            Flag("n", "Columns of the result.", default=REQUIRED),
            Flag("k", "Summed over.", default=REQUIRED),
            Flag("batch", "Products in one launch.", default=1),
            Flag("layout", "Pass of training.", str, "fwd", choices=("fwd", "dgrad", "wgrad")),
        ),
    ),
    Kind(
        "attention",
        "A fused attention core, softmax(Q K^T) V.",
        (
            Flag("batch", "Sequences.", default=1),
            Flag("q_len", "Queries of a sequence.", default=REQUIRED),
            Flag("kv_len", "Keys of a sequence; without: as many as queries."),
            HEADS,
            KV_HEADS,
            HEAD_DIM,
            Flag("causal", "Queries see no later keys.", bool, False),
            WINDOW,
            Flag("backward", "The backward pass.", bool, False),
            Flag("generation", "Of the kernels, such as flash_2; without: the fastest.", str, ""),
        ),
    ),
    Kind(
        "elementwise",
        "A memory-bound pass: norm, activation, addition, ...",
        (
            Flag("bytes", "Read and written, as '512 MiB'.", str, REQUIRED, unit="bytes"),
            Flag("variant", "Class of kernel, such as rms_norm.", str, "stream", flag="--class"),
        ),
    ),
    Kind(
        "collective",
        "A collective over the ranks of a cluster.",
        (
            Flag("collective", "all_reduce, all_gather, all_to_all, ...", str, REQUIRED),
            Flag(
                "bytes", "Message as nccl-tests counts, as '64 MiB'.", str, REQUIRED, unit="bytes"
            ),
            RANKS,
            PER_NODE,
        ),
        on_device=False,
    ),
    Kind(
        "prefill",
        "Causal attention over whole prompts, its cache written.",
        (
            Flag("batch", "Prompts.", default=1),
            Flag("q_len", "New tokens of a prompt.", default=REQUIRED),
            Flag("kv_len", "All its tokens, those in the cache too; without: the new ones."),
            HEADS,
            KV_HEADS,
            HEAD_DIM,
            KV_DTYPE,
            WINDOW,
        ),
    ),
    Kind(
        "decode",
        "Attention of one new token a sequence over a paged KV cache.",
        (
            Flag("batch", "Sequences.", default=REQUIRED),
            Flag("context", "Keys in the cache of each sequence.", default=REQUIRED),
            HEADS,
            KV_HEADS,
            HEAD_DIM,
            KV_DTYPE,
            WINDOW,
        ),
        typed=False,
    ),
    Kind(
        "mla",
        "Latent attention of DeepSeek-V3: core or whole block.",
        (
            Flag("phase", "Prompts or new tokens.", str, REQUIRED, choices=("prefill", "decode")),
            Flag("batch", "Sequences.", default=1),
            Flag("q_len", "New tokens of a sequence; a prefill needs it."),
            Flag("kv_len", "All its tokens, the new ones too; decoding needs it."),
            HEADS,
            Flag("kv_dtype", "Of the cache.", str, "bf16", choices=("bf16", "fp8")),
            Flag("whole", "With projections and small operators.", bool, False),
            Flag("gemm_dtype", "Of the projections, such as fp8_block.", str, "bf16"),
        ),
        typed=False,
    ),
    Kind(
        "moe",
        "The routed experts of a layer, on its fullest rank.",
        (
            Flag("tokens", "Of all ranks that share the experts.", default=REQUIRED),
            EXPERTS,
            TOP_K,
            HIDDEN,
            Flag("expert_ffn", "Width of an expert, of one branch.", default=REQUIRED),
            Flag("expert_parallel", "Ranks that share the experts.", default=1),
            Flag("tensor_parallel", "Ranks that share each expert.", default=1),
            Flag("exponent", "Power law of popularity; 0 is balanced.", float, 0.0, least=0),
            Flag("format", "Of the experts, such as fp8_block.", str, "bf16"),
            Flag("ungated", "One product before the activation, not two.", bool, False),
        ),
        typed=False,
    ),
    Kind(
        "all_to_all",
        "One phase of the exchange of tokens between experts.",
        (
            Flag(
                *("phase", "Tokens to experts, or results back.", str, REQUIRED),
                choices=("dispatch", "combine", "combine_low_precision"),
            ),
            Flag("tokens", "Of each rank.", default=REQUIRED),
            EXPERTS,
            TOP_K,
            HIDDEN,
            RANKS,
            PER_NODE,
            Flag(
                *("mode", "Family of kernels.", str, "normal"),
                choices=("normal", "low_latency", "nvlink_one_sided", "nvlink_two_sided"),
            ),
            Flag("payload", "Datatype of tokens on their way, such as fp8.", str, "bf16"),
            Flag("sms", "SMs that copy; 0 leaves it to the kernel.", default=0, least=0),
            Flag("balanced", "Experts of a token lie on many ranks, not at random.", bool, False),
        ),
        on_device=False,
        typed=False,
    ),
    Kind(
        "transfer",
        "A copy between a device, its host and NVMe drives.",
        (
            Flag(
                *("direction", "From where to where.", str, REQUIRED),
                choices=(
                    *("host_to_device", "device_to_host", "nvme_to_host", "host_to_nvme"),
                    *("nvme_to_device", "device_to_nvme"),
                ),
            ),
            Flag("bytes", "Of the copy, as '1 GiB'.", str, REQUIRED, unit="bytes"),
            Flag("drives", "That share it, striped.", default=1),
            Flag("bounced", "Device and drives by way of host memory.", bool, False),
        ),
        typed=False,
    ),
)

DEVICE = "A device, its alias, or a file; `clustersim list devices`."
TOPOLOGY = "A cluster or a file; `clustersim list topologies`."
SHARED = {
    "device": (str | None, typer.Option(help=DEVICE)),
    "topology": (str, typer.Option(help=TOPOLOGY)),
    "dtype": (str | None, typer.Option(help="Of the operands; without: the 16-bit type.")),
    "json": (bool, typer.Option("--json", help="Print one JSON document.")),
    "out": (Path | None, typer.Option(help="Folder for roofline.svg and explanation.json.")),
}

app = typer.Typer(
    help="Why something costs what it costs.", no_args_is_help=True, rich_markup_mode=None
)
op_app = typer.Typer(
    help="Explain one operator: time, roofline, what bounds it, what would help.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(op_app, name="op")


def _command(kind: Kind) -> Any:
    """A function with the signature that Typer reads flags from."""

    def command(**given: Any) -> None:
        shared = {name: given.pop(name, None) for name in SHARED}
        with console.answering():
            explanation = _explain(kind, given, shared)
            _answer(explanation, shared["out"], bool(shared["json"]))

    named = inspect.Parameter.KEYWORD_ONLY
    site = {"device": REQUIRED} if kind.on_device else {"topology": REQUIRED, "device": None}
    dtype = {"dtype": None} if kind.typed else {}
    defaults = {**site, **dtype, "json": False, "out": None}
    parameters = [
        inspect.Parameter(flag.name, named, default=flag.default, annotation=_annotation(flag))
        for flag in kind.flags
    ]
    for name, default in defaults.items():
        of, option = SHARED[name]
        annotation: Any = Annotated[of, option]
        if default is REQUIRED:
            annotation = Annotated[str, option]
        parameters.append(inspect.Parameter(name, named, default=default, annotation=annotation))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__doc__ = kind.help
    return command


def _annotation(flag: Flag) -> Any:
    of: Any = flag.type if flag.default is not None else flag.type | None
    words = flag.help + (f" One of {', '.join(flag.choices)}." if flag.choices else "")
    if flag.type in (int, float):
        return Annotated[of, typer.Option(flag.word, min=flag.least, max=flag.most, help=words)]
    return Annotated[of, typer.Option(flag.word, help=words)]


for _kind in KINDS:
    op_app.command(_kind.name)(_command(_kind))


def _explain(kind: Kind, given: Document, shared: Document) -> Explanation:
    """Check what was typed, load where it runs, and ask the model."""
    shape = _read(kind, given)
    if shared["out"] is not None:
        from clustersim.analysis.export import check_folder

        check_folder(shared["out"])
    site = _site(kind, shared)
    from clustersim.cost.explain.table import EXPLAINERS

    return EXPLAINERS[kind.name](site, **shape)


def _read(kind: Kind, given: Document) -> Document:
    """Values by name, quantities in SI; every mistake is reported at once."""
    from clustersim.errors import Problem, SpecError, UnitError
    from clustersim.spec.suggest import did_you_mean
    from clustersim.units import parse_quantity

    shape, problems = {}, []
    for flag in kind.flags:
        value = given[flag.name]
        if flag.choices and value is not None and value not in flag.choices:
            fix = did_you_mean(value, flag.choices, what="use one of")
            problems.append(Problem(f"`{value}` is not known", fix, field=flag.word))
        if flag.unit:
            try:
                value = parse_quantity(value, flag.unit)
            except UnitError as error:
                problems.append(Problem(str(error), field=flag.word))
        shape[flag.name] = value
    if problems:
        raise SpecError(problems)
    return shape


def _site(kind: Kind, shared: Document) -> Site:
    from clustersim.cost.explain.record import Site, check_dtype
    from clustersim.errors import Problem, SpecError
    from clustersim.spec.resolve import load_device, load_profile, load_topology

    topology = None if kind.on_device else load_topology(shared["topology"])
    named = load_device(shared["device"]) if shared["device"] is not None else None
    device = named or (topology.node.device if topology else None)
    if device is None:
        raise SpecError(Problem("names no device", "give --device", field="--device"))
    if topology and device.name != topology.node.device.name:
        own = topology.node.device.name
        message = f"{topology.name} is made of {own}, not of {device.name}"
        raise SpecError(Problem(message, f"leave --device out, or use {own}", field="--device"))
    dtype = check_dtype(device, shared["dtype"])
    return Site(device, load_profile(device.profile), dtype, topology)


def _answer(explanation: Explanation, out: Path | None, as_json: bool) -> None:
    document = explanation.document()
    if out is not None:
        _write(out, document)
    if as_json:
        console.print_json(document)
    else:
        from clustersim.analysis.explanation import print_explanation

        print_explanation(document, console.output())


def _write(out: Path, document: Document) -> None:
    import orjson

    from clustersim.analysis.explanation import roofline_of
    from clustersim.analysis.roofline import roofline_svg

    out.mkdir(parents=True, exist_ok=True)
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    title = f"{document['title']} on {document['place']}"
    files = {
        "roofline.svg": roofline_svg(roofline_of(document), title).encode(),
        "explanation.json": orjson.dumps(document, option=options),
    }
    for name, content in files.items():
        draft = out / f".{name}"
        draft.write_bytes(content)
        draft.replace(out / name)
    console.say(f"wrote {out}: {', '.join(files)}")

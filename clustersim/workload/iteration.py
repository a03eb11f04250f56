"""One iteration of a serving engine as a template: what is computed for given tokens, no seconds.

Identical layers are folded: an entry says how often it runs. What depends on the batch enters by
its rows: tokens of an attention rank, tokens of all ranks, or sequences that are sampled. Attention
over the cache is a list of cores, one a kind of layer; experts are one entry for all their layers.
Left out: passes that engines fuse into their neighbours (residual additions, biases, rotation),
and the core of linear attention, whose state is small.

References
----------
.. [1] vLLM, pull request 40376, "Enable FlashInfer top-k/top-p sampler by default", 2026: times of
   three ways to filter tokens, https://github.com/vllm-project/vllm/pull/40376
.. [2] SGLang, pull request 14416, "Fusing RMSNormTP in minimax_m2," 2025: a sum, an all-reduce and
   the norm, https://github.com/sgl-project/sglang/pull/14416
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clustersim.parallel.replica import Shards, kv_dtype, shards_of
from clustersim.spec.model import Experts, LatentAttention, Model
from clustersim.spec.serving import ServingScenario

Rows = Literal["tokens", "all_tokens", "sequences"]
HIDDEN_BYTES = 2.0
LOGIT_BYTES = 4.0
PAIR_BYTES = 8.0  # two numbers: a chosen expert and its weight, or two sums of squares
# A norm reads its input and the residual and writes both; one of the four is still in registers or
# L1 of the kernel before (assumed).
NORM_ROWS = 3.0
# Traffic of one logit that top-k and top-p take, at 0.8 of 3.35 TB/s: 131,072 logits of 128 and 512
# sequences, means of both, in pull request 40376 of vLLM, whose GPU is not named.
FILTER_BYTES = {"sort": 300.0, "select": 80.0, "reject": 20.0}
SAMPLING_PASSES = 4.0  # logits are read and written: temperature, softmax, cumulation; assumed


@dataclass(frozen=True)
class Product:
    """A matrix product [rows, k] x [k, n]; `shared` ones may run beside the routed experts."""

    name: str
    n: int
    k: int
    dtype: str
    count: float
    rows: Rows = "tokens"
    shared: bool = False


@dataclass(frozen=True)
class Pass:
    """A memory-bound kernel: bytes of one row, and its class in a profile."""

    name: str
    kind: str
    row_bytes: float
    count: float
    rows: Rows = "tokens"


@dataclass(frozen=True)
class Exchange:
    """A collective over the GPUs of an attention rank ("tp") or of a stage ("stage")."""

    name: str
    collective: str
    row_bytes: float
    count: float
    group: Literal["tp", "stage", "pp"]
    rows: Rows = "tokens"


@dataclass(frozen=True)
class Core:
    """Attention of some layers over their keys: full, in a window, or in chunks."""

    kind: str
    heads: int
    kv_heads: int
    head_dim: int
    window: int
    count: float


@dataclass(frozen=True)
class ExpertLayers:
    """Routed experts of some layers on one GPU of a stage.

    `deepgemm` ones run in kernels of their own format alone, `padded` ones compute blocks of rows
    that no token fills too.
    """

    experts: Experts
    hidden: int
    intermediate: int
    gated: bool
    dtype: str
    ranks: int
    count: float
    deepgemm: bool
    padded: bool


@dataclass(frozen=True)
class Iteration:
    """Everything that one iteration of a replica computes, the fullest stage.

    Attributes
    ----------
    products, passes, exchanges : tuple
        Entries of all layers and of the head.
    cores : tuple of Core
        Attention; empty with latent attention.
    latent : LatentAttention or None
        With it `latent_layers` cores of `shards.heads` heads.
    experts : ExpertLayers or None
    shards : Shards
    kv_dtype : str
    hidden : int
    projection_dtype : str
        Of the products around latent attention.
    """

    products: tuple[Product, ...]
    passes: tuple[Pass, ...]
    exchanges: tuple[Exchange, ...]
    cores: tuple[Core, ...]
    latent: LatentAttention | None
    latent_layers: float
    experts: ExpertLayers | None
    shards: Shards
    kv_dtype: str
    hidden: int
    projection_dtype: str

    @property
    def kernels(self) -> float:
        """Launches of an iteration, a few more for each layer of experts and of attention."""
        launches = 2.0 * self.latent_layers
        for entries in (self.products, self.passes, self.exchanges, self.cores):
            launches += sum(entry.count for entry in entries)
        return launches + (6.0 * self.experts.count if self.experts else 0.0)


def iteration_of(scenario: ServingScenario) -> Iteration:
    """The template of a scenario's replica.

    Parameters
    ----------
    scenario : ServingScenario

    Returns
    -------
    Iteration
        Work of all stages together: a batch passes them one after the other.
    """
    shards, model, precision = shards_of(scenario), scenario.model, scenario.precision
    attention = precision.attention or precision.weights
    products = [*_attention_products(model, shards, attention)]
    products += _mlp_products(model, shards, precision.weights)
    head = Product(
        "head",
        -(-model.padded_vocab // shards.tensor_parallel),
        model.hidden,
        precision.head,
        1.0,
        "sequences",
    )
    experts = None
    if model.experts is not None:
        dtype = precision.experts or precision.weights
        deepgemm = _runs_deepgemm(scenario, dtype, shards.expert_tensor_parallel)
        experts = ExpertLayers(
            experts=model.experts,
            hidden=model.hidden,
            intermediate=max(1, model.experts.expert_ffn // shards.expert_tensor_parallel),
            gated=model.gated_mlp,
            dtype=dtype,
            ranks=shards.expert_parallel,
            count=float(model.expert_layers),
            deepgemm=deepgemm,
            padded=deepgemm and scenario.engine.deepgemm_padding,
        )
    latent = model.latent
    return Iteration(
        products=(*products, head),
        passes=(*_passes(model, shards), *_filters(scenario)),
        exchanges=tuple(_exchanges(model, shards)),
        cores=() if latent else tuple(_cores(model, shards)),
        latent=latent,
        latent_layers=float(model.layers) if latent else 0.0,
        experts=experts,
        shards=shards,
        kv_dtype=kv_dtype(scenario),
        hidden=model.hidden,
        projection_dtype=attention,
    )


def _runs_deepgemm(scenario: ServingScenario, dtype: str, tensor_parallel: int) -> bool:
    """Whether the engine takes DeepGEMM for experts of a format, here and so divided."""
    engine, device = scenario.engine, scenario.cluster.node.device.name
    places, below = engine.deepgemm_on, engine.deepgemm_below
    has_kernels = not places or any(word in device for word in places)
    is_narrow = below is None or tensor_parallel < below
    return dtype in engine.deepgemm_experts and has_kernels and is_narrow


def _attention_products(model: Model, shards: Shards, dtype: str) -> list[Product]:
    """Products around attention; those of latent attention belong to its block."""
    if model.latent is not None:
        return []
    layers, hidden = float(model.layers), model.hidden
    width = (shards.heads + 2 * shards.kv_heads) * model.head_dim
    return [
        Product("qkv", width, hidden, dtype, layers),
        Product("attention output", hidden, shards.heads * model.head_dim, dtype, layers),
    ]


def _mlp_products(model: Model, shards: Shards, dtype: str) -> list[Product]:
    """MLPs of dense layers, shared experts, and the router."""
    found, hidden, tp = [], model.hidden, shards.tensor_parallel
    branches = 2 if model.gated_mlp else 1
    dense = float(model.layers - model.expert_layers)
    if dense:
        width = max(1, model.ffn // tp)
        found += [
            Product("mlp up", branches * width, hidden, dtype, dense),
            Product("mlp down", hidden, width, dtype, dense),
        ]
    if model.experts is None:
        return found
    count = float(model.expert_layers)
    found.append(Product("router", model.experts.experts, hidden, "bf16", count))
    if model.experts.shared_experts:
        width = max(1, model.experts.shared_experts * model.experts.expert_ffn // tp)
        found += [
            Product("shared expert up", branches * width, hidden, dtype, count, shared=True),
            Product("shared expert down", hidden, width, dtype, count, shared=True),
        ]
    return found


def _passes(model: Model, shards: Shards) -> list[Pass]:
    """Norms with the residual, activations, the embedding, and the sampler."""
    layers, hidden, tp = float(model.layers), model.hidden, shards.tensor_parallel
    norms = 1.0 if model.parallel_block else 2.0
    kind = "layer_norm" if model.norm == "layer_norm" else "rms_norm"
    found = [Pass("norm", kind, NORM_ROWS * hidden * HIDDEN_BYTES, norms * layers)]
    if model.qk_norm != "none":
        width = (shards.heads + shards.kv_heads) * model.head_dim
        found.append(Pass("query and key norm", kind, 2.0 * width * HIDDEN_BYTES, layers))
        if model.qk_norm == "whole" and tp > 1:  # squares are summed before ranks add them up [2]
            found.append(Pass("query and key squares", "stream", width * HIDDEN_BYTES, layers))
    widths = []
    if dense := float(model.layers - model.expert_layers):
        widths.append((model.ffn / tp, dense))
    if model.experts is not None and model.experts.shared_experts:
        shared = model.experts.shared_experts * model.experts.expert_ffn / tp
        widths.append((shared, float(model.expert_layers)))
    moved = 3.0 if model.gated_mlp else 2.0  # rows read and written
    activation = "gated" if model.gated_mlp else "activation"
    for each, count in widths:
        found.append(Pass("activation", activation, moved * each * HIDDEN_BYTES, count))
    found.append(Pass("embedding", "embedding", 2.0 * hidden * HIDDEN_BYTES, 1.0))
    logits = model.padded_vocab * LOGIT_BYTES * SAMPLING_PASSES
    found.append(Pass("sampling", "stream", logits, SAMPLING_PASSES, "sequences"))
    return found


def _filters(scenario: ServingScenario) -> list[Pass]:
    """Top-k and top-p over the vocabulary, where requests ask for them."""
    sampling, engine = scenario.workload.sampling, scenario.engine
    if sampling == "engine":
        sampling = engine.default_sampling
    if sampling == "greedy":
        return []
    logits = scenario.model.padded_vocab * FILTER_BYTES[engine.token_filter]
    return [Pass("token filter", "stream", logits, 1.0, "sequences")]


def _exchanges(model: Model, shards: Shards) -> list[Exchange]:
    """Sums over tensor-parallel ranks, and the way of tokens to experts on other attention ranks.

    With one attention rank all ranks hold all tokens, and partial results of experts are summed
    like those of any MLP. With several, tokens are gathered before the experts and results are
    scattered after them.
    """
    found, row = [], model.hidden * HIDDEN_BYTES
    dense, experts = float(model.layers - model.expert_layers), float(model.expert_layers)
    alone = shards.attention_ranks == 1
    if shards.tensor_parallel > 1:
        sums = model.layers + dense + (experts if alone else 0.0)
        found.append(Exchange("all-reduce", "all_reduce", row, sums, "tp"))
        if model.qk_norm == "whole":  # ranks add up their sums of squares
            name, layers = "query and key norm", float(model.layers)
            found.append(Exchange(name, "all_reduce", PAIR_BYTES, layers, "tp"))
        found.append(Exchange("embedding sum", "all_reduce", row, 1.0, "tp"))
        logits = model.padded_vocab * HIDDEN_BYTES
        found.append(Exchange("logits", "all_gather", logits, 1.0, "tp", "sequences"))
    if experts and not alone:
        assert model.experts is not None
        choices = model.experts.top_k * PAIR_BYTES
        for name, collective, size in (
            ("dispatch", "all_gather", row),
            ("dispatch of choices", "all_gather", choices),
            ("combine", "reduce_scatter", row),
        ):
            found.append(Exchange(name, collective, size, experts, "stage", "all_tokens"))
    if shards.stages > 1:
        found.append(Exchange("stage edge", "send_recv", row, shards.stages - 1.0, "pp"))
    return found


def _cores(model: Model, shards: Shards) -> list[Core]:
    found = []
    for kind in ("full", "window", "chunked"):
        if count := model.layers_of_kind(kind):
            window = 0 if kind == "full" else int(model.sliding_window or 0)
            heads = (shards.heads, shards.kv_heads, model.head_dim)
            found.append(Core(kind, *heads, window, float(count)))
    return found

"""Small training questions for tests; arguments change one thing each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clustersim.spec.device import Device
from clustersim.spec.fleet import Fleet
from clustersim.spec.model import Model
from clustersim.spec.scenario import Parallelism, Scenario, Training
from clustersim.spec.software import Features, Software
from clustersim.spec.topology import Fabric, Host, Nics, Node, ScaleUp, Switch, Topology

SMALL_GPT: dict[str, Any] = {
    "layers": 8,
    "hidden": 1024,
    "ffn": 4096,
    "attention_heads": 16,
    "vocab": 8192,
    "max_positions": 512,
}
SMALL_LLAMA: dict[str, Any] = {
    **SMALL_GPT,
    "ffn": 2816,
    "kv_heads": 8,
    "gated_mlp": True,
    "position": "rotary",
    "norm": "rms_norm",
    "bias": False,
    "tied_embeddings": False,
}


def model_of(**changes: Any) -> Model:
    """A GPT of 8 layers by default."""
    return Model(name="test", **(SMALL_GPT | changes))


def scenario_of(
    model: Model | Mapping[str, Any] | None = None,
    parallelism: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    features: Mapping[str, Any] | None = None,
    fleet: Mapping[str, Any] | None = None,
) -> Scenario:
    """A small GPT on as many DGX A100 as its plan needs: one replica, no overlap, 8 micro-batches.

    `global_batch` is 8 micro-batches of every replica where `training` does not say it.
    """
    plan = Parallelism(**({"data_parallel": 1} | dict(parallelism or {})))
    gpus = plan.tensor_parallel * plan.pipeline_parallel * plan.data_parallel
    step = {"micro_batch": 1, "sequence_length": 512} | dict(training or {})
    step.setdefault("global_batch", 8 * step["micro_batch"] * plan.data_parallel)
    return Scenario(
        name="test",
        model=model if isinstance(model, Model) else model_of(**(model or {})),
        cluster=dgx_a100(-(-gpus // 8)),
        parallelism=plan,
        training=Training(**step),
        software=Software(name="test", features=Features(**(features or {}))),
        fleet=Fleet(**(fleet or {})),
    )


def dgx_a100(nodes: int) -> Topology:
    """Servers of eight A100 and eight 200 Gb/s adapters, from their data sheets."""
    device = Device(
        name="a100_sxm_80gb",
        title="A100 SXM 80GB",
        vendor="NVIDIA",
        architecture="ampere",
        memory=80.0 * 2**30,
        memory_bandwidth=2.039e12,
        l2_cache=40.0 * 2**20,
        sms=108,
        boost_clock=1.41e9,
        matrix_peak={"bf16": 312e12, "fp16": 312e12},
        vector_peak=19.5e12,
        power_limit=400.0,
        scale_up_link="nvlink3",
        scale_up_bandwidth=300e9,
        pcie_bandwidth=32e9,
        profile="a100",
        sources={},
    )
    node = Node(
        device=device,
        gpus=8,
        scale_up=ScaleUp(kind="switch", link="nvlink3", domain_gpus=8, bandwidth=300e9),
        nics=Nics(count=8, bandwidth=25e9, link="infiniband"),
        host=Host(
            cpu="EPYC 7742", sockets=2, dram=2.0 * 2**40, dram_bandwidth=409.6e9, pcie_switches=4
        ),
    )
    switch = Switch(ports=40, port_bandwidth=25e9, latency=130e-9)
    return Topology(
        name="test",
        node=node,
        nodes=nodes,
        fabric=Fabric(kind="rail_clos", switch=switch, efficiency=0.9),
    )

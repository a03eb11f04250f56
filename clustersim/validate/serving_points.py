"""A line of ``silicon_e2e.csv`` as a scenario: a closed loop of fixed lengths (rule 3)."""

from __future__ import annotations

from pydantic import ValidationError

from clustersim.spec.serving import Routing, ServingParallelism, ServingScenario
from clustersim.spec.workload import Arrivals, Lengths, Spread, Workload
from clustersim.validate.capabilities import NotComparableError
from clustersim.validate.serving_csv import MODELS
from clustersim.validate.serving_model import serving_model
from clustersim.validate.serving_records import (
    Point,
    ServingRow,
    ServingRun,
    Shape,
    first_problem,
)
from clustersim.validate.serving_rows import check_complete, finish
from clustersim.validate.serving_stack import (
    Stock,
    cache_format,
    formats_of,
    node_cluster,
    pick_engine,
    precision_of,
)


def convert_point(row: ServingRow, stock: Stock) -> ServingRun:
    """Turn a line of the CSV into something to run.

    Parameters
    ----------
    row : ServingRow
        Its `is_point` is true.
    stock : Stock
        Devices and engines.

    Returns
    -------
    ServingRun
        Not played yet; `assumed` tells what the line left open.

    Raises
    ------
    NotComparableError
        With the reason, if the line lacks an input or asks for what is not simulated.
    """
    check_complete(row.data)
    if row.data.get("mode") == "disagg":
        raise NotComparableError("separate workers for prompts and answers are not simulated yet")
    try:
        point = Point.model_validate(row.data)
        if not row.shape:
            raise NotComparableError(f"no shape of {point.model} in {MODELS} beside the file")
        return _convert(point, Shape.model_validate(row.shape), stock)
    except ValidationError as error:
        raise NotComparableError(f"cannot be a scenario: {first_problem(error)}") from error


def _convert(point: Point, shape: Shape, stock: Stock) -> ServingRun:
    notes: list[str] = []
    device = stock.device(point.system)
    version, measured_on = point.backend_version or "", point.measured_on or ""
    engine = pick_engine(stock, point.backend, version, measured_on, notes)
    weights = point.gemm_quant or point.precision
    experts = point.moe_quant or weights
    formats = formats_of(shape, point.model, weights, experts, notes)
    stated = "fp8" if "kv cache fp8" in (shape.note or "").lower() else None
    model = serving_model(shape, point.model, notes)
    parallelism = ServingParallelism(
        tensor_parallel=point.tp,
        pipeline_parallel=point.pp,
        attention_data_parallel=point.attention_dp,
        expert_parallel=point.moe_ep if model.experts is not None else 1,
    )
    gpus = point.tp * point.pp * point.attention_dp
    scenario = ServingScenario(
        kind="serving",
        name=point.id,
        model=model,
        cluster=node_cluster(device, gpus, "", None, None, notes),
        parallelism=parallelism,
        engine=engine.on_device(device.name, device.memory),
        precision=precision_of(formats, cache_format(stated, engine.family, formats)),
        routing=Routing(),
        workload=Workload(
            arrivals=Arrivals(kind="closed_loop", concurrency=point.concurrency),
            lengths=Lengths(
                input=Spread(mean=float(point.isl)), output=Spread(mean=float(point.osl))
            ),
        ),
    )
    return finish(scenario, "closed_loop", None, notes)

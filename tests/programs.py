"""Small programs for tests and benchmarks: an interleaved 1F1B schedule, and rows by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clustersim.workload.operators import Category
from clustersim.workload.program import COMPUTE, DATA, PIPE, OpTemplate, Program


@dataclass
class Row:
    """One op by hand; `after` holds rows by position."""

    name: str = "forward"
    stage: int = 0
    kind: int = COMPUTE
    after: Sequence[int] = ()
    rendezvous: bool = False
    chunk: int = -1
    micro_batch: int = -1


def build_program(rows: Sequence[Row], replicas: int = 1) -> Program:
    """Columns from rows; one template per (name, stage, chunk)."""
    keys = sorted({(row.name, row.stage, row.chunk) for row in rows})
    index = {key: i for i, key in enumerate(keys)}
    templates = tuple(OpTemplate(n, s, c, (), Category.MATMUL) for n, s, c in keys)
    column = {
        "template": [index[row.name, row.stage, row.chunk] for row in rows],
        "stage": [row.stage for row in rows],
        "chunk": [row.chunk for row in rows],
        "micro_batch": [row.micro_batch for row in rows],
        "stream": [row.stage * 3 + row.kind for row in rows],
        "dep": [other for row in rows for other in row.after],
    }
    return Program(
        templates=templates,
        **{name: np.array(values, dtype=np.int32) for name, values in column.items()},
        dep_start=np.cumsum([0] + [len(row.after) for row in rows], dtype=np.int64),
        rendezvous=np.array([row.rendezvous for row in rows], dtype=np.bool_),
        replicas=replicas,
        stages=1 + max((row.stage for row in rows), default=0),
        chunks=1 + max((row.chunk for row in rows), default=0),
        micro_batches=1 + max((row.micro_batch for row in rows), default=0),
    )


def schedule(
    stage: int, stages: int, chunks: int, micro_batches: int
) -> list[tuple[str, int, int]]:
    """Interleaved 1F1B of one stage: (pass, chunk, micro-batch) in order.

    References
    ----------
    .. [1] D. Narayanan et al., "Efficient large-scale language model training on GPU clusters
       using Megatron-LM," SC 2021, section 2.2.
    """

    def unit(name: str, k: int) -> tuple[str, int, int]:
        chunk = k % (stages * chunks) // stages
        chunk = chunk if name == "forward" else chunks - 1 - chunk
        return name, chunk, k // (stages * chunks) * stages + k % stages

    total = chunks * micro_batches
    if chunks == 1:
        warm_up = min(stages - stage - 1, total)
        units = [[(name, 0, k) for k in range(total)] for name in ("forward", "backward")]
    else:
        assert micro_batches % stages == 0, "interleaving needs whole groups of micro-batches"
        warm_up = min(2 * (stages - stage - 1) + (chunks - 1) * stages, total)
        units = [[unit(name, k) for k in range(total)] for name in ("forward", "backward")]
    forward, backward = units
    steady = [op for pair in zip(forward[warm_up:], backward, strict=False) for op in pair]
    return forward[:warm_up] + steady + backward[total - warm_up :]


def pipeline_program(
    stages: int,
    chunks: int,
    micro_batches: int,
    replicas: int = 1,
    sends: bool = False,
    reduces: bool = False,
) -> Program:
    """Forward and backward of interleaved 1F1B, rows stage by stage.

    `sends` puts each transfer on the pipe stream of the sender; `reduces` adds a rendezvous on the
    data stream behind the last backward of each chunk, and an optimizer op behind all of them.
    """
    rows: list[Row] = []
    place: dict[tuple[str, int, int, int], int] = {}
    for stage in range(stages):
        done = [0] * chunks
        reduced = []
        for name, chunk, micro_batch in schedule(stage, stages, chunks, micro_batches):
            place[name, stage, chunk, micro_batch] = len(rows)
            rows.append(Row(name, stage, COMPUTE, (), False, chunk, micro_batch))
            if sends:
                place[f"send_{name}", stage, chunk, micro_batch] = len(rows)
                after = (len(rows) - 1,)
                rows.append(Row(f"send_{name}", stage, PIPE, after, False, chunk, micro_batch))
            done[chunk] += name == "backward"
            if reduces and done[chunk] == micro_batches:
                done[chunk] = -1
                reduced.append(len(rows))
                after = (place["backward", stage, chunk, micro_batch],)
                rows.append(Row("grad_reduce", stage, DATA, after, True, chunk))
        if reduces:
            rows.append(Row("optimizer", stage, COMPUTE, tuple(reduced)))
    for (name, stage, chunk, micro_batch), row in place.items():
        before = _source(name, stage, chunk, stages, chunks)
        if before is not None:
            source = f"send_{before[0]}" if sends and before[0] == name else before[0]
            rows[row].after = (place[source, before[1], before[2], micro_batch],)
    return build_program(rows, replicas)


def _source(
    name: str, stage: int, chunk: int, stages: int, chunks: int
) -> tuple[str, int, int] | None:
    """The pass, stage and chunk that a pass gets its input from."""
    if name == "forward":
        if stage > 0:
            return name, stage - 1, chunk
        return (name, stages - 1, chunk - 1) if chunk > 0 else None
    if name == "backward":
        if stage < stages - 1:
            return name, stage + 1, chunk
        return (name, 0, chunk + 1) if chunk < chunks - 1 else ("forward", stage, chunk)
    return None

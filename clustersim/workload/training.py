"""The program of one training step: pipeline passes, transfers, gradient reduction, optimizer.

A step on each pipeline rank: host work; gather of parameters that the last step updated (ZeRO-1
with overlap); passes in the order of the schedule, each followed by its transfer; reduction of
gradients over the replicas; gradient norm; optimizer; gather of parameters (ZeRO-1 without
overlap). Without overlap a transfer or a collective sits on the compute stream of its rank, with
overlap on a stream of its own.

Where reduction or gather overlap, the last backward (first forward) pass of a chunk is cut into
pieces of whole layers, and each piece has its own collective, like the gradient buckets of
Megatron-LM and PyTorch DDP.

Left out: the receiver's half of a synchronous transfer is waiting, not work; broadcast of input
tokens over the tensor-parallel group.
"""

from __future__ import annotations

import math

import numpy as np

from clustersim.parallel.layers import Layers, split_layers
from clustersim.parallel.schedule import StageOrder, stage_order
from clustersim.parallel.shape import RankShape, rank_shape
from clustersim.parallel.shards import chunk_parameters
from clustersim.spec.datatypes import ELEMENT_BYTES
from clustersim.spec.scenario import Scenario
from clustersim.workload import ends
from clustersim.workload.builder import Ints, ProgramBuilder
from clustersim.workload.layer import Segments, layer_backward, layer_forward
from clustersim.workload.operators import Category, Collective, Segment
from clustersim.workload.program import COMPUTE, DATA, PIPE, Program

# Parameters of one gradient bucket, Megatron-LM's documented default: 40 million, or one million a
# replica where that is more. A chunk is cut into no more pieces than this: assumed, it
# bounds the size of the program, and finer pieces only move the first bucket forward.
BUCKET_PARAMETERS = 40e6
BUCKET_PARAMETERS_A_REPLICA = 1e6
MOST_PIECES = 8


def repeat(segments: Segments, times: int) -> Segments:
    """The same segments, for `times` layers.

    Parameters
    ----------
    segments : tuple of Segment
    times : int
        At least 0.

    Returns
    -------
    tuple of Segment
        As many as given, each with its `repeat` multiplied; none for 0.
    """
    if times == 0:
        return ()
    return tuple(
        Segment(s.kernels, s.collectives, s.overlap, s.pieces, s.repeat * times) for s in segments
    )


class _Step:
    """Builds the program of one step, stage by stage; rows of other stages are tied at the end."""

    def __init__(self, scenario: Scenario):
        self.scenario = scenario
        self.features = scenario.software.features
        self.shape: RankShape = rank_shape(scenario)
        kind = scenario.training.recompute.kind
        self.forward = layer_forward(self.shape)
        self.backward = layer_backward(self.shape, "none" if kind == "full" else kind)
        self.backward_whole = layer_backward(self.shape, "full") if kind == "full" else ()
        self.repeated: dict[tuple[int, int], Segments] = {}
        self.layers: Layers = split_layers(scenario)
        self.parameters = chunk_parameters(scenario, self.layers)
        self.replicas = scenario.data_parallel
        self.zero = scenario.parallelism.zero_stage if self.replicas > 1 else 0
        self.shards = scenario.parallelism.optimizer_shard_group or self.replicas
        self.build = ProgramBuilder()
        self.stages, self.chunks = self.layers.stages, self.layers.chunks
        size = (self.stages, self.chunks, scenario.micro_batches)
        self.first_row = np.full((2, *size), -1, dtype=np.int64)  # first row of each pass
        self.last_row = np.full((2, *size), -1, dtype=np.int64)  # its transfer, or itself
        self.reduced: list[list[int]] = [[] for _ in range(self.stages)]
        self.norm_rows: list[int] = []

    # ------------------------------------------------------------ templates

    def pass_segments(
        self, backward: bool, stage: int, chunk: int, first: int, count: int
    ) -> Segments:
        """Segments of `count` layers of a chunk from layer `first`, with the model's ends.

        Recomputed layers come first in a chunk.
        """
        total = int(self.layers.count[stage, chunk])
        starts, stops = first == 0, first + count == total
        embeds = stage == 0 and chunk == 0 and starts
        heads = stage == self.stages - 1 and chunk == self.chunks - 1 and stops
        if not backward:
            head = ends.head_forward(self.shape) if heads else ()
            front = ends.embedding_forward(self.shape) if embeds else ()
            return (*front, *self.repeat(self.forward, count), *head)
        whole = max(0, min(count, int(self.layers.recomputed[stage, chunk]) - first))
        front = ends.head_backward(self.shape) if heads else ()
        back = ends.embedding_backward(self.shape) if embeds else ()
        return (
            *front,
            *self.repeat(self.backward, count - whole),
            *self.repeat(self.backward_whole, whole),
            *back,
        )

    def repeat(self, layer: Segments, times: int) -> Segments:
        """Segments of `times` layers, the same objects each time, so that they are priced once."""
        key = (id(layer), times)
        if key not in self.repeated:
            self.repeated[key] = repeat(layer, times)
        return self.repeated[key]

    def pieces(self, stage: int, chunk: int) -> list[tuple[int, int]]:
        """Runs of whole layers of a chunk that share a gradient bucket: (first, count)."""
        layers = int(self.layers.count[stage, chunk])
        bucket = max(BUCKET_PARAMETERS, BUCKET_PARAMETERS_A_REPLICA * self.replicas)
        buckets = math.ceil(float(self.parameters[stage, chunk]) / bucket)
        number = max(1, min(layers, buckets, MOST_PIECES))
        edges = [round(i * layers / number) for i in range(number + 1)]
        return [(edges[i], edges[i + 1] - edges[i]) for i in range(number)]

    def share(self, stage: int, chunk: int, count: int) -> float:
        """Parameters of `count` layers of a chunk; ends are spread evenly."""
        layers = max(1, int(self.layers.count[stage, chunk]))
        whole = 1.0 if int(self.layers.count[stage, chunk]) == 0 else count / layers
        return float(self.parameters[stage, chunk]) * whole

    # ------------------------------------------------------------ one stage

    def add_stage(self, stage: int) -> None:
        """All rows of one stage, in the order of its streams."""
        build, s = self.build, self.scenario
        build.row(build.template("host", stage, (), Category.HOST), COMPUTE)
        gathers = self._gather_ahead(stage)
        order = stage_order(
            s.parallelism.schedule, stage, self.stages, self.chunks, s.micro_batches
        )
        self._add_passes(stage, order, gathers)
        if not self.features.dp_overlap_reduce:
            self._reduce(stage, float(self.parameters[stage].sum()), -1, ())

    def _gather_ahead(self, stage: int) -> dict[int, list[int]]:
        """Rows that gather the parameters of each chunk before its first forward pass."""
        rows: dict[int, list[int]] = {chunk: [] for chunk in range(self.chunks)}
        if self.zero == 0 or not self.features.dp_overlap_gather:
            return rows
        for chunk in range(self.chunks):
            for _, count in self.pieces(stage, chunk):
                rows[chunk].append(self._gather(stage, self.share(stage, chunk, count), chunk))
        return rows

    def _add_passes(self, stage: int, order: StageOrder, gathers: dict[int, list[int]]) -> None:
        """Passes in order, each with its transfer; those with pieces one by one, others at once."""
        last = self.scenario.micro_batches - 1
        last_backward = last if self.scenario.parallelism.schedule != "gpipe" else 0
        chunks = range(self.chunks)
        whole = np.array([[self._whole(bool(b), stage, c) for c in chunks] for b in (0, 1)])
        sends = np.array([[self._send_template(bool(b), stage, c) for c in chunks] for b in (0, 1)])
        split = np.zeros((2, self.chunks), dtype=np.bool_)
        split[0] = [bool(gathers[chunk]) for chunk in chunks]
        split[1] = self.features.dp_overlap_reduce and self.replicas > 1
        passes = np.stack([order.backward.astype(np.int64), order.chunk, order.micro_batch])
        cut_batch = np.where(order.backward, last_backward, 0)
        in_pieces = split[passes[0], passes[1]] & (order.micro_batch == cut_batch)
        begin = 0
        for at in np.flatnonzero(in_pieces).tolist():
            self._add_whole_passes(stage, passes[:, begin:at], whole, sends)
            backward, chunk, batch = passes[:, at].tolist()
            if backward:
                first, row = self._split_backward(stage, chunk, batch)
            else:
                first, row = self._split_forward(stage, chunk, gathers[chunk])
            self.first_row[backward, stage, chunk, batch] = first
            self.last_row[backward, stage, chunk, batch] = self._send(
                int(sends[backward, chunk]), row, batch
            )
            begin = at + 1
        self._add_whole_passes(stage, passes[:, begin:], whole, sends)

    def _send(self, template: int, row: int, batch: int) -> int:
        """The transfer of a pass that ends with `row`, or `row` itself where nothing is sent."""
        if template < 0:
            return row
        overlapped = self.features.pp_overlap
        kind, after = (PIPE, (row,)) if overlapped else (COMPUTE, ())
        return self.build.row(template, kind, after, batch)

    def _add_whole_passes(self, stage: int, passes: Ints, whole: Ints, sends: Ints) -> None:
        """Passes of one op and its transfer.

        Parameters
        ----------
        stage : int
        passes : ndarray of int64 (3, passes)
            Backward (0 or 1), chunk and micro-batch of each.
        whole, sends : ndarray of int64 (2, chunks)
            Templates of the passes and of their transfers, -1 where nothing is sent.
        """
        backward, chunk, batch = passes
        send = sends[backward, chunk]
        sent = send >= 0
        width = 1 + sent
        last = np.cumsum(width) - 1  # of each pass, from the first row added here
        template = np.repeat(whole[backward, chunk], width)
        template[last[sent]] = send[sent]
        kind = np.full(template.size, COMPUTE)
        first, last = last - sent + self.build.ops, last + self.build.ops
        if self.features.pp_overlap:
            kind[last[sent] - self.build.ops] = PIPE
            self.build.wait_each(last[sent], first[sent])
        self.build.rows(template, kind, np.repeat(batch, width))
        self.first_row[backward, stage, chunk, batch] = first
        self.last_row[backward, stage, chunk, batch] = last

    def _whole(self, backward: bool, stage: int, chunk: int) -> int:
        segments = self.pass_segments(
            backward, stage, chunk, 0, int(self.layers.count[stage, chunk])
        )
        name = "backward" if backward else "forward"
        return self.build.template(name, stage, segments, Category.MATMUL, chunk)

    def _split_forward(self, stage: int, chunk: int, gathers: list[int]) -> tuple[int, int]:
        rows = []
        for (first, count), gather in zip(self.pieces(stage, chunk), gathers, strict=True):
            segments = self.pass_segments(False, stage, chunk, first, count)
            template = self.build.template("forward", stage, segments, Category.MATMUL, chunk)
            rows.append(self.build.row(template, COMPUTE, (gather,), 0))
        return rows[0], rows[-1]

    def _split_backward(self, stage: int, chunk: int, batch: int) -> tuple[int, int]:
        rows = []
        for first, count in reversed(self.pieces(stage, chunk)):
            segments = self.pass_segments(True, stage, chunk, first, count)
            template = self.build.template("backward", stage, segments, Category.MATMUL, chunk)
            rows.append(self.build.row(template, COMPUTE, (), batch))
            self._reduce(stage, self.share(stage, chunk, count), chunk, (rows[-1],))
        return rows[0], rows[-1]

    # ------------------------------------------------------------ transfers and collectives

    def _send_template(self, backward: bool, stage: int, chunk: int) -> int:
        """Transfer that follows a pass; -1 at the ends of the model and without a pipeline."""
        position = chunk * self.stages + stage
        at_end = position == 0 if backward else position == self.stages * self.chunks - 1
        if self.stages == 1 or at_end:
            return -1
        edge = (stage - 1) % self.stages if backward else stage
        size, segments = self.shape.hidden_bytes, []
        tp, scattered = self.shape.tensor_parallel, self.features.pp_scatter_gather
        if self.shape.sequence_parallel or scattered:
            size /= tp
        message = Collective(
            "stage_transfer", "send_recv", f"pp{edge}", size, self.shape.dtype, Category.PP_COMM
        )
        segments.append(Segment(collectives=(message,)))
        if scattered and not self.shape.sequence_parallel and tp > 1:
            gather = Collective(
                "gather_transfer",
                "all_gather",
                "tp",
                self.shape.hidden_bytes,
                self.shape.dtype,
                Category.PP_COMM,
            )
            segments.append(Segment(collectives=(gather,)))
        return self.build.template(
            "send_backward" if backward else "send_forward",
            stage,
            segments,
            Category.PP_COMM,
            chunk,
            overlapped=self.features.pp_overlap,
        )

    def _collective(self, name: str, kind: str, group: str, size: float, dtype: str) -> Segment:
        return Segment(collectives=(Collective(name, kind, group, size, dtype, Category.DP_COMM),))

    def _reduce(self, stage: int, parameters: float, chunk: int, after: tuple[int, ...]) -> None:
        """Sum of gradients over the replicas, scattered where their owners are scattered."""
        if self.replicas == 1:
            return
        dtype = self.scenario.training.comm_dtype
        scattered = self.zero == 1 and self.shards == self.replicas
        kind = "reduce_scatter" if scattered else "all_reduce"
        size = parameters * ELEMENT_BYTES[dtype]
        segment = self._collective("gradient_reduction", kind, "dp", size, dtype)
        overlapped = bool(after)
        template = self.build.template(
            "grad_reduce", stage, (segment,), Category.DP_COMM, chunk, overlapped
        )
        stream = DATA if overlapped else COMPUTE
        self.reduced[stage].append(self.build.row(template, stream, after, rendezvous=True))

    def _gather(self, stage: int, parameters: float, chunk: int) -> int:
        """Updated 16-bit parameters from their owners to every replica."""
        dtype, overlapped = self.scenario.training.dtype, chunk >= 0
        size = parameters * ELEMENT_BYTES[dtype]
        group = "dp" if self.shards == self.replicas else "shard"
        segments: Segments = (
            self._collective("parameter_gather", "all_gather", group, size, dtype),
        )
        if self.features.owner_broadcast:  # each owner sends its share of the stage, once a step
            share = parameters / float(self.parameters[stage].sum())
            owners = max(1, round(self.shards * share))
            piece = self._collective("broadcast", "broadcast", group, size / owners, dtype)
            segments = repeat((piece,), owners)
        template = self.build.template(
            "param_gather", stage, segments, Category.DP_COMM, chunk, overlapped
        )
        return self.build.row(template, DATA if overlapped else COMPUTE, rendezvous=True)

    # ------------------------------------------------------------ the end of the step

    def add_updates(self) -> None:
        """Embedding gradients, gradient norm, optimizer and parameter gather on every stage."""
        tied = self._sync_embeddings()
        everything = tuple(row for rows in self.reduced for row in rows)
        for stage in range(self.stages):
            final = self._last_backward(stage)
            after = everything + tied + (() if everything else final)
            norm = self.build.template("gradient_norm", stage, self._norm(), Category.OPTIMIZER)
            self.norm_rows.append(
                self.build.row(norm, COMPUTE, after, rendezvous=self.replicas > 1)
            )
        if not everything and self.stages > 1:
            finals = tuple(r for stage in range(self.stages) for r in self._last_backward(stage))
            for row in self.norm_rows:
                self.build.wait(row, finals)
        for stage in range(self.stages):
            held = float(self.parameters[stage].sum())
            owned = held / self.shards if self.zero else held
            kernels = ends.optimizer_kernels(self.shape, owned, held, self.replicas > 1)
            template = self.build.template(
                "optimizer", stage, (Segment(kernels=kernels),), Category.OPTIMIZER
            )
            self.build.row(template, COMPUTE)
            if self.zero and not self.features.dp_overlap_gather:
                self._gather(stage, held, -1)

    def _last_backward(self, stage: int) -> tuple[int, ...]:
        return (int(self.last_row[1, stage].max()),)

    def _sync_embeddings(self) -> tuple[int, ...]:
        """Tied tables on the first and last stage add up their gradients."""
        if self.stages == 1 or not self.scenario.model.tied_embeddings:
            return ()
        table = float(self.shape.vocab) * self.shape.model.hidden * self.shape.grad_bytes
        message = Collective(
            "tied_embedding",
            "all_reduce",
            "embedding",
            table,
            self.scenario.training.grad_dtype,
            Category.DP_COMM,
        )
        template = self.build.template(
            "embedding_sync", 0, (Segment(collectives=(message,)),), Category.DP_COMM
        )
        after = self._last_backward(0) + self._last_backward(self.stages - 1)
        after += tuple(self.reduced[0] + self.reduced[-1])
        return (self.build.row(template, COMPUTE, after),)

    def _norm(self) -> Segments:
        """One number over all ranks; fp16 asks all ranks for overflow as well."""
        if self.scenario.gpus == 1:
            return ()
        number = Collective("norm", "all_reduce", "world", 4.0, "fp32", Category.OPTIMIZER)
        messages = (number,) * (2 if self.shape.dtype == "fp16" else 1)
        return (Segment(collectives=messages),)

    def tie_passes(self) -> None:
        """A pass waits for the transfer of the pass before it in model order."""
        stages, chunks = self.stages, self.chunks
        for position in range(stages * chunks):
            chunk, stage = divmod(position, stages)
            for backward in (0, 1):
                other = position + 1 if backward else position - 1
                if stages == 1 or not 0 <= other < stages * chunks:
                    continue
                before = self.last_row[backward, other % stages, other // stages]
                self.build.wait_each(self.first_row[backward, stage, chunk], before)


def build_training_program(scenario: Scenario) -> Program:
    """Compile one training step.

    Parameters
    ----------
    scenario : Scenario

    Returns
    -------
    Program
        Rows of one replica; see `clustersim.workload.program`.

    Raises
    ------
    PlacementError
        If layers or micro-batches do not divide as the schedule needs.
    """
    step = _Step(scenario)
    for stage in range(step.stages):
        step.add_stage(stage)
    step.tie_passes()
    step.add_updates()
    return step.build.build(step.replicas, step.stages, step.chunks, scenario.micro_batches)

"""Rows of a program, collected stream by stream and turned into columns at the end."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from clustersim.workload.operators import Category, Segment
from clustersim.workload.program import STREAMS, OpTemplate, Program

Ints = NDArray[np.int64]


class ProgramBuilder:
    """Collects templates and rows; a row's number is known as soon as it is added."""

    def __init__(self) -> None:
        self.templates: list[OpTemplate] = []
        self._template: list[int] = []
        self._kind: list[int] = []
        self._micro_batch: list[int] = []
        self._meets: list[int] = []  # rows with rendezvous
        self._waiter: list[int] = []  # this row waits for ...
        self._waited: list[int] = []  # ... that one

    @property
    def ops(self) -> int:
        """Rows so far, the number of the next one."""
        return len(self._template)

    def template(
        self,
        name: str,
        stage: int,
        segments: Iterable[Segment],
        category: Category,
        chunk: int = -1,
        overlapped: bool = False,
    ) -> int:
        """Add a template; returns its number."""
        self.templates.append(OpTemplate(name, stage, chunk, tuple(segments), category, overlapped))
        return len(self.templates) - 1

    def row(
        self,
        template: int,
        kind: int,
        after: tuple[int, ...] = (),
        micro_batch: int = -1,
        rendezvous: bool = False,
    ) -> int:
        """Add one op at the end of its stage's stream of that kind; returns its row."""
        row = self.ops
        self._template.append(template)
        self._kind.append(kind)
        self._micro_batch.append(micro_batch)
        if rendezvous:
            self._meets.append(row)
        self.wait(row, after)
        return row

    def rows(self, template: Ints, kind: Ints, micro_batch: Ints) -> None:
        """Add many ops that wait for nothing but their streams, so far, all of shape (rows,)."""
        self._template += template.tolist()
        self._kind += kind.tolist()
        self._micro_batch += micro_batch.tolist()

    def wait(self, row: int, after: tuple[int, ...]) -> None:
        """Let a row wait for others; they may be added later."""
        self._waiter += (row,) * len(after)
        self._waited += after

    def wait_each(self, rows: Ints, others: Ints) -> None:
        """Let each row wait for the one at its place in `others`, both of shape (rows,)."""
        self._waiter += rows.tolist()
        self._waited += others.tolist()

    def build(self, replicas: int, stages: int, chunks: int, micro_batches: int) -> Program:
        """Turn the rows into columns."""
        template = np.array(self._template, dtype=np.int32)
        stage = np.array([item.stage for item in self.templates], dtype=np.int32)[template]
        chunk = np.array([item.chunk for item in self.templates], dtype=np.int32)[template]
        rendezvous = np.zeros(self.ops, dtype=np.bool_)
        rendezvous[self._meets] = True
        waiter = np.array(self._waiter, dtype=np.int64)
        dep = np.array(self._waited, dtype=np.int32)[np.argsort(waiter, kind="stable")]
        dep_start = np.zeros(self.ops + 1, dtype=np.int64)
        np.cumsum(np.bincount(waiter, minlength=self.ops), out=dep_start[1:])
        return Program(
            templates=tuple(self.templates),
            template=template,
            stage=stage,
            chunk=chunk,
            micro_batch=np.array(self._micro_batch, dtype=np.int32),
            stream=stage * len(STREAMS) + np.array(self._kind, dtype=np.int32),
            dep_start=dep_start,
            dep=dep,
            rendezvous=rendezvous,
            replicas=replicas,
            stages=stages,
            chunks=chunks,
            micro_batches=micro_batches,
        )

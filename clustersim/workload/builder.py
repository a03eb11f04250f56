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
        """Add a template.

        Parameters
        ----------
        name : str
            Of the op, such as "forward".
        stage : int
        segments : iterable of Segment
            What it executes; empty for ops of the host alone.
        category : Category
        chunk : int
            -1 where there is none.
        overlapped : bool
            Whether it runs on a communication stream beside compute.

        Returns
        -------
        int
            Its number, from 0.
        """
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
        """Add one op at the end of its stage's stream of that kind.

        Parameters
        ----------
        template : int
            Sets the stage and the chunk.
        kind : int
            COMPUTE, PIPE or DATA.
        after : tuple of int
            Rows it waits for besides its stream.
        micro_batch : int
            -1 where there is none.
        rendezvous : bool
            Whether all replicas meet for it.

        Returns
        -------
        int
            Its row, from 0.
        """
        row = self.ops
        self._template.append(template)
        self._kind.append(kind)
        self._micro_batch.append(micro_batch)
        if rendezvous:
            self._meets.append(row)
        self.wait(row, after)
        return row

    def rows(self, template: Ints, kind: Ints, micro_batch: Ints) -> None:
        """Add many ops that wait for nothing but their streams, so far.

        Parameters
        ----------
        template, kind, micro_batch : ndarray of int64 (rows,)
            As for `row`; the first one gets row `ops`.
        """
        self._template += template.tolist()
        self._kind += kind.tolist()
        self._micro_batch += micro_batch.tolist()

    def wait(self, row: int, after: tuple[int, ...]) -> None:
        """Let a row wait for others; they may be added later.

        Parameters
        ----------
        row : int
        after : tuple of int
            Rows it waits for besides its stream.
        """
        self._waiter += (row,) * len(after)
        self._waited += after

    def wait_each(self, rows: Ints, others: Ints) -> None:
        """Let each row wait for one other row.

        Parameters
        ----------
        rows, others : ndarray of int64 (rows,)
            Each row waits for the one at its place in `others`.
        """
        self._waiter += rows.tolist()
        self._waited += others.tolist()

    def build(self, replicas: int, stages: int, chunks: int, micro_batches: int) -> Program:
        """Turn the rows into columns.

        Parameters
        ----------
        replicas, stages, chunks, micro_batches : int
            Written into the program as they are.

        Returns
        -------
        Program
            Dependencies of a row are in the order in which they were told; their rows are not
            checked here.
        """
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

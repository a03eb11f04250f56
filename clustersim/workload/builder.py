"""Rows of a program, collected stream by stream and turned into columns at the end."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from clustersim.workload.operators import Category, Segment
from clustersim.workload.program import OpTemplate, Program


class ProgramBuilder:
    """Collects templates and rows; a row's number is known as soon as it is added."""

    def __init__(self) -> None:
        self.templates: list[OpTemplate] = []
        self._template: list[int] = []
        self._chunk: list[int] = []
        self._micro_batch: list[int] = []
        self._stream: list[int] = []
        self._after: list[tuple[int, ...]] = []
        self._rendezvous: list[bool] = []

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
        stage = self.templates[template].stage
        self._template.append(template)
        self._chunk.append(self.templates[template].chunk)
        self._micro_batch.append(micro_batch)
        self._stream.append(stage * 3 + kind)
        self._after.append(after)
        self._rendezvous.append(rendezvous)
        return len(self._template) - 1

    def wait(self, row: int, after: tuple[int, ...]) -> None:
        """Let a row wait for rows that were added later."""
        self._after[row] = self._after[row] + after

    def build(self, replicas: int, stages: int, chunks: int, micro_batches: int) -> Program:
        """Turn the rows into columns."""
        lengths = np.fromiter((len(after) for after in self._after), np.int64, len(self._after))
        dep = np.fromiter(
            (row for after in self._after for row in after), np.int32, int(lengths.sum())
        )
        stream = np.asarray(self._stream, dtype=np.int32)
        return Program(
            templates=tuple(self.templates),
            template=np.asarray(self._template, dtype=np.int32),
            stage=(stream // 3).astype(np.int32),
            chunk=np.asarray(self._chunk, dtype=np.int32),
            micro_batch=np.asarray(self._micro_batch, dtype=np.int32),
            stream=stream,
            dep_start=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            dep=dep,
            rendezvous=np.asarray(self._rendezvous, dtype=np.bool_),
            replicas=replicas,
            stages=stages,
            chunks=chunks,
            micro_batches=micro_batches,
        )

"""What cross checks find: problems that stop a run, and warnings that do not, with their places."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from clustersim.errors import Problem
from clustersim.spec.documents import Document, Mark, Path_


@dataclass(frozen=True)
class Checked:
    """What cross checks found: `problems` stop a run, `warnings` do not."""

    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One finding and the fields whose values led to it."""

    problem: Problem
    is_warning: bool
    involves: frozenset[Path_]


def checked(findings: Iterable[Finding]) -> Checked:
    """Problems and warnings apart, each in the order it was found.

    Parameters
    ----------
    findings : iterable of Finding
        Read once.

    Returns
    -------
    Checked
        Without the fields that each finding rests on.
    """
    found = list(findings)
    return Checked(
        tuple(finding.problem for finding in found if not finding.is_warning),
        tuple(finding.problem for finding in found if finding.is_warning),
    )


@dataclass
class Report:
    """Collects findings and writes values with their places."""

    document: Document | None
    findings: list[Finding] = field(default_factory=list, kw_only=True)

    def error(self, path: str, message: str, fix: str, *others: str) -> None:
        self._add(path, message, fix, others, is_warning=False)

    def warn(self, path: str, message: str, fix: str, *others: str) -> None:
        self._add(path, message, fix, others, is_warning=True)

    def _add(
        self, path: str, message: str, fix: str, others: tuple[str, ...], *, is_warning: bool
    ) -> None:
        problem = self._mark(path).problem(message, fix, path)
        involves = frozenset(_split(name) for name in (path, *others))
        self.findings.append(Finding(problem, is_warning, involves))

    def is_wrong(self, *paths: str) -> bool:
        """Say whether one of the fields already has an error of its own."""
        wrong = {finding.problem.field for finding in self.findings if not finding.is_warning}
        return not wrong.isdisjoint(paths)

    def _mark(self, path: str) -> Mark:
        return self.document.mark(_split(path)) if self.document else Mark("")

    def said(self, path: str, value: object, beside: str) -> str:
        """Write ``name (value, line 9)``.

        Parameters
        ----------
        path : str
            Dotted name of the field that is told; its last word is shown.
        value : object
            Its value, as text will show it.
        beside : str
            Field that the message stands at: the file is named only where it is another one.

        Returns
        -------
        str
            Without a place where no file states the value.
        """
        name = path.rpartition(".")[2]
        here, there = self._mark(beside), self._mark(path)
        if self.document is None or self.document.marks.get(_split(path)) is None:
            return f"{name} ({value})"
        place = f"line {there.line}" if here.file == there.file else f"{there.file}:{there.line}"
        return f"{name} ({value}, {place if there.line else there.file})"


def _split(path: str) -> Path_:
    return tuple(path.split("."))

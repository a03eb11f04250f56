"""Published cases through the simulator: one entry a measured quantity, and their summary.

The simulator is given as a `Predictor`, so that this module knows scenarios and numbers only. A
case that cannot be compared is an entry with a reason; nothing is dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from clustersim.errors import ClusterSimError
from clustersim.spec.scenario import Scenario
from clustersim.validate import formulas, memory
from clustersim.validate.capabilities import NotComparableError
from clustersim.validate.cases import Case, CaseFile, read_case_file
from clustersim.validate.entries import Entry, Fit, Outcome
from clustersim.validate.pool import in_processes
from clustersim.validate.rules import Catalogue, Conversion, convert, shipped_catalogue
from clustersim.validate.series import series_report
from clustersim.validate.serving_runner import run_serving
from clustersim.validate.summary import rank_correlations, summarise

FITS_FRACTION = 0.92  # of device memory (rules 6 and 9)
DOUBLING_TOLERANCE = 0.05  # rule 6
LAYER_METRICS = {
    "layer_forward_ms": ("layer_forward_s", 0),
    "layer_backward_ms": ("layer_backward_s", 1),
}


class Predictor(Protocol):
    """What is asked of the simulator; it must be picklable to run cases in parallel."""

    def step_time_s(self, scenario: Scenario) -> float:
        """Time of one optimizer step.

        Parameters
        ----------
        scenario : Scenario

        Returns
        -------
        float
            Positive. [s]
        """

    def memory_bytes(self, scenario: Scenario, stage: int | None = None) -> Mapping[str, float]:
        """Terms of memory of a GPU.

        Parameters
        ----------
        scenario : Scenario
        stage : int, optional
            Pipeline stage from 0; None is the fullest.

        Returns
        -------
        mapping
            By name, with their `total`; `memory.TERMS` has the prefixes that are understood.
            [bytes]
        """

    def layer_s(self, scenario: Scenario) -> tuple[float, float]:
        """Forward and backward time of one layer.

        Parameters
        ----------
        scenario : Scenario

        Returns
        -------
        tuple of float
            What is recomputed is in the second. [s]
        """


@dataclass(frozen=True)
class Report:
    """Everything that a validation run found."""

    entries: tuple[Entry, ...]
    fits: tuple[Fit, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every case is inside its tolerance or a known miss, and fits as expected."""
        missed = (entry for entry in self.entries if entry.outside_tolerance)
        inside = all(entry.known_miss for entry in missed)
        return inside and all(fit.predicted == fit.expected for fit in self.fits)

    @property
    def mended(self) -> list[str]:
        """Known misses of which every figure is inside its tolerance."""
        missed = {entry.id for entry in self.entries if entry.outside_tolerance}
        known = dict.fromkeys(entry.id for entry in self.entries if entry.known_miss)
        return [name for name in known if name not in missed]

    def document(self) -> dict[str, Any]:
        """The report as one JSON document (DESIGN, section 3), with a few more keys."""
        return {
            "cases": [entry.document() for entry in self.entries],
            "summary": summarise(self.entries),
            "spearman": rank_correlations(self.entries),
            "series": series_report(self.entries),
            "fits": [asdict(fit) for fit in self.fits],
        }


def validate_files(
    paths: Iterable[str | Path],
    predictor: Predictor,
    *,
    catalogue: Catalogue | None = None,
    jobs: int = 1,
    sample: float = 1.0,
) -> Report:
    """Run every case of the given files.

    Parameters
    ----------
    paths : iterable of path
        Files in any schema that `cases.read_case_file` knows.
    catalogue : Catalogue, optional
        Devices and the default fleet; the shipped ones where it is None.
    jobs : int
        Processes; the result does not depend on it.
    sample : float
        Share of the cases that is run, chosen by a hash of their ids: always the same ones.

    Raises
    ------
    SpecError
        If a file has none of the known schemas.
    """
    files = [sample_of(read_case_file(path), sample) for path in paths]
    return validate_cases(files, predictor, catalogue or shipped_catalogue(), jobs)


def sample_of(file: CaseFile, share: float) -> CaseFile:
    """A share of the cases of a file.

    Parameters
    ----------
    file : CaseFile
    share : float
        Of the cases and serving rows; from 1 on, all.

    Returns
    -------
    CaseFile
        A smaller share is part of a larger one, and the same each run.
    """
    if share >= 1.0:
        return file
    cases = tuple(case for case in file.cases if in_sample(case.id, share))
    return replace(
        file, cases=cases, serving=tuple(row for row in file.serving if in_sample(row.id, share))
    )


def in_sample(name: str, share: float) -> bool:
    """Whether the hash of a name falls into the first `share` of all hashes.

    Parameters
    ----------
    name : str
        Id of a case.
    share : float
        0 takes none, 1 all.

    Returns
    -------
    bool
        By SHA-256, so that it is the same on every machine.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) < share * 2**48


def validate_cases(
    files: Sequence[CaseFile], predictor: Predictor, catalogue: Catalogue, jobs: int = 1
) -> Report:
    """Run every case of files already read.

    Parameters
    ----------
    files : sequence of CaseFile
    predictor : Predictor
        Asked of training cases only: serving rows are run by `run_serving`.
    catalogue : Catalogue
        Devices by name, and the default fleet.
    jobs : int
        Processes; the result does not depend on it.

    Returns
    -------
    Report
        Training cases in the order of the files, then serving rows.
    """
    cases = [case for file in files for case in file.cases]
    run: Callable[[Case], Outcome] = partial(run_case, predictor=predictor, catalogue=catalogue)
    outcomes = in_processes(run, cases, jobs)
    entries = [entry for outcome in outcomes for entry in outcome.entries]
    entries += run_serving([row for file in files for row in file.serving], jobs)
    fits = tuple(outcome.fit for outcome in outcomes if outcome.fit is not None)
    return Report(tuple(entries), fits)


def run_case(case: Case, predictor: Predictor, catalogue: Catalogue) -> Outcome:
    """Convert one row, predict each of its measured quantities, and compare.

    Parameters
    ----------
    case : Case
    predictor : Predictor
    catalogue : Catalogue
        Devices by name, and the default fleet.

    Returns
    -------
    Outcome
        At least one entry. Where the row cannot be converted, or a quantity not predicted, the
        entry is skipped and its reason is the first line of the error. `fit` is there only where
        the row is converted and says whether it should fit; where its memory is not predicted, a
        skipped entry stands for it.
    """
    try:
        conversion = convert(case, catalogue, partial(fits_in_memory, predictor=predictor))
    except ClusterSimError as error:
        return Outcome(tuple(_skip(entry, error) for entry in _open_entries(case)))
    entries = []
    for entry in _open_entries(case):
        entry = replace(entry, assumed=conversion.assumed, gpus=conversion.scenario.gpus)
        try:
            entries.append(_compare(entry, case, conversion, predictor))
        except ClusterSimError as error:
            entries.append(_skip(entry, error))
    try:
        fit = _fit(case, conversion.scenario, predictor)
    except ClusterSimError as error:
        fit = None
        entries.append(_skip(replace(entry, metric="memory_bytes", quantity="expect_fits"), error))
    return Outcome(tuple(entries), fit)


def fits_in_memory(scenario: Scenario, predictor: Predictor) -> bool:
    """Whether the tensors of the fullest stage fit in 0.92 of device memory.

    The rest is left to what a process needs beside its tensors.

    Parameters
    ----------
    scenario : Scenario
    predictor : Predictor
    """
    needed = memory.allocated_bytes(predictor.memory_bytes(scenario))
    return needed <= FITS_FRACTION * scenario.cluster.node.device.memory


def _open_entries(case: Case) -> list[Entry]:
    """One entry a measured quantity, not compared yet."""
    blank = Entry(
        id=case.id,
        source=case.source_name,
        device=case.device,
        status="open",
        reason=None,
        metric=None,
        inferred=case.inferred,
        evidence=case.evidence,
        tolerance=case.tolerance,
        known_miss=case.known_miss,
        gpus=case.gpus,
    )
    entries = []
    speed = formulas.speed_key(case) or formulas.bound_key(case)
    if speed:
        entries.append(replace(blank, metric="step_time_s", quantity=speed))
    for key, (metric, _) in LAYER_METRICS.items():
        if isinstance(case.measured.get(key), int | float):
            entries.append(replace(blank, metric=metric, quantity=key))
    for quantity in memory.memory_quantities(case):
        entries.append(replace(blank, metric="memory_bytes", quantity=quantity.key))
    if not entries:
        metric = "memory_bytes" if case.kind == "memory" else "step_time_s"
        printed = ", ".join(case.measured) or "nothing"
        entries.append(replace(blank, metric=metric, reason=f"only {printed} is printed"))
    return entries


def _skip(entry: Entry, error: ClusterSimError) -> Entry:
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return replace(entry, status="skipped", reason=first_line, micro_batches=None)


def _compare(entry: Entry, case: Case, conversion: Conversion, predictor: Predictor) -> Entry:
    if entry.reason:
        raise NotComparableError(entry.reason)
    if entry.metric == "step_time_s":
        return _compare_step(entry, case, conversion, predictor)
    if entry.metric == "memory_bytes":
        return _compare_memory(entry, case, conversion.scenario, predictor)
    key = entry.quantity or ""
    index = LAYER_METRICS[key][1]
    predicted = predictor.layer_s(conversion.scenario)[index]
    return _done(entry, predicted, float(case.measured[key]) / 1e3)


def _compare_step(entry: Entry, case: Case, conversion: Conversion, predictor: Predictor) -> Entry:
    if formulas.speed_key(case) is None:
        raise NotComparableError(f"rule 4: {entry.quantity} is only a bound")
    scenario = conversion.scenario
    batch = scenario.training.global_batch
    device = scenario.cluster.node.device
    peak = device.matrix_peak.get(scenario.training.dtype)
    measured = formulas.measured_step(case, batch, peak)
    predicted = predictor.step_time_s(scenario)
    if conversion.doubled is not None:
        _check_doubling(predicted, predictor.step_time_s(conversion.doubled))
    entry = replace(
        entry,
        derived_from=measured.derived_from,
        micro_batches=scenario.micro_batches,
        series=series_of(case, scenario),
    )
    return _with_mfu(_done(entry, predicted, measured.step_time_s), case, batch)


def _check_doubling(step_s: float, doubled_s: float) -> None:
    change = 2 * step_s / doubled_s - 1
    if abs(change) > DOUBLING_TOLERANCE:
        raise NotComparableError(
            f"rule 6: the global batch is not stated and matters: {change:+.1%} throughput "
            "with twice as many micro-batches"
        )


def _with_mfu(entry: Entry, case: Case, batch: int) -> Entry:
    """Predicted and printed MFU where the source prints one: their difference is in points."""
    printed = case.measured.get("mfu")
    if not isinstance(printed, int | float) or entry.predicted is None:
        return entry
    try:
        predicted = formulas.fraction_of_peak(case, batch, entry.predicted, "mfu")
    except NotComparableError:
        return entry
    if predicted is None:
        return entry
    share = printed / 100
    return replace(
        entry, mfu_predicted=predicted, mfu_printed=share, mfu_difference=predicted - share
    )


def _compare_memory(entry: Entry, case: Case, scenario: Scenario, predictor: Predictor) -> Entry:
    quantity = next(q for q in memory.memory_quantities(case) if q.key == entry.quantity)
    if quantity.kind == "variant":
        baseline = predictor.memory_bytes(scenario, 0)
        quantity = memory.as_bytes(quantity, memory.predicted_bytes("activations", baseline))
        other = predictor.memory_bytes(memory.variant_of(scenario, quantity.variant), 0)
        return _done(entry, memory.predicted_bytes("activations", other), quantity.value)
    first = memory.of_first_stage(quantity.kind)
    predicted = [
        memory.predicted_bytes(quantity.kind, predictor.memory_bytes(scenario, stage))
        for stage in range(1 if first else scenario.parallelism.pipeline_parallel)
    ]
    return _done(entry, max(predicted), quantity.value)


def _done(entry: Entry, predicted: float, measured: float) -> Entry:
    if measured <= 0:
        raise NotComparableError(f"{entry.quantity} is {measured}")
    return replace(
        entry,
        status="ok",
        predicted=predicted,
        measured=measured,
        error=predicted / measured - 1,
    )


def series_of(case: Case, scenario: Scenario) -> str:
    """Name of the series of runs that differ from this one only in data parallelism.

    Parameters
    ----------
    case : Case
        Gives the software.
    scenario : Scenario
        What it was converted to.

    Returns
    -------
    str
        Runs of other global batches are other series.
    """
    p, t, model = scenario.parallelism, scenario.training, scenario.model
    return (
        f"{case.stack or 'unnamed'}, {model.layers}x{model.hidden}, {model.attention_heads} heads, "
        f"tp{p.tensor_parallel} pp{p.pipeline_parallel} vpp{p.virtual_stages}, "
        f"micro-batch {t.micro_batch}, global batch {t.global_batch}, "
        f"recompute {t.recompute.kind}"
    )


def _fit(case: Case, scenario: Scenario, predictor: Predictor) -> Fit | None:
    if case.expect_fits is None:
        return None
    needed = memory.allocated_bytes(predictor.memory_bytes(scenario))
    limit = FITS_FRACTION * scenario.cluster.node.device.memory
    return Fit(case.id, case.expect_fits, needed <= limit, needed, limit)

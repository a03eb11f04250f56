"""From a name or a path to a complete, checked record; and back to text.

`load_scenario` and its siblings read a file, follow `extends` and references, apply overrides,
validate, and cross-check. Whatever is wrong is reported in one `SpecError` with the place of
every mistake.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from clustersim.errors import Problem, SpecError
from clustersim.spec.base import Record
from clustersim.spec.checks import check_scenario, find_conflicts
from clustersim.spec.device import Device
from clustersim.spec.documents import Document, Path_
from clustersim.spec.findings import Checked
from clustersim.spec.fleet import Fleet
from clustersim.spec.merge import load_tree
from clustersim.spec.model import Model
from clustersim.spec.names import list_names
from clustersim.spec.problems import rest_of, validate
from clustersim.spec.scenario import Scenario
from clustersim.spec.serving import ServingScenario
from clustersim.spec.serving_checks import check_serving
from clustersim.spec.serving_engine import ServingEngine
from clustersim.spec.software import Software
from clustersim.spec.topology import Topology

if TYPE_CHECKING:
    from clustersim.spec.link import Link
    from clustersim.spec.profile import Profile

Question = Scenario | ServingScenario

__all__ = [
    "Checked",
    "Question",
    "check_scenario",
    "dump_record",
    "dump_scenario",
    "files_named",
    "list_names",
    "load_checked_scenario",
    "load_device",
    "load_engine",
    "load_fleet",
    "load_link",
    "load_model",
    "load_profile",
    "load_scenario",
    "load_software",
    "load_topology",
]

FILES_OF_SERVING: tuple[Path_, ...] = (
    ("workload", "trace"),
    ("workload", "lengths", "file"),
    ("routing", "counts"),
)


def load_scenario(source: str | Path, overrides: Sequence[str] = ()) -> Question:
    """Load a scenario, of training or of serving as its `kind` says.

    Parameters
    ----------
    source : str or Path
        A path, or the name of a shipped scenario with or without `.yaml`.
    overrides : sequence of str
        Assignments ``a.b=c``, the right side in YAML; checked like the file itself.

    Returns
    -------
    Scenario or ServingScenario
        Complete, frozen, in SI units.

    Raises
    ------
    SpecError
        Holds every problem found, each with its place and a fix.
    """
    return load_checked_scenario(source, overrides)[0]


def load_checked_scenario(
    source: str | Path, overrides: Sequence[str] = ()
) -> tuple[Question, Checked]:
    """Load a scenario together with the warnings about it.

    Parameters
    ----------
    source : str or Path
        A path, or the name of a shipped scenario with or without `.yaml`.
    overrides : sequence of str
        Assignments ``a.b=c``, the right side in YAML; checked like the file itself.

    Returns
    -------
    scenario : Scenario or ServingScenario
        The record.
    checked : Checked
        Its `warnings`; it has no problems, since those raise.

    Raises
    ------
    SpecError
        Holds every problem found, those of the cross checks included as far as a wrong file lets
        them be judged.
    """
    document = load_tree("scenario", source, overrides)
    if _kind(document) == "serving":
        return _load_serving(document)
    try:
        scenario = validate(Scenario, document)
    except SpecError as error:
        raise SpecError([*error.problems, *_further_problems(document)]) from None
    checked = check_scenario(scenario, document)
    if checked.problems:
        raise SpecError(checked.problems)
    return scenario, checked


def _kind(document: Document) -> str:
    """The kind of a scenario; another is refused at once: no other field can be judged."""
    kind = document.get(("kind",))
    if kind not in (None, "training", "serving"):
        mark = document.mark(("kind",))
        fix = "write kind: training or kind: serving, or use the command for this file's kind"
        raise SpecError(mark.problem(f"{kind!r} is no kind of scenario", fix, "kind"))
    return kind or "training"


def _load_serving(document: Document) -> tuple[ServingScenario, Checked]:
    scenario = _with_defaults_of_device(validate(ServingScenario, document), document)
    checked = check_serving(scenario, document)
    if checked.problems:
        raise SpecError(checked.problems)
    return _with_files_found(scenario, document), checked


def _with_files_found(scenario: ServingScenario, document: Document) -> ServingScenario:
    """Make paths of files absolute, so that the record means the same in any folder.

    A path is looked for beside the file that states it, then in the working directory; one that is
    found nowhere stays as it is, and whoever reads it says so.
    """
    data = scenario.model_dump()
    for path in FILES_OF_SERVING:
        *outer, last = path
        holder: Any = data
        for key in outer:
            holder = holder[key] or {}
        if (name := holder.get(last)) is None:
            continue
        places = (Path(document.mark(path).folder), Path())
        found = (place / os.path.expanduser(name) for place in places)
        holder[last] = next((os.path.abspath(one) for one in found if _is_file(one)), name)
    return ServingScenario.model_validate(data)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a character that no name may have
        return False


def _further_problems(document: Document) -> list[Problem]:
    """Return what cross checks find in a document that is not valid, as far as they can tell.

    What depends on a value that the author did not mean is left out.
    """
    scenario, suspect = rest_of(Scenario, document)
    if scenario is None:
        return []
    found = find_conflicts(scenario, document)
    return [
        finding.problem
        for finding in found
        if not finding.is_warning and not _rests_on(finding.involves, suspect)
    ]


def _rests_on(involved: frozenset[Path_], suspect: frozenset[Path_]) -> bool:
    return any(
        path[: len(wrong)] == wrong or wrong[: len(path)] == path
        for path in involved
        for wrong in suspect
    )


def _with_defaults_of_device(scenario: ServingScenario, document: Document) -> ServingScenario:
    """Settle what an engine takes by the device's memory; what the scenario states stays."""
    engine, device = scenario.engine, scenario.cluster.node.device
    here = engine.on_device(device.name, device.memory)
    home = document.mark(("engine", "by_memory")).file
    stated = {
        field: getattr(engine, field)
        for field in ("token_budget", "max_sequences", "memory_fraction", "graph_sizes")
        if document.mark(("engine", field)).file != home
    }
    engine = here.model_copy(update=stated) if engine.by_memory else here
    return scenario.model_copy(update={"engine": engine})


def files_named(scenario: Question) -> list[Path]:
    """Files beside the scenario that its run reads: traces, lengths, counts of experts.

    Parameters
    ----------
    scenario : Scenario or ServingScenario
        As `load_scenario` gives it, so that the paths are absolute where the files were found.

    Returns
    -------
    list of Path
        They need not exist; none for a scenario of training.
    """
    if not isinstance(scenario, ServingScenario):
        return []
    lengths = scenario.workload.lengths
    names = (
        scenario.workload.trace,
        lengths.file if lengths is not None else None,
        scenario.routing.counts,
    )
    return [Path(name) for name in names if name is not None]


def load_topology(source: str | Path) -> Topology:
    """Load a cluster.

    Parameters
    ----------
    source : str or Path
        A path, or the name of a shipped topology with or without `.yaml`.

    Returns
    -------
    Topology
        Its device filled in, in SI units.

    Raises
    ------
    SpecError
        Holds every problem found, those of the device's own file included.
    """
    return validate(Topology, load_tree("topology", source))


def load_device(source: str | Path) -> Device:
    """Load an accelerator.

    Parameters
    ----------
    source : str or Path
        A path, or the name, the title or an alias of a shipped device. Case and punctuation of
        names do not matter.

    Returns
    -------
    Device
        Frozen, in SI units.

    Raises
    ------
    SpecError
        Holds every problem found; an unknown name comes with the nearest known one.
    """
    return validate(Device, load_tree("device", source))


def load_model(source: str | Path) -> Model:
    """Load a model.

    Parameters
    ----------
    source : str or Path
        A path, or the name of a shipped model with or without `.yaml`.

    Returns
    -------
    Model
        With what it `extends` filled in.

    Raises
    ------
    SpecError
        Holds every problem found, each with its place and a fix.
    """
    return validate(Model, load_tree("model", source))


def load_software(source: str | Path) -> Software:
    """Load a generation of training software.

    Parameters
    ----------
    source : str or Path
        A path, or the name of a shipped generation with or without `.yaml`.

    Returns
    -------
    Software
        With what it `extends` filled in.

    Raises
    ------
    SpecError
        Holds every problem found, each with its place and a fix.
    """
    return validate(Software, load_tree("software", source))


def load_engine(source: str | Path) -> ServingEngine:
    """Load a generation of a serving engine.

    Parameters
    ----------
    source : str or Path
        A path, or the name of a shipped engine with or without `.yaml`.

    Returns
    -------
    ServingEngine
        Defaults that depend on the memory of a device are still open: `ServingEngine.on_device`
        settles them.

    Raises
    ------
    SpecError
        Holds every problem found, each with its place and a fix.
    """
    return validate(ServingEngine, load_tree("engine", source))


def load_fleet(source: str | Path) -> Fleet:
    """Load a fleet.

    Parameters
    ----------
    source : str or Path
        A path, or the name of a shipped fleet with or without `.yaml`.

    Returns
    -------
    Fleet

    Raises
    ------
    SpecError
        Holds every problem found, each with its place and a fix.
    """
    return validate(Fleet, load_tree("fleet", source))


def load_link(source: str | Path) -> Link:
    """Load a kind of link.

    Parameters
    ----------
    source : str or Path
        A path, or the name of a shipped kind with or without `.yaml`.

    Returns
    -------
    Link
        Latencies in SI units, and shares of a nominal rate that the record does not hold.

    Raises
    ------
    SpecError
        Holds every problem found, each with its place and a fix.
    """
    from clustersim.spec.link import Link

    return validate(Link, load_tree("link", source))


def load_profile(source: str | Path) -> Profile:
    """Load a hardware profile.

    Parameters
    ----------
    source : str or Path
        A path, or the name of a shipped profile with or without `.yaml`. Profiles have no aliases,
        so `Device.profile` is the name to give.

    Returns
    -------
    Profile
        Frozen, in SI units.

    Raises
    ------
    SpecError
        Holds every problem found, each with its place and a fix.
    """
    from clustersim.spec.profile import Profile

    return validate(Profile, load_tree("profile", source))


def dump_record(record: Record) -> str:
    """Write a record as YAML that reads back to an equal record, and to the same text.

    Parameters
    ----------
    record : Record
        Any record of the format.

    Returns
    -------
    str
        Quantities with their units, references filled in; no line is broken, however long.
    """
    writer = YAML()
    writer.width = 2**16  # no line is broken, so that no text depends on how it is
    writer.allow_unicode = True
    stream = io.StringIO()
    writer.dump(record.model_dump(mode="json"), stream)
    return stream.getvalue()


def dump_scenario(scenario: Question) -> str:
    """Write a resolved scenario: complete, in one file, without references.

    Parameters
    ----------
    scenario : Scenario or ServingScenario
        A valid record.

    Returns
    -------
    str
        YAML. Loaded again it gives an equal record, dumped again the same bytes.
    """
    return dump_record(scenario)

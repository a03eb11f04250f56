"""The whole of a calibration: read, check, fit, and write what was found.

Nothing is written unless everything could be read; files appear whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clustersim.calibrate.links import LinkFit, fit_links
from clustersim.calibrate.profiles import (
    SectionFit,
    Start,
    fit_sections,
    new_profile,
    starting_profile,
    unit_ratios,
)
from clustersim.calibrate.tables import check_units, read_tables
from clustersim.errors import Problem, SpecError
from clustersim.spec.device import Device
from clustersim.spec.profile import Profile
from clustersim.spec.resolve import dump_record


@dataclass(frozen=True)
class Calibration:
    """What was fitted for one device.

    Attributes
    ----------
    profile : Profile or None
        Complete; None where no section was fitted.
    sections : tuple of SectionFit
    links : tuple of LinkFit
    skipped : tuple of (str, str)
        File and reason.
    """

    device: Device
    start: Start
    seed: int
    profile: Profile | None
    sections: tuple[SectionFit, ...]
    links: tuple[LinkFit, ...]
    skipped: tuple[tuple[str, str], ...]

    @property
    def fitted(self) -> bool:
        """Whether anything was."""
        return self.profile is not None or any(item.record for item in self.links)

    def document(self) -> dict[str, Any]:
        """The calibration as JSON; errors are fractions."""
        return {
            "calibration": {
                "device": self.device.name,
                "start": self.start.profile.name,
                "sibling": self.start.sibling,
                "seed": self.seed,
                "sections": [item.document() for item in self.sections],
                "links": [item.document() for item in self.links],
                "skipped": [{"file": file, "reason": reason} for file, reason in self.skipped],
            }
        }


def calibrate(
    paths: Iterable[Path], device: Device, seed: int = 0, name: str | None = None
) -> Calibration:
    """Fit the coefficients of a device to measurements.

    Parameters
    ----------
    paths : iterable of Path
        Parquet or CSV files of the measured schema, logs of nccl-tests, or folders of them.
    device : Device
        Rows of other devices are left aside.
    seed : int
        Draws subsamples and deals folds; the same seed gives the same numbers.
    name : str, optional
        Of the new profile; that of the device by default.

    Returns
    -------
    Calibration
        Nothing is written; its profile is None where no section had enough rows.

    Raises
    ------
    SpecError
        Holds every problem of every file.
    """
    tables = read_tables(paths, device)
    start = starting_profile(device)
    check_units(unit_ratios(tables, device, start.profile))
    sections = tuple(fit_sections(tables, device, start, seed))
    links = tuple(fit_links(tables, device, seed))
    profile = None
    if any(item.record is not None for item in sections):
        profile = new_profile(name or device.name, device, start, sections, seed)
    return Calibration(device, start, seed, profile, sections, links, tables.skipped)


def check_out(out: Path) -> None:
    """Refuse an output that cannot become a file.

    Parameters
    ----------
    out : Path
        File of the profile; it and its folder may be new.

    Raises
    ------
    SpecError
        It is a folder, or does not end in .yaml or .yml.
    """
    if out.is_dir():
        raise SpecError(Problem("is a folder", "name a file, such as profile.yaml", f"--out {out}"))
    if out.suffix not in (".yaml", ".yml"):
        fix = f"name it {out.name}.yaml, so that a device file can refer to it"
        raise SpecError(Problem("is not a YAML file", fix, f"--out {out}"))


def link_file(out: Path, link: str) -> Path:
    """File of a link beside that of the profile.

    Parameters
    ----------
    out : Path
        File of the profile.
    link : str
        Name of the link.

    Returns
    -------
    Path
        Of ``profile.yaml`` and nvlink4: ``profile.nvlink4.yaml``.
    """
    return out.with_name(f"{out.stem}.{link}{out.suffix}")


def write_calibration(out: Path, calibration: Calibration) -> list[Path]:
    """Write the profile and a file a link, all drafts before the first final name.

    Parameters
    ----------
    out : Path
        File of the profile; links lie beside it, as `link_file` says. Folders are made, files that
        were there are replaced.
    calibration : Calibration
        What was not fitted is not written.

    Returns
    -------
    list of Path
        What was written.
    """
    texts: dict[Path, str] = {}
    if calibration.profile is not None:
        texts[out] = dump_record(calibration.profile)
    for item in calibration.links:
        if item.record is not None:
            texts[link_file(out, item.link)] = dump_record(item.record)
    _write_all(texts)
    return list(texts)


def _write_all(texts: Mapping[Path, str]) -> None:
    drafts = {path: path.with_name(f".{path.name}.draft") for path in texts}
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            drafts[path].write_text(text, encoding="utf-8")
        for path, draft in drafts.items():
            draft.replace(path)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)

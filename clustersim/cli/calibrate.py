"""``clustersim calibrate``: measured data in, a profile with its pedigree out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clustersim.cli import console
from clustersim.cli.run import AsJson

if TYPE_CHECKING:
    from clustersim.calibrate.calibration import Calibration
    from clustersim.calibrate.links import LinkFit
    from clustersim.calibrate.profiles import SectionFit

COLUMNS = (
    *("section", "rows", "fitted to", "parameters"),
    *("before", "after", "held out", "largest tenth", "remark"),
)


def calibrate_command(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE", help="Parquet, CSV or nccl-tests output, or folders of them."
        ),
    ],
    device: Annotated[str, typer.Option(help="A device's name, or a file that describes it.")],
    out: Annotated[Path, typer.Option(help="Profile to write; links are written beside it.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of subsamples and folds.")] = 0,
    json: AsJson = False,
) -> None:
    """Fit a device's profile, and its links, to measured kernels and collectives."""
    with console.answering():
        from clustersim.analysis.export import check_folder
        from clustersim.calibrate.calibration import calibrate, check_out, write_calibration
        from clustersim.spec.resolve import load_device

        check_out(out)
        check_folder(out.parent, (out.name,), (*files, Path(device)))
        record = load_device(device)
        with console.progress(f"fitting {record.name}"):
            found = calibrate(files, record, seed=seed, name=out.stem)
        written = write_calibration(out, found) if found.fitted else []
        if json:
            document: dict[str, Any] = found.document()
            document["calibration"]["written"] = [str(path) for path in written]
            console.print_json(document)
        else:
            typer.echo(render(found))
        if not written:
            console.say("the answer is no: no section could be fitted; nothing is written")
            raise typer.Exit(console.NO)
        console.say(f"wrote {', '.join(map(str, written))}")
        if found.profile is None:
            console.say(f"no section of the profile could be fitted: {out} is not written")


def render(found: Calibration) -> str:
    """The fits as plain text.

    Parameters
    ----------
    found : Calibration

    Returns
    -------
    str
        Device and start, a line a fit with its errors before and after, and what was skipped with
        the reason; the tables that would be empty are left out.
    """
    from clustersim.validate.table import plain_table

    start = found.start
    note = ", the profile of another device" if start.sibling else ""
    lines = [f"{found.device.name}, from {start.profile.name}{note}; seed {found.seed}"]
    rows = [_cells(item.section, item) for item in found.sections]
    rows += [_cells(f"link {item.link}", item) for item in found.links]
    if rows:
        lines += ["", plain_table(COLUMNS, rows)]
    if found.skipped:
        lines += ["", plain_table(("skipped", "reason"), found.skipped)]
    return "\n".join(lines)


def _cells(title: str, item: SectionFit | LinkFit) -> tuple[str, ...]:
    from clustersim.validate.table import percent

    result = item.result
    start = getattr(item, "start", "")
    remark = f"kept: {item.reason}" if item.reason else f"from {start}" if start else ""
    return (
        title,
        f"{item.rows:,}",
        f"{item.used:,}",
        str(len(item.parameters)),
        percent(result.before if result else None),
        percent(result.in_sample if result else None),
        percent(result.held_out if result else None),
        percent(result.tenth_held_out if result else None),
        remark,
    )

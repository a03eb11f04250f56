"""The files of ``--out DIR``: tables, trace, answer and the resolved scenario.

Everything is written to a hidden folder inside the wanted one and then renamed, so that a reader
never sees half a file. Parquet files say in their metadata which classes of replicas they hold.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from clustersim.analysis.columns import MOST_ROWS, Run, program_frame, timeline_frame
from clustersim.analysis.trace import write_trace
from clustersim.errors import Problem, SpecError

FILES = (
    "result.json",
    "scenario.yaml",
    "program.parquet",
    "timeline.parquet",
    "trace.json.gz",
)


def check_folder(out: Path, names: Iterable[str] = (), inputs: Iterable[Path] = ()) -> None:
    """Refuse an output folder that cannot be written, before any work is done.

    Parameters
    ----------
    out : Path
        A folder; where it does not exist it is made for the trial and removed again.
    names : iterable of str
        Files that will be written in it.
    inputs : iterable of Path
        Files that must not be among them.

    Raises
    ------
    SpecError
    """
    try:
        _check_is_folder(out)
        for name in names:
            _check_file(out, name, inputs)
        made = [path for path in (out, *out.parents) if not path.exists()]
        try:
            out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=out):
                pass
        finally:
            for path in made:
                with suppress(OSError):
                    path.rmdir()
    except OSError as error:
        raise _unwritable(out, error) from None


def _check_is_folder(out: Path) -> None:
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            fix = "name a folder; it is made where it does not exist"
            raise SpecError(Problem(f"--out {out}: {path} is a file", fix))


def _check_file(out: Path, name: str, inputs: Iterable[Path]) -> None:
    """Refuse to replace an input, or a folder by a file."""
    path = out / name
    if path.is_dir():
        fix = "name another folder"
        raise SpecError(Problem(f"--out {out}: {path} is a folder, to be a file", fix))
    for file in inputs:
        if path.exists() and file.exists() and path.samefile(file):
            fix = f"name another folder, such as --out {out / 'out'}"
            message = f"--out {out}: {path} would replace {file}, which this run reads"
            raise SpecError(Problem(message, fix))


def _unwritable(out: Path, error: OSError) -> SpecError:
    """What to say of a folder that the system does not let us write."""
    number = error.errno
    reason = os.strerror(number) if number is not None else error.strerror or str(error)
    fix = "name a folder that you may write to, on a disk with room"
    return SpecError(Problem(f"--out {out}: cannot be written: {reason}", fix))


def write_run(
    out: Path,
    run: Run,
    document: Mapping[str, Any],
    scenario_yaml: str,
    most_rows: int = MOST_ROWS,
) -> tuple[Path, ...]:
    """Write all files of a run.

    Parameters
    ----------
    out : Path
        A folder; files of the same names in it are replaced, others stay.
    run : Run
    document : mapping
        The answer, as ``--json`` prints it.
    scenario_yaml : str
        The resolved scenario.
    most_rows : int
        Rows of the timeline's table at most.

    Returns
    -------
    tuple of Path
        In the order of `FILES`.

    Raises
    ------
    SpecError
        If `out` is a file or cannot be written.
    """

    def write(draft: Path) -> None:
        write_json(document, draft / "result.json")
        (draft / "scenario.yaml").write_text(scenario_yaml, encoding="utf-8")
        write_parquet(program_frame(run), draft / "program.parquet", "one replica")
        frame, note = timeline_frame(run, most_rows)
        write_parquet(frame, draft / "timeline.parquet", note)
        write_trace(run, str(draft / "trace.json.gz"))

    return write_files(out, FILES, write)


def write_files(out: Path, names: Sequence[str], write: Callable[[Path], None]) -> tuple[Path, ...]:
    """Write files to a folder, all or none of them.

    Parameters
    ----------
    out : Path
        A folder; files of the same names in it are replaced, others stay.
    names : sequence of str
        The files.
    write : callable
        Writes them all to the folder that it is given.

    Returns
    -------
    tuple of Path
        In the order of `names`.

    Raises
    ------
    SpecError
        If `out` is a file or cannot be written.
    """
    check_folder(out, names)
    made = [path for path in (out, *out.parents) if not path.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".clustersim-", dir=out) as draft:
            write(Path(draft))
            for name in names:
                os.replace(Path(draft, name), out / name)
    except OSError as error:
        raise _unwritable(out, error) from error
    finally:
        for path in made:  # what holds files stays
            with suppress(OSError):
                path.rmdir()
    return tuple(out / name for name in names)


def write_json(document: Mapping[str, Any], path: Path) -> None:
    """Write one document, as ``--json`` prints it.

    Parameters
    ----------
    document : mapping
        NumPy arrays and numbers are allowed in it.
    path : Path
        Replaced if it exists.

    Notes
    -----
    Indented by two, with a newline at the end. NaN and infinity become null.
    """
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    path.write_bytes(orjson.dumps(dict(document), option=options))


def write_parquet(frame: Any, path: Path, holds: str) -> None:
    """Write a table; its metadata say in words what it holds.

    Parameters
    ----------
    frame : pandas.DataFrame
        Its index is not written.
    path : Path
        Replaced if it exists.
    holds : str
        Written as ``clustersim.holds``, instead of what pandas would add.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({"clustersim.holds": holds})
    pq.write_table(table, path, compression="zstd")

"""The files of ``--out DIR``: tables, trace, answer and the resolved scenario.

Everything is written to a folder beside the wanted one and then renamed, so that a reader never
sees half a file. Parquet files say in their metadata which classes of replicas they hold.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
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


def check_folder(out: Path) -> None:
    """Refuse an output folder that is a file or lies below one.

    Raises
    ------
    SpecError
    """
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            fix = "name a folder; it is made where it does not exist"
            raise SpecError(Problem(f"--out {out}: {path} is a file", fix))


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
        If `out` is a file.
    """
    import orjson

    check_folder(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        (draft / "result.json").write_bytes(orjson.dumps(dict(document), option=options))
        (draft / "scenario.yaml").write_text(scenario_yaml, encoding="utf-8")
        _write_parquet(program_frame(run), draft / "program.parquet", "one replica")
        frame, note = timeline_frame(run, most_rows)
        _write_parquet(frame, draft / "timeline.parquet", note)
        write_trace(run, str(draft / "trace.json.gz"))
        out.mkdir(exist_ok=True)
        for name in FILES:
            os.replace(draft / name, out / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return tuple(out / name for name in FILES)


def _write_parquet(frame: Any, path: Path, holds: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({"clustersim.holds": holds})
    pq.write_table(table, path, compression="zstd")

"""The table of single serving points, ``silicon_e2e.csv``, and the shapes of its models."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from clustersim.errors import Problem, SpecError
from clustersim.validate.serving_records import ServingRow

NEEDED = ("id", "ttft_ms", "tpot_ms")
METRICS = {"ttft_s_mean": "ttft_ms", "tpot_s_mean": "tpot_ms"}
MODELS = "models.yaml"
# What differs inside a series of one configuration, or does not belong to it.
OUTSIDE_SERIES = (
    "id",
    "concurrency",
    "batch_size",
    "ttft_ms",
    "tpot_ms",
    "measured_on",
    "wip",
    "complete",
    "incomplete_because",
)


def read_points(text: str, path: Path, known: str) -> tuple[ServingRow, ...]:
    """Read the lines of the CSV.

    Parameters
    ----------
    text : str
        Of the file.
    path : Path
        Where it lies; ``models.yaml`` is looked for beside it.
    known : str
        The schemas that are known, for messages.

    Raises
    ------
    SpecError
        If a column is missing, or ``models.yaml`` cannot be read.
    """
    reader = csv.DictReader(text.splitlines())
    missing = set(NEEDED) - set(reader.fieldnames or ())
    if missing:
        message = f"holds no serving points: columns {', '.join(sorted(missing))} are missing"
        raise SpecError(Problem(message, f"give {known}", file=str(path), line=1))
    shapes = _shapes(path.parent / MODELS)
    rows = []
    for row in reader:
        scored = {metric: _seconds(row.get(column)) for metric, column in METRICS.items()}
        shape = shapes.get(row.get("model") or "", {})
        name, system = str(row["id"]), row.get("system")
        rows.append(ServingRow(name, path.stem, system, scored, row, path.parent, shape))
    return tuple(rows)


def _seconds(cell: str | None) -> float | None:
    try:
        return float(cell or "") / 1e3
    except ValueError:
        return None


def _shapes(path: Path) -> Mapping[str, Any]:
    """Shapes by name; empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        data = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SpecError(Problem(f"cannot be read: {reason}", "", file=str(path))) from error
    models = data.get("models") if isinstance(data, dict) else None
    if not isinstance(models, dict):
        fix = "give models: with a shape by name"
        raise SpecError(Problem("holds no shapes of models", fix, file=str(path), line=1))
    return models


def series_of_point(data: Mapping[str, Any]) -> str:
    """Every column that makes a configuration, in one word: runs differ by concurrency alone.

    Parameters
    ----------
    data : mapping
        Cells of a line by column; an empty one counts as such.

    Returns
    -------
    str
        Without the columns `OUTSIDE_SERIES`; cells in the order of the file, with commas between.
    """
    return ",".join(str(data[key] or "") for key in data if key and key not in OUTSIDE_SERIES)

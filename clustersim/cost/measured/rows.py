"""Reading rows of the measured schema: Parquet and CSV files to columns of numpy.

Text comes as fixed-width strings, "" where it is missing; numbers as the file has them, as float64
with NaN where some are missing. Columns that say where a row comes from are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clustersim.errors import ClusterSimError, Problem, SpecError
from clustersim.spec.device import Device
from clustersim.spec.resolve import load_device

PROVENANCE = frozenset(
    ("source", "license", "dataset", "framework", "framework_version", "timing", "method")
)
PAIRED = {"a100_pcie_nvlink_pair": "a100_pcie"}  # cards in bridged pairs are the cards
UNCATALOGUED = frozenset({"h100_nvlink_pair"})
"""Names of the measured schema that no device file has."""


@dataclass(frozen=True)
class Rows:
    """Some rows of one file.

    Attributes
    ----------
    stem : str
        Family.
    file : str
        Where they come from.
    columns : dict of str to ndarray (n,)
    lines : ndarray of int (n,)
        Row of each in its file, the first being 1.
    """

    stem: str
    file: str
    columns: dict[str, NDArray[Any]]
    lines: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Rows."""
        return self.lines.size

    def take(self, chosen: NDArray[Any]) -> Rows:
        """Some of the rows.

        Parameters
        ----------
        chosen : ndarray
            Of int (r,), indices from 0; or of bool (n,), a mask.

        Returns
        -------
        Rows
            They keep their lines of the file.
        """
        columns = {name: column[chosen] for name, column in self.columns.items()}
        return Rows(self.stem, self.file, columns, self.lines[chosen])


def read_rows(path: Path, stem: str, device: str | None = None) -> Rows:
    """Read a file as it is, unchecked.

    Parameters
    ----------
    path : Path
        ``.parquet``, else CSV with a header.
    stem : str
        Family of its rows.
    device : str, optional
        Of a Parquet file, only the rows of this name; `lines` then count these. Not looked at for
        other files.

    Returns
    -------
    Rows
        Lines count from 1, without the header.

    Raises
    ------
    SpecError
        If it is no such file.
    """
    import pyarrow as pa

    try:
        table = _table(path, device)
    except pa.ArrowInvalid as error:
        fix = "give Parquet, or CSV with a header, in the schema of measured rows"
        raise SpecError(Problem(f"cannot be read: {error}", fix, str(path))) from None
    columns = {
        name: _numpy(table.column(name)) for name in table.column_names if name not in PROVENANCE
    }
    return Rows(stem, str(path), columns, np.arange(1, table.num_rows + 1))


def _table(path: Path, device: str | None) -> Any:
    if path.suffix == ".parquet":
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path)
        kept = [name for name in file.schema_arrow.names if name not in PROVENANCE]
        table = file.read(columns=kept)
        if device is None:
            return table
        names = table.column("device").cast("string").fill_null("")
        return table.filter(pc.equal(names, device))
    from pyarrow import csv

    # only an empty field is missing: "nan" and "None" stay as they are and are reported
    options = csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
    return csv.read_csv(path, convert_options=options)


def _numpy(column: Any) -> NDArray[Any]:
    """One column; text through its dictionary, which has few entries."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        whole = column.combine_chunks()
        whole = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
        words = np.array([*whole.dictionary.to_pylist(), ""], dtype=np.str_)
        codes = whole.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)
        text: NDArray[Any] = words[codes.astype(np.int64)]
        return text
    if column.null_count and not pa.types.is_boolean(kind):
        column = column.cast(pa.float64())
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values if values.dtype != object else np.array([bool(value) for value in values])


@cache
def known_device(name: str) -> Device | None:
    """The catalogue's record of a measured device.

    Parameters
    ----------
    name : str
        As the measured schema writes it.

    Returns
    -------
    Device or None
        None where the catalogue has none; cards in bridged pairs are the cards.
    """
    if name in UNCATALOGUED or not name:
        return None
    try:
        return load_device(PAIRED.get(name, name))
    except ClusterSimError:
        return None


def missing_columns(rows: Rows, required: Iterable[str]) -> list[str]:
    """Columns that a family needs and a file lacks.

    Parameters
    ----------
    rows : Rows
    required : iterable of str
        Those of the family; `device` and `latency_s` come to them.

    Returns
    -------
    list of str
        Empty where nothing is missing.
    """
    return [name for name in ("device", "latency_s", *required) if name not in rows.columns]

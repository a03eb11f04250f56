"""docs/json.md names everything that is printed and written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from clustersim.validate.entries import Entry, Fit
from tests.cli.test_commands import invoke

PAGE = Path(__file__).parents[2] / "docs" / "json.md"
OPEN = ("by_op", "shares")  # keys below are names of ops, or words


@pytest.fixture(scope="module")
def named() -> set[str]:
    return set(re.findall(r"`([\w.-]+)`", PAGE.read_text()))


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for entry in value:
            yield from keys(entry)
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield key
            if key not in OPEN:
                yield from keys(entry)


@pytest.mark.parametrize("scenario", ["smallest", "straggler_175b", "serve_8b_small_gpu"])
def test_every_key_of_a_run_is_explained(named, scenario):
    document = json.loads(invoke("run", scenario, "--json").stdout)
    assert set(keys(document)) - named == set()


def test_every_file_and_column_is_explained(named, tmp_path):
    invoke("run", "smallest", "--out", str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} - named == set()
    for table in ("program.parquet", "timeline.parquet"):
        assert set(pq.read_schema(tmp_path / table).names) - named == set()


def test_every_file_and_column_of_a_serving_run_is_explained(named, tmp_path):
    words = ("--set", "workload.requests=20")
    invoke("run", "serve_8b_small_gpu", *words, "--out", str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} - named == set()
    for table in ("requests.parquet", "series.parquet"):
        assert set(pq.read_schema(tmp_path / table).names) - named == set()


def test_every_key_of_a_case_is_explained(named):
    described = {field.name for record in (Entry, Fit) for field in fields(record)}
    assert described - named == set()

"""Output of nccl-tests becomes rows of the measured schema."""

from __future__ import annotations

import pytest

from clustersim.calibrate.nccl_log import read_nccl_log
from clustersim.errors import SpecError
from clustersim.spec.resolve import load_device
from tests.measured_rows import nccl_log

H100 = load_device("h100_sxm")


def read(tmp_path, text, name="all_reduce_8.txt"):
    path = tmp_path / name
    path.write_text(text)
    return read_nccl_log(path, H100)


def test_table_and_ranks_are_read(tmp_path):
    rows = read(tmp_path, nccl_log({0: "9.9", 1024: "12.5", 2**20: "44.25"}))
    assert rows.columns["bytes"].tolist() == [1024, 2**20]
    assert rows.columns["latency_s"].tolist() == pytest.approx([12.5e-6, 44.25e-6])
    assert rows.columns["collective"].tolist() == ["all_reduce"] * 2
    assert rows.columns["dtype"].tolist() == ["fp32"] * 2
    assert rows.columns["ranks"].tolist() == [8, 8]
    assert rows.columns["nodes"].tolist() == [1, 1]
    assert rows.columns["topology"].tolist() == ["nvswitch"] * 2


def test_two_hosts_are_two_nodes_whose_adapters_are_not_stated(tmp_path):
    rows = read(tmp_path, nccl_log({1024: "30"}, hosts=2))
    assert rows.columns["nodes"].tolist() == [2]
    assert rows.columns["topology"].tolist() == ["unstated"]


def test_comment_of_newer_versions_names_the_collective(tmp_path):
    text = "# Collective test starting: reduce_scatter_perf\n" + nccl_log({1024: "30"})
    assert read(tmp_path, text, "log.txt").columns["collective"].tolist() == ["reduce_scatter"]


def test_everything_that_is_missing_is_said_at_once(tmp_path):
    with pytest.raises(SpecError) as caught:
        read(tmp_path, "hello\n", "log.txt")
    assert len(caught.value.problems) == 3


def test_row_without_a_time_has_its_line(tmp_path):
    text = nccl_log({1024: "12.5", 2048: "n/a"})
    line = next(i for i, row in enumerate(text.splitlines(), 1) if "n/a" in row)
    with pytest.raises(SpecError, match=f"all_reduce_8.txt:{line}: time: 'n/a' is not a time"):
        read(tmp_path, text)

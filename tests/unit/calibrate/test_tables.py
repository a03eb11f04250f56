"""Measured files are checked to the last row before anything is fitted."""

from __future__ import annotations

import numpy as np
import pytest

from clustersim.calibrate.tables import check_units, read_tables
from clustersim.errors import SpecError
from clustersim.spec.resolve import load_device
from tests.measured_rows import HEADER, gemm_rows, write_csv, write_parquet

H100 = load_device("h100_sxm")
pytestmark = pytest.mark.usefixtures("small_gemm")


def problems_of(*paths):
    with pytest.raises(SpecError) as caught:
        read_tables(paths, H100)
    return [str(problem) for problem in caught.value.problems]


def test_parquet_and_csv_of_the_same_rows_read_alike(tmp_path):
    rows = gemm_rows()
    csv = read_tables([write_csv(tmp_path / "gemm.csv", rows)], H100).rows[0]
    parquet = read_tables([write_parquet(tmp_path / "gemm.parquet", rows)], H100).rows[0]
    for name in HEADER.split(","):
        assert np.array_equal(csv.columns[name], parquet.columns[name]), name
    assert csv.lines[0] == 2  # below the header
    assert parquet.lines[0] == 1


def test_every_mistake_of_every_file_is_reported_at_once(tmp_path):
    rows = [
        "h100_sxm,bf16,1,2,3,0",
        "h100_sxm,bf16,1,2,3,-1e-6",
        "h100_sxm,bf16,1,2,3,nan",
        "h100_sxm,,1,2,3,1e-6",
        "h1000,bf16,1,2,3,1e-6",
        "h100_sxm,bf16,0,2,3,1e-6",
        "h100_sxm,bf16,1,2,3,12345",
    ]
    first = write_csv(tmp_path / "gemm.csv", [*rows[:3], *rows[4:]])
    second = write_csv(tmp_path / "gemm.b.csv", ["h100_sxm,bf16,1,2,3,12 us", rows[3]])
    text = "\n".join(problems_of(first, second))
    for said in (
        f"{first}:2: latency_s: 0 is not above 0",
        f"{first}:3: latency_s: -1e-06 is not above 0",
        f"{first}:4: latency_s: nan is not a number",
        f"{first}:5: device: unknown device 'h1000'",
        f"{first}:6: m: 0 is not above 0",
        f"{first}:7: latency_s: 12345 is more than 1,000 s",
        f"{second}:2: latency_s: '12 us' is not a number; write a plain number of seconds",
        f"{second}:3: dtype: '' is empty",
    ):
        assert said in text


def test_missing_columns_are_named_with_the_unit_that_is_there(tmp_path):
    path = write_csv(tmp_path / "gemm.csv", ["h100_sxm,bf16,1,2"], "device,dtype,m,latency_us")
    found = problems_of(path)
    assert len(found) == 3
    assert "column latency_s is missing" in found[0]
    assert "there is latency_us: give seconds" in found[0]


def test_many_wrong_rows_of_one_kind_are_cut_short(tmp_path):
    path = write_csv(tmp_path / "gemm.csv", ["h100_sxm,bf16,1,2,3,0"] * 50)
    found = problems_of(path)
    assert len(found) == 21
    assert "30 more rows" in found[-1]


def test_rows_of_other_devices_are_left_aside_and_aliases_count(tmp_path):
    rows = [*gemm_rows()[:3], *gemm_rows(device="a100_sxm")[:4], *gemm_rows(device="b60")[:2]]
    rows.append(gemm_rows(device="H100-SXM-80GB")[0])
    table = read_tables([write_csv(tmp_path / "gemm.csv", rows)], H100).rows[0]
    assert table.lines.tolist() == [2, 3, 4, 11]


def test_no_row_of_the_device_is_bad_input_that_names_the_devices(tmp_path):
    path = write_csv(tmp_path / "gemm.csv", gemm_rows(device="a100_sxm"))
    assert "it has rows of a100_sxm" in problems_of(path)[0]


def test_file_whose_name_says_no_family_is_refused(tmp_path):
    path = write_csv(tmp_path / "gem.csv", gemm_rows())
    assert "did you mean `gemm`?" in problems_of(path)[0]


@pytest.mark.parametrize("name", ["nothing_here", "empty"])
def test_paths_without_data_are_bad_input(tmp_path, name):
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / name) in problems_of(tmp_path / name)[0]


def test_broken_parquet_is_bad_input(tmp_path):
    path = tmp_path / "gemm.parquet"
    path.write_text("not Parquet")
    assert "cannot be read" in problems_of(path)[0]


def test_times_in_another_unit_are_found_by_what_the_device_could_take():
    check_units({"a.csv": 1.4, "b.csv": 0.6})
    with pytest.raises(SpecError, match=r"b.csv: latency_s: the median row takes 9.8e\+05 times"):
        check_units({"a.csv": 1.4, "b.csv": 9.8e5})

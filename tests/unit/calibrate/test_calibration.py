"""Coefficients come back out of rows that were made with them."""

from __future__ import annotations

import numpy as np
import pytest

from clustersim.calibrate.calibration import calibrate, write_calibration
from clustersim.calibrate.profiles import shape_groups
from clustersim.cost.collectives import collective_s
from clustersim.cost.measured.fabrics import Place, path_of, shipped_link
from clustersim.errors import SpecError
from clustersim.spec.resolve import load_device, load_link, load_profile
from tests.measured_rows import (
    TRUE_EFFICIENCY,
    TRUE_FLOOR_S,
    gemm_rows,
    nccl_log,
    write_csv,
)

H100 = load_device("h100_sxm")
pytestmark = pytest.mark.usefixtures("small_gemm")


def test_fit_finds_the_coefficients_and_states_its_error(tmp_path):
    found = calibrate([write_csv(tmp_path / "gemm.csv", gemm_rows())], H100, seed=3)
    (item,) = found.sections
    record = found.profile.gemm["bf16"]
    assert record.matmul_efficiency == pytest.approx(TRUE_EFFICIENCY, rel=0.03)
    assert record.kernel_floor_s == pytest.approx(TRUE_FLOOR_S, rel=0.03)
    assert item.result.in_sample < 0.04 < item.result.before
    assert item.result.in_sample <= item.result.held_out < 0.04
    assert item.result.tenth_held_out < 0.05
    assert found.profile.pedigree.origins["gemm"] == "fitted"
    operators = [error.operator for error in found.profile.pedigree.errors]
    assert operators[:2] == ["gemm bf16", "gemm bf16, largest tenth"]
    assert "training step" not in operators


def test_same_seed_gives_the_same_file(tmp_path):
    path = write_csv(tmp_path / "gemm.csv", gemm_rows())
    texts = []
    for name in ("a", "b"):
        (written,) = write_calibration(tmp_path / name / "p.yaml", calibrate([path], H100, seed=3))
        texts.append(written.read_text())
    assert texts[0] == texts[1]


def test_written_profile_is_complete_and_only_what_was_fitted_differs(tmp_path):
    found = calibrate([write_csv(tmp_path / "gemm.csv", gemm_rows())], H100)
    (written,) = write_calibration(tmp_path / "mine.yaml", found)
    profile, shipped = load_profile(written), load_profile("h100_sxm")
    assert profile == found.profile
    changed = {
        name
        for name in type(profile).model_fields
        if getattr(profile, name) != getattr(shipped, name)
    }
    assert changed <= {"name", "device", "derived", "gemm", "pedigree"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_section_with_too_few_rows_keeps_its_values_and_says_so(tmp_path):
    rows = [*gemm_rows(), *gemm_rows(dtype="fp16")[:4]]
    found = calibrate([write_csv(tmp_path / "gemm.csv", rows)], H100)
    kept = next(item for item in found.sections if item.section == "gemm/fp16")
    assert kept.record is None
    assert "4 rows" in kept.reason
    assert "gemm/fp16 (4 rows" in found.profile.pedigree.notes
    assert "fp16" not in found.profile.gemm


def test_sibling_is_marked_and_its_fits_become_derived(tmp_path):
    h200 = load_device("h200_sxm")
    path = write_csv(tmp_path / "gemm.csv", gemm_rows(device="h200_sxm"))
    found = calibrate([path], h200, name="h200")
    assert found.start.sibling
    assert found.profile.device == h200.name
    assert found.profile.pedigree.origins["gemm"] == "fitted"
    assert found.profile.pedigree.origins["attention"] == "derived"
    assert "another device's profile h100_sxm" in found.profile.pedigree.notes


def test_device_whose_profile_is_missing_starts_from_its_architecture(tmp_path):
    device = H100.model_copy(update={"name": "h1_mine", "aliases": (), "profile": "nowhere"})
    path = write_csv(tmp_path / "gemm.csv", gemm_rows(device="h1_mine"))
    found = calibrate([path], device)
    assert found.start.sibling
    assert found.start.profile.name == "h100_sxm"


def test_times_in_microseconds_are_refused(tmp_path):
    rows = [
        f"{row.rpartition(',')[0]},{float(row.rpartition(',')[2]) * 1e6:g}"
        for row in gemm_rows()
        if float(row.rpartition(",")[2]) < 9e-4
    ]
    with pytest.raises(SpecError, match="latency_s is in seconds"):
        calibrate([write_csv(tmp_path / "gemm.csv", rows)], H100)


def test_log_of_nccl_tests_fits_the_link_of_the_device(tmp_path):
    link = shipped_link("nvlink4")
    other = link.model_copy(update={"base_latency": 2 * link.base_latency})
    path = path_of(Place("nvswitch", 8, 1), H100)
    sizes = [2**power for power in range(3, 33)]
    times = collective_s("all_reduce", sizes, path, {"nvlink4": other})
    log = tmp_path / "all_reduce.txt"
    rows = {size: f"{1e6 * time:.2f}" for size, time in zip(sizes, times, strict=True)}
    log.write_text(nccl_log(rows))
    more = tmp_path / "all_reduce_again.txt"
    more.write_text(nccl_log(rows))
    found = calibrate([log, more], H100)
    (item,) = found.links
    assert found.profile is None
    assert item.result.in_sample < 0.05 < item.result.before
    (written,) = write_calibration(tmp_path / "mine.yaml", found)
    assert written.name == "mine.nvlink4.yaml"
    again = load_link(written)
    assert again.pedigree.points == 60
    assert again.kind == link.kind


def test_shape_leaves_out_the_swept_column():
    columns = {
        "m": np.tile(np.arange(1, 31), 12),
        "n": np.repeat(np.arange(12), 30),
        "latency_s": np.ones(360),
    }
    groups = shape_groups(columns, ("m", "n"))
    assert np.unique(groups).size == 12
    few = {name: column[:60] for name, column in columns.items()}
    assert np.unique(shape_groups(few, ("m", "n"))).size == 60

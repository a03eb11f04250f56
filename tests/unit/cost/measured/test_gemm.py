"""Measured products: which rows are priced, by which section, and how well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clustersim.cost.measured import gemm, gemm_in_layer, mla_bmm, training_kernels
from clustersim.spec.resolve import load_device, load_profile

MEASURED = Path(__file__).parents[4] / ".." / "shared" / "measured"
DEVICE, PROFILE = load_device("a100_sxm"), load_profile("a100_sxm")


def rows(**columns):
    return {name: np.array(column) for name, column in columns.items()}


def test_rows_fall_into_sections_by_datatype():
    columns = rows(dtype=["bf16", "fp8_block", "fp3"], m=[1, 1, 1], n=[1, 1, 1], k=[1, 1, 1])
    assert gemm.FAMILY.sections(columns).tolist() == ["gemm/bf16", "gemm/fp8_block", ""]
    assert gemm_in_layer.FAMILY.sections(columns)[0] == "gemm/bf16_in_layer"


def test_work_of_large_rows_does_not_overflow():
    columns = rows(dtype=["bf16"], m=[32768], n=[65536], k=[65536])
    columns = {name: c if name == "dtype" else c.astype(np.int32) for name, c in columns.items()}
    assert gemm.FAMILY.size(columns)[0] == 2.0 * 32768 * 65536 * 65536


def test_rows_outside_the_domain_have_no_time():
    columns = rows(dtype=["bf16", "fp3", "bf16"], m=[64, 64, 0], n=[64] * 3, k=[64] * 3)
    times = gemm.FAMILY.predict(columns, DEVICE, PROFILE)
    assert np.isfinite(times).tolist() == [True, False, False]


def test_a_datatype_without_units_runs_in_sixteen_bits():
    columns = rows(dtype=["fp8"], m=[64], n=[64], k=[64])
    assert np.isfinite(gemm.FAMILY.predict(columns, DEVICE, PROFILE)[0])


def test_a_row_in_a_layer_costs_the_same_whatever_stands_beside_it():
    alone = rows(dtype=["fp16"], m=[4096], n=[8192], k=[8192])
    beside = rows(dtype=["fp16", "bf16", "fp3"], m=[4096] * 3, n=[8192] * 3, k=[8192] * 3)
    one, many = (gemm_in_layer.FAMILY.predict(c, DEVICE, PROFILE) for c in (alone, beside))
    assert "fp16_in_layer" in PROFILE.gemm
    assert "bf16_in_layer" not in PROFILE.gemm
    assert many[0] == one[0]
    short = gemm.FAMILY.predict(beside, DEVICE, PROFILE)
    assert many[1] > short[1]  # coefficients of the datatype at the clocks of a stream


def test_batched_products_of_latent_attention_name_their_datatype():
    columns = rows(
        op=["q_absorb", "v_up", "v_up"],
        dtype=["bf16", "fp8", "fp8"],
        kernel=["out", "bmm_out_dequant_bf16", "fp8_block_scaling_bmm_out"],
        tokens=[8, 8, 8],
        heads=[4, 4, 4],
        qk_nope_dim=[128] * 3,
        kv_lora_rank=[512] * 3,
        v_dim=[128] * 3,
    )
    found = mla_bmm.FAMILY.sections(columns).tolist()
    assert found == ["gemm/bf16_bmm", "gemm/bf16_bmm", "gemm/fp8_block_bmm"]
    assert mla_bmm.FAMILY.size(columns).tolist() == [2.0 * 8 * 4 * 128 * 512] * 3
    assert np.all(mla_bmm.FAMILY.predict(columns, load_device("h100_sxm"), PROFILE) > 0)


def training_row(op: str, **changes):
    row = {
        "op": op, "dtype": "bf16", "out_dtype": "bf16", "device": "a100_pcie", "batch": 1,
        "m": 4096.0, "n": 4096.0, "k": 4096.0, "accumulate": False, "q_len": np.nan,
        "kv_len": np.nan, "q_heads": np.nan, "kv_heads": np.nan, "head_dim": np.nan,
        "v_head_dim": np.nan, "causal": False,
    }  # fmt: skip
    return rows(**{name: [value] for name, value in {**row, **changes}.items()})


def test_a_group_of_experts_costs_a_launch_for_each():
    one = training_kernels.FAMILY.predict(training_row("gemm_fwd"), DEVICE, PROFILE)[0]
    many = training_row("grouped_gemm_fwd", batch=8)
    found = training_kernels.FAMILY.predict(many, DEVICE, PROFILE)[0]
    assert found == pytest.approx(8 * one + 7 * PROFILE.kernel_gap_s)


def test_attention_cores_of_training_are_priced_by_generation():
    shape = {"q_len": 4096.0, "kv_len": 4096.0, "q_heads": 16.0, "kv_heads": 16.0}
    shape |= {"head_dim": 128.0, "v_head_dim": 128.0, "causal": True}
    shape |= {"m": np.nan, "n": np.nan, "k": np.nan}
    columns = training_row("attention_fwd", **shape)
    assert training_kernels.FAMILY.sections(columns)[0] == "attention/flash_2"
    assert training_kernels.FAMILY.predict(columns, DEVICE, PROFILE)[0] > 0


@pytest.mark.parametrize("name", ["a100_pcie", "b60", "h100_sxm", "rtx_pro_6000_server"])
def test_cores_are_priced_by_the_section_that_is_fitted(name):
    shape = {"q_len": 4096.0, "kv_len": 4096.0, "q_heads": 16.0, "kv_heads": 16.0}
    shape |= {"head_dim": 128.0, "v_head_dim": 128.0, "causal": True, "device": name}
    columns = training_row("attention_fwd", **shape, m=np.nan, n=np.nan, k=np.nan)
    device = load_device(name)
    profile = load_profile(device.profile)
    generation = training_kernels.FAMILY.sections(columns)[0].removeprefix("attention/")
    assert generation in profile.attention
    group = profile.attention[generation].model_copy(update={"kernel_floor_s": 1.0})
    slow = profile.model_copy(update={"attention": {**profile.attention, generation: group}})
    assert training_kernels.FAMILY.predict(columns, device, slow)[0] > 1.0


@pytest.mark.skipif(not MEASURED.is_dir(), reason="measured tables are not beside the repository")
def test_large_products_of_a100_are_within_seven_percent():
    import pyarrow.parquet as pq

    names = ["dtype", "m", "n", "k", "latency_s"]
    keep = [("device", "==", "a100_sxm"), ("dtype", "==", "bf16"), ("m", ">=", 4096)]
    table = pq.read_table(MEASURED / "gemm.parquet", columns=names, filters=keep)
    columns = {name: np.array(table[name].to_pylist()) for name in names}
    found = gemm.FAMILY.predict(columns, DEVICE, PROFILE) / columns["latency_s"] - 1.0
    assert np.abs(found).mean() < 0.07

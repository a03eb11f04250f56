"""Rows of latent attention, passes and transfers: domains, sections, predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clustersim.cost.measured import elementwise, host_io, mla_decode, mla_module, mla_prefill
from clustersim.cost.transfers import transfer_s
from clustersim.errors import ModelDomainError
from clustersim.spec.profile import Profile
from clustersim.spec.profile_elementwise import ElementwiseCoefficients
from clustersim.spec.resolve import load_device, load_profile
from tests.latent_cases import DECODE, MODULE, PREFILL, TRANSFER

DEVICE = load_device("h100_sxm_80gb")


def profile(**changes: Any) -> Profile:
    return load_profile("h100_sxm").model_copy(update=changes)


def latent_columns(**changes: list[Any]) -> dict[str, np.ndarray[Any, Any]]:
    columns: dict[str, list[Any]] = {
        "phase": ["prefill", "decode", "decode"],
        "model": [mla_module.MODEL] * 3,
        "kv_dtype": ["bf16", "bf16", "fp8"],
        "gemm_dtype": ["bf16", "bf16", "bf16"],
        "batch": [2, 8, 8],
        "q_len": [512, 1, 1],
        "kv_len": [512, 2048, 2048],
        "q_heads": [128, 128, 128],
        **changes,
    }
    return {
        name: np.array(column, dtype=np.int32 if isinstance(column[0], int) else None)
        for name, column in columns.items()
    }


def test_sections_follow_the_cache() -> None:
    columns = latent_columns()
    assert mla_prefill.FAMILY.sections(columns).tolist() == [
        "mla_prefill/bf16", "mla_prefill/bf16", "mla_prefill/fp8",
    ]  # fmt: skip
    assert mla_decode.FAMILY.sections(columns)[2] == "mla_decode/fp8_wide"
    assert mla_module.FAMILY.sections(columns).tolist() == [
        "mla_module/prefill", "mla_module/decode", "mla_module/decode",
    ]  # fmt: skip


def test_rows_outside_the_domain_have_no_section() -> None:
    columns = latent_columns(q_len=[600, 0, 1], kv_dtype=["bf16", "bf16", "int4"])
    assert mla_prefill.FAMILY.sections(columns).tolist() == ["", "", ""]


def test_no_prediction_without_coefficients() -> None:
    columns = latent_columns()
    bare = profile(mla_prefill={}, mla_decode={}, mla_module={})
    for family in (mla_prefill.FAMILY, mla_decode.FAMILY, mla_module.FAMILY):
        assert np.isnan(family.predict(columns, DEVICE, bare)).all()


def test_wide_kernels_serve_128_heads_only() -> None:
    wide = DECODE.model_copy(update={"kernel_floor_s": 1.0})
    known = profile(mla_decode={"fp8": DECODE, "fp8_wide": wide})
    columns = latent_columns(q_heads=[128, 64, 128], kv_dtype=["fp8", "fp8", "fp8"])
    seconds = mla_decode.FAMILY.predict(columns, DEVICE, known)
    assert (seconds > 1.0).tolist() == [True, False, True]


def test_a_block_holds_its_weights() -> None:
    known = profile(
        mla_prefill={"bf16": PREFILL},
        mla_decode={"bf16": DECODE},
        mla_module={"prefill": MODULE, "decode": MODULE},
    )
    seconds = mla_module.FAMILY.predict(latent_columns(), DEVICE, known)
    weights = 2.0 * (7168 * 2112 + 128 * (1536 * 192 + 512 * 256 + 128 * 7168))
    assert (seconds[:2] > weights / DEVICE.memory_bandwidth).all()
    assert np.isnan(seconds[2])  # no kernel over an 8-bit cache


def test_passes_by_class() -> None:
    columns = {
        "op": np.array(["silu_mul", "residual_add", "residual_add", "softmax"]),
        "rows": np.array([64, 64, 64, 64], dtype=np.int32),
        "cols": np.array([4096, 4096, 2560, 4096], dtype=np.int32),
    }
    family = elementwise.FAMILY
    assert family.sections(columns).tolist() == [
        "elementwise/gated", "elementwise/add", "elementwise/add", "",
    ]  # fmt: skip
    add = ElementwiseCoefficients(bandwidth_efficiency=0.9, kernel_floor_s=1e-3)
    seconds = family.predict(columns, DEVICE, profile(elementwise={"add": add}))
    assert np.isnan(seconds[[0, 3]]).all()
    assert seconds[1] == pytest.approx(1e-3, rel=0.01)
    assert seconds[2] == pytest.approx(2e-3, rel=0.01)  # two additions


def test_transfers() -> None:
    columns = {
        "op": np.array(["host_to_device", "nvme_to_device", "nvme_to_device", "tape_to_host"]),
        "bytes": np.array([1e9, 1e9, 1e9, 1e9]),
        "units": np.array([1, 4, 4, 1], dtype=np.int32),
        "method": np.array(["", "GPUDirect Storage", "CPU bounce buffer", ""]),
    }
    assert np.isnan(host_io.FAMILY.predict(columns, DEVICE, profile(transfer=None))).all()
    seconds = host_io.FAMILY.predict(columns, DEVICE, profile(transfer=TRANSFER))
    link_s = 1e9 / (0.8 * DEVICE.pcie_bandwidth)
    assert seconds[0] == pytest.approx(2e-5 + link_s)
    assert seconds[1] == pytest.approx(2e-5 + 0.1)
    assert seconds[2] == pytest.approx(2e-5 + 0.1 + link_s)
    assert np.isnan(seconds[3])
    with pytest.raises(ModelDomainError, match="tape_to_host"):
        transfer_s("tape_to_host", columns["bytes"], np.ones(4), DEVICE, TRANSFER)

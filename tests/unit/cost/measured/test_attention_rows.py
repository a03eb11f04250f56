"""Families of attention rows: sections, datatypes, 32-bit columns."""

import numpy as np
import pytest

from clustersim.cost.measured import (
    attention_bidirectional,
    attention_decode,
    attention_prefill,
)
from clustersim.spec.resolve import load_profile
from tests.attention_cases import DEVICES, PROFILE


def columns(device="h100_sxm", dtype="bf16", kv_dtype="bf16", **shape):
    """Rows with the integer types of the measured files."""
    values = {"batch": 4, "q_len": 1, "kv_len": 4096, "q_heads": 32, "kv_heads": 8}
    values |= {"head_dim": 128, "window": 0} | shape
    arrays = np.broadcast_arrays(*(np.atleast_1d(value) for value in values.values()))
    out = {name: array.astype(np.int32) for name, array in zip(values, arrays, strict=True)}
    count = arrays[0].size
    return out | {
        "device": np.full(count, device),
        "dtype": np.full(count, dtype),
        "kv_dtype": np.full(count, kv_dtype),
        "causal": np.full(count, True),
    }


@pytest.mark.parametrize(
    ("device", "section"),
    [
        ("h100_sxm_80gb", ["bf16_single", "bf16", "bf16_single"]),
        ("b200_sxm_180gb", ["bf16", "bf16", "bf16_single"]),
        ("a100_sxm_80gb", ["bf16", "bf16", "bf16"]),
    ],
)
def test_decoding_sections_follow_the_groups_that_a_library_packs(device, section):
    machine = DEVICES[device]
    found = attention_decode.kernels(
        columns(q_heads=[8, 32, 512]), machine, load_profile(machine.profile)
    )
    assert found.tolist() == [f"decode/{name}" for name in section]


def test_groups_are_packed_where_their_blocks_fill_a_quarter_of_the_sms():
    machine = DEVICES["h100_sxm_80gb"]
    rows = columns(batch=[1, 1, 4, 5], kv_len=[127, 640, 127, 127])
    found = attention_decode.kernels(rows, machine, load_profile(machine.profile))
    single, packed = "decode/bf16_single", "decode/bf16"
    assert found.tolist() == [single, packed, single, packed]
    rows = columns(batch=1, kv_len=127, kv_dtype="fp8")
    assert attention_decode.kernels(rows, machine, load_profile(machine.profile)) == ["decode/fp8"]


@pytest.mark.parametrize("module", [attention_prefill, attention_decode, attention_bidirectional])
def test_rows_of_unknown_datatypes_are_outside_and_the_others_keep_their_time(module):
    family, machine = module.FAMILY, DEVICES["h100_sxm_80gb"]
    name = "dtype" if module is attention_bidirectional else "kv_dtype"
    rows = columns(batch=[4, 4], q_len=16) | {name: np.array(["bf16", "int3"])}
    alone = columns(batch=4, q_len=16)
    assert family.sections(rows).tolist() == [family.sections(alone)[0], ""]
    found = family.predict(rows, machine, PROFILE)
    assert np.isnan(found).tolist() == [False, True]
    assert found[0] == family.predict(alone, machine, PROFILE)[0]
    assert family.size(rows)[0] == family.size(alone)[0]
    if family.kernels is not None:
        kernels = family.kernels(rows, machine, PROFILE).tolist()
        assert kernels == [family.kernels(alone, machine, PROFILE)[0], ""]


def test_prefill_sections_tell_datatypes_and_fp8_head_sizes():
    sections = attention_prefill.FAMILY.sections
    assert sections(columns(kv_dtype="fp8")).tolist() == ["prefill/bf16_kv_fp8"]
    fp8 = sections(columns(dtype="fp8", kv_dtype="fp8", head_dim=[64, 128, 256]))
    assert fp8.tolist() == ["prefill/fp8_other_heads", "prefill/fp8", "prefill/fp8_other_heads"]


def test_encoder_sections_tell_odd_head_sizes():
    found = attention_bidirectional.FAMILY.sections(columns(head_dim=[64, 72, 80]))
    bf16 = "bidirectional/bf16"
    assert found.tolist() == [bf16, f"{bf16}_odd_heads", bf16]


@pytest.mark.parametrize("module", [attention_prefill, attention_decode, attention_bidirectional])
def test_large_integer_shapes_do_not_overflow(module):
    family = module.FAMILY
    rows = columns(batch=[1, 2048], q_len=[1, 32768], kv_len=32768)
    seconds = family.predict(rows, DEVICES["h100_sxm_80gb"], PROFILE)
    assert np.isfinite(seconds).all()
    assert seconds[1] > seconds[0]
    assert (family.size(rows) > 0).all()
    for section in family.sections(rows):
        assert family.coefficients(str(section))

"""Coefficients of latent attention and of transfers that several tests share."""

from clustersim.spec.profile_elementwise import TransferCoefficients
from clustersim.spec.profile_mla import (
    MlaDecodeCoefficients,
    MlaModuleCoefficients,
    MlaPrefillCoefficients,
)

PREFILL = MlaPrefillCoefficients(
    efficiency=0.6, q_tile=128, block_setup_s=3e-6, tail_ratio=0.9, memory_efficiency=0.7,
    serial_passes=0.3, l2_ratio=2.0, l2_fraction=0.4, kernel_floor_s=1.2e-5,
)  # fmt: skip
DECODE = MlaDecodeCoefficients(
    efficiency=0.7, memory_efficiency=0.9, l2_ratio=1.5, key_s=2e-8, tail_fraction=0.1, splits=32,
    split_overhead_s=9e-7, group_s=2e-8, query_passes=1.9, kernel_floor_s=1.2e-5,
    head_tile=16, group_reads=0.4,
)  # fmt: skip
MODULE = MlaModuleCoefficients(
    small_operators_s=1.7e-5, passes=1.0, projection_ratio=1.0, attention_ratio=1.0
)
TRANSFER = TransferCoefficients(
    link_efficiency=0.8, latency_s=2e-5, drive_read_bandwidth=2.5e9, drive_write_bandwidth=1.25e9
)

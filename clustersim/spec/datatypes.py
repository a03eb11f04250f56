"""Bytes of one element of each datatype: the one table that every layer reads."""

ELEMENT_BYTES: dict[str, float] = {
    "fp32": 4.0,
    "tf32": 4.0,  # kept in fp32
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "fp4": 0.5,
    "nvfp4": 0.5,  # its block scales are counted where they are read
}

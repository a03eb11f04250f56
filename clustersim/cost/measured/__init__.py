"""Rows of measurements as inputs of the cost models: one module a file of the measured schema.

`calibrate` fits coefficients through these, `validate --measured` reports their error; both see the
same prediction for the same row.
"""

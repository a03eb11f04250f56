"""Measured data in, coefficients with a pedigree out: profiles of devices and files of links."""

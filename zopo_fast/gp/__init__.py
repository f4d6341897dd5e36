"""Kernels, Gaussian processes, arrays and devices, on top of the native module."""

"""Packed weight formats of the GPU kernels, one a file."""

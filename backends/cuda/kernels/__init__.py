"""Triton sources, one kernel a file, importing nothing but triton; they travel in artifacts.

Kernels are not specialised on M, N and S: every number of rows would be compiled anew, and an artifact's
kernels are not either.
"""

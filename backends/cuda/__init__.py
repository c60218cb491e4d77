"""Load as sparse, compute as dense: packed 2:4 weights and kernels for NVIDIA GPUs."""

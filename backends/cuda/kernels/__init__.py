"""Triton sources, one kernel a file, importing nothing but triton; they travel in artifacts."""

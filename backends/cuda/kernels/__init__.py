"""Triton sources, one kernel a file; they import nothing but triton and travel with the artifact."""

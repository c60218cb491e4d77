"""Examples of SparseC, and the models and data that its tests, benchmarks and demo share."""

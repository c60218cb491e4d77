"""The CPU backend: sparse regions of a graph run by ``libsparsec_cpu``, the rest by ONNX Runtime."""

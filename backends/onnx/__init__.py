"""Plain ONNX: the graph as it is, for any runtime."""

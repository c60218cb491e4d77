"""The CPU backend against ONNX Runtime, on networks that anyone can rebuild."""

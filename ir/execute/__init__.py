"""Running a graph piece by piece, with access to what flows through it.

:mod:`~sparsec.ir.execute.executor` says what an executor is; :mod:`~sparsec.ir.execute.segmented`
is the one on ONNX Runtime, which runs any operator and needs no torch.
"""

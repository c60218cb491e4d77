"""A target that an existing backend lowers for."""

from sparsec.ir.target import Status, Target

TOASTER = Target("toaster", "a kitchen appliance", "onnx", Status.EMITTED)

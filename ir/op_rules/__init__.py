"""Rules: how the axes of every operator's operands hang together.

Found by operator type through one registry; another distribution adds a rule through the entry-point
group ``sparsec.op_rules``, under ``OpType`` or ``domain::OpType``.
"""

from __future__ import annotations

import onnx_ir as ir

from sparsec.ir.op_rules.rule import OpRule
from sparsec.ir.registry import Registry

_HERE = "sparsec.ir.op_rules."

# What operators share a rule, by the rule.
_FAMILIES = {
    "elementwise:ZERO_KEPT": (
        "Abs Asin Asinh Atan Atanh BitCast Cast CastLike Ceil Celu Dropout Elu Erf Floor Gelu HardSwish "
        "Identity LeakyRelu Mish Neg Relu Round Selu Shrink Sign Sin Sinh Softsign Sqrt Swish Tan "
        "Tanh ThresholdedRelu"
    ),
    "elementwise:ZERO_LOST": (
        "Acos Acosh BitwiseNot Cos Cosh Exp HardSigmoid IsInf IsNaN Log Not Reciprocal Sigmoid Softplus"
    ),
    "elementwise:SUM": "Add Max Mean Min Sub Sum",
    "elementwise:GATED": (
        "com.microsoft::BiasGelu com.microsoft::FastGelu com.microsoft::Gelu com.microsoft::QuickGelu"
    ),
    "elementwise:PRODUCT": "BitwiseAnd Mul SwiGLU",
    "elementwise:QUOTIENT": "Div",
    "elementwise:POWER": "Pow",
    "elementwise:OTHER": (
        "And BitShift BitwiseOr BitwiseXor Equal Greater GreaterOrEqual Less LessOrEqual Mod Or Where "
        "Xor"
    ),
    "elementwise:CLIP": "Clip",
    "elementwise:PRELU": "PRelu",
    "conv:RULE": "Conv ConvTranspose",
    "linear:MATMUL": "MatMul",
    "linear:GEMM": "Gemm",
    "recurrent:RULE": "GRU LSTM RNN",
    "attention:RULE": "Attention",
    "rotary:RULE": "RotaryEmbedding",
    "einsum:RULE": "Einsum",
    "quant:QUANTIZE": "QuantizeLinear",
    "quant:DEQUANTIZE": "DequantizeLinear",
    "quant:DYNAMIC": "DynamicQuantizeLinear",
    "quant:CONV_INTEGER": "ConvInteger",
    "quant:QLINEAR_CONV": "QLinearConv",
    "quant:MATMUL_INTEGER": "MatMulInteger",
    "quant:QLINEAR_MATMUL": "QLinearMatMul",
    "norm:BATCH": "BatchNormalization",
    "norm:INSTANCE": "InstanceNormalization",
    "norm:GROUP": "GroupNormalization",
    "norm:LAST": "LayerNormalization RMSNormalization",
    "norm:SOFTMAX": "Hardmax LogSoftmax Softmax",
    "norm:ONE_AXIS": "LRN LpNormalization",
    "pool:POOL": ("AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool"),
    "pool:UNPOOL": "MaxUnpool",
    "pool:REDUCE": (
        "ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
        "ReduceProd ReduceSum ReduceSumSquare"
    ),
    "shape:RESHAPE": "Flatten Reshape",
    "shape:TRANSPOSE": "Transpose",
    "shape:SQUEEZE": "Squeeze",
    "shape:UNSQUEEZE": "Unsqueeze",
    "shape:EXPAND": "Expand",
    "shape:TILE": "Tile",
    "shape:MEASURED": "Shape Size",
    "select:CONCAT": "Concat",
    "select:SPLIT": "Split",
    "select:SLICE": "Slice",
    "select:GATHER": "Gather",
    "scatter:GATHER_ELEMENTS": "GatherElements",
    "scatter:SCATTER_ELEMENTS": "Scatter ScatterElements",
    "scatter:GATHER_ND": "GatherND",
    "scatter:SCATTER_ND": "ScatterND",
    "scatter:WRITE_CACHE": "TensorScatter",
    "along:TOP_K": "TopK",
    "along:CUMULATE": "CumProd CumSum",
    "along:COMPRESS": "Compress",
    "along:ONE_HOT": "OneHot",
    "along:REVERSE": "ReverseSequence",
    "along:MATRICES": "Det Trilu",
    "along:FOURIER": "DFT",
    "along:CROP": "CenterCropPad",
    "along:CAUSAL_CONV": "CausalConvWithState",
    "sample:GRID": "GridSample",
    "sample:REGIONS": "MaxRoiPool RoiAlign",
    "sample:COL2IM": "Col2Im",
    "sample:DEFORMABLE": "DeformConv",
    "space:RESIZE": "Resize Upsample",
    "space:PAD": "Pad",
    "space:DEPTH_TO_SPACE": "DepthToSpace",
    "space:SPACE_TO_DEPTH": "SpaceToDepth",
}

op_rules: Registry[OpRule] = Registry(
    "operator rule",
    "sparsec.op_rules",
    {name: _HERE + rule for rule, names in _FAMILIES.items() for name in names.split()},
)


def rule_of(node: ir.Node) -> OpRule | None:
    """Return the rule of a node's operator, or None: then the node is a barrier."""
    standard = node.domain in ("", "ai.onnx")
    name = node.op_type if standard else f"{node.domain}::{node.op_type}"
    return op_rules.get(name) if name in op_rules else None

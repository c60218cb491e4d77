"""Every registered operator as an attribute, under the name that FX code and pickles use.

``Softmax_13`` is Softmax as defined from opset 13 on; operators of other domains carry the domain
in front (``com_microsoft_QuickGelu_1``). Importing this module fills the registry.
"""

from __future__ import annotations

from sparsec.ir.fx import (
    ops_activation,
    ops_attention,
    ops_conv,
    ops_elementwise,
    ops_index,
    ops_matmul,
    ops_norm,
    ops_pool,
    ops_quant,
    ops_random,
    ops_reduce,
    ops_resize,
    ops_rnn,
    ops_sequence,
    ops_shape,
    ops_signal,
    ops_vision,
    registry,
)

FAMILIES = {
    "Activations": ops_activation,
    "Attention": ops_attention,
    "Convolution": ops_conv,
    "Elementwise": ops_elementwise,
    "Indexing": ops_index,
    "Matrix products": ops_matmul,
    "Normalisation": ops_norm,
    "Pooling": ops_pool,
    "Quantisation": ops_quant,
    "Random": ops_random,
    "Reductions": ops_reduce,
    "Resizing and sampling": ops_resize,
    "Recurrent": ops_rnn,
    "Sequences": ops_sequence,
    "Shape and layout": ops_shape,
    "Signal": ops_signal,
    "Vision": ops_vision,
}

globals().update({o.call.__name__: o.call for o in registry.table()})

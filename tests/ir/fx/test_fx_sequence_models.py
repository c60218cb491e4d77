import numpy as np
import pytest
import torch

from sparsec.ir.fx import registry

LENGTH, BATCH, WIDTH, HIDDEN = 5, 3, 4, 6


def f32(rng, *shape):
    return (rng.standard_normal(shape) * 0.5).astype(np.float32)


def operands(rng, gates, directions, *, bias, lengths, states, layout=0):
    x = f32(rng, BATCH, LENGTH, WIDTH) if layout else f32(rng, LENGTH, BATCH, WIDTH)
    state = (BATCH, directions, HIDDEN) if layout else (directions, BATCH, HIDDEN)
    return [
        x,
        f32(rng, directions, gates * HIDDEN, WIDTH),
        f32(rng, directions, gates * HIDDEN, HIDDEN),
        f32(rng, directions, 2 * gates * HIDDEN) if bias else None,
        np.array([5, 2, 4], np.int32) if lengths else None,
        *(f32(rng, *state) for _ in range(states)),
    ]


KINDS = {"LSTM": (4, 2, 3), "GRU": (3, 1, 2), "RNN": (1, 1, 2)}


@pytest.mark.parametrize("op", KINDS)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("bias", "lengths", "state"), [(False, False, False), (True, False, True), (True, True, True)]
)
def test_directions_and_states(op, direction, bias, lengths, state, check, rng):
    gates, states, n_outputs = KINDS[op]
    args = operands(
        rng, gates, 1 + (direction == "bidirectional"), bias=bias, lengths=lengths,
        states=states if state else 0,
    )  # fmt: skip
    check(op, *args, opset=14, n_outputs=n_outputs, direction=direction, hidden_size=HIDDEN)


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_gru_variants(before, clip, check, rng):
    attrs = {} if clip is None else {"clip": clip}
    args = operands(rng, 3, 2, bias=True, lengths=False, states=1)
    check(
        "GRU", *args, opset=14, n_outputs=2, direction="bidirectional", hidden_size=HIDDEN,
        linear_before_reset=before, **attrs,
    )  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"clip": 0.3}, {"input_forget": 1}])
def test_lstm_peepholes(options, check, rng):
    args = [*operands(rng, 4, 1, bias=True, lengths=False, states=2), f32(rng, 1, 3 * HIDDEN)]
    check("LSTM", *args, opset=14, n_outputs=3, hidden_size=HIDDEN, **options)


@pytest.mark.parametrize(
    ("op", "activations", "extra"),
    [
        ("RNN", ["Relu"], {}),
        ("RNN", ["LeakyRelu"], {"activation_alpha": [0.2]}),
        ("RNN", ["HardSigmoid"], {"activation_alpha": [0.3], "activation_beta": [0.4]}),
        ("LSTM", ["HardSigmoid", "Softsign", "Tanh"], {}),
        ("GRU", ["Sigmoid", "Relu"], {}),
    ],
)
def test_activations(op, activations, extra, check, rng):
    gates, _, n_outputs = KINDS[op]
    args = operands(rng, gates, 1, bias=True, lengths=False, states=0)
    check(
        op,
        *args,
        opset=14,
        n_outputs=n_outputs,
        hidden_size=HIDDEN,
        activations=activations,
        **extra,
    )


@pytest.mark.parametrize("op", KINDS)
def test_batch_first(op, rng):
    """ONNX Runtime has no layout 1: it is the other layout with batch and the rest exchanged."""
    gates, states, _ = KINDS[op]
    args = operands(rng, gates, 2, bias=True, lengths=True, states=states)
    args = [None if a is None else torch.from_numpy(a) for a in args]
    call = registry.find(op, "", 14).call
    want = call(*args, direction="bidirectional")
    swapped = [args[0].transpose(0, 1), *args[1:5], *(a.transpose(0, 1) for a in args[5:])]
    got = call(*swapped, direction="bidirectional", layout=1)
    torch.testing.assert_close(got[0], want[0].permute(2, 0, 1, 3))
    for g, w in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(g, w.transpose(0, 1))


def heads(rng, batch, count, length, width):
    return f32(rng, batch, count, length, width)


@pytest.mark.parametrize("kv", [4, 2])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mask", [None, "float", "bool"])
def test_attention(kv, causal, mask, check, rng):
    q, k, v = heads(rng, 2, 4, 3, 8), heads(rng, 2, kv, 5, 8), heads(rng, 2, kv, 5, 6)
    args = [q, k, v]
    if mask == "float":
        args.append(f32(rng, 3, 5))
    if mask == "bool":
        args.append(np.array([[1, 0, 1, 1, 0]] * 3, bool))
    check("Attention", *args, opset=23, is_causal=causal, atol=1e-5)


@pytest.mark.parametrize("options", [{"scale": 0.2}, {"softcap": 1.5}, {"qk_matmul_output_mode": 1},
                                     {"qk_matmul_output_mode": 3}])  # fmt: skip
def test_attention_options(options, check, rng):
    q, k, v = (f32(rng, 2, length, 4 * 8) for length in (3, 5, 5))
    past = [heads(rng, 2, 4, 2, 8) for _ in range(2)]
    check(
        "Attention", q, k, v, f32(rng, 2, 1, 3, 7), *past, opset=23, n_outputs=4, q_num_heads=4,
        kv_num_heads=4, atol=1e-5, **options,
    )  # fmt: skip


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("width", [0, 4])
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("positions", [False, True])
def test_rotary_embedding(interleaved, width, flat, positions, check, rng):
    half = (width or 8) // 2
    x = f32(rng, 2, 3, 4 * 8) if flat else f32(rng, 2, 4, 3, 8)
    caches = [f32(rng, 10, half) if positions else f32(rng, 2, 3, half) for _ in range(2)]
    args = [x, *caches] + ([rng.integers(0, 10, (2, 3))] if positions else [])
    options = {"num_heads": 4} if flat or width else {}
    check(
        "RotaryEmbedding", *args, opset=23, interleaved=interleaved, rotary_embedding_dim=width,
        **options,
    )  # fmt: skip

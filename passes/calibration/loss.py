"""What a model loses on a sample: by its label, or by what the model itself predicts.

Without labels a model can only be compared with itself. The loss of distillation, how far the pruned
model's prediction is from the dense one's, and its gradient are zero at the dense model; what tells
parameters apart is its curvature. For a prediction that is a probability distribution this is the
Fisher information ``F = E[g g^T]``, with ``g`` the gradient of ``-log p(y | x)`` and the target ``y``
drawn from ``p(. | x)``:

    KL(p(w) || p(w + d)) = 1/2 d^T F d + O(d^3)

(Martens, "New insights and perspectives on the natural gradient method", arXiv:1412.1193, sections 5
and 6). Outputs that are no distribution are taken as the mean of a normal one whose deviation is the
output's own root mean square; ``F`` is then the Gauss-Newton matrix of the relative squared error.
So the gradient of one drawn target serves all criteria: its square is the curvature, and
``E[(sum w g)^2] / 2`` is to second order what a set of weights costs when it is zeroed.

Functions of outputs as torch tensors; torch is imported when one is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.errors import CalibrationError

Loss = Callable[[Mapping[str, Any]], Any]

_SUM_SLACK = 1e-3  # of probabilities from one


def label_loss(output: str, labels: NDArray[np.int64]) -> Loss:
    """Return the mean cross-entropy of an output [batch, classes] with ``labels`` int [batch].

    An output whose rows are probabilities is taken as such, any other as logits.
    """

    def loss(outputs: Mapping[str, Any]) -> Any:
        import torch

        found = outputs[output]
        scores = found.reshape(1, -1) if found.ndim == 1 else found
        if scores.ndim != 2 or len(scores) != len(labels) or labels.max() >= scores.shape[1]:
            raise CalibrationError(
                f"the output {output!r} has the shape {list(found.shape)}; {len(labels)} labels up to "
                f"{labels.max()} a sample need [{len(labels)}, classes]",
                where=output,
            )
        log_p = _log(scores) if _is_distribution(scores) else scores.log_softmax(-1)
        return -log_p[torch.arange(len(labels)), torch.from_numpy(labels).to(scores.device)].mean()

    return loss


def drawn_loss(outputs: Sequence[str], seed: Sequence[int]) -> Loss:
    """Return the negative log-likelihood of a target drawn from the outputs themselves.

    Parameters
    ----------
    outputs : sequence of str
        Every one of a float type counts.
    seed : sequence of int
        Of the draw.
    """

    def loss(found: Mapping[str, Any]) -> Any:
        rng = np.random.default_rng(list(seed))
        real = [found[name] for name in outputs if found[name].is_floating_point()]
        parts = [_drawn(output, rng) for output in real if output.numel() and output.requires_grad]
        if not parts:
            raise CalibrationError(
                "no output is of a float type that the weights lead to, so there is no gradient; take a "
                "criterion that needs none, such as l1",
                where=", ".join(outputs),
            )
        return sum(parts[1:], parts[0])

    return loss


def _drawn(output: Any, rng: np.random.Generator) -> Any:
    import torch

    if _is_distribution(output):
        rows = output.reshape(-1, output.shape[-1])
        reached = rows.detach().double().cumsum(-1).cpu().numpy()
        thresholds = rng.random((len(rows), 1)) * reached[:, -1:]
        target = torch.from_numpy((reached <= thresholds).sum(axis=1)).to(output.device)
        # Over the root, so that the square is the curvature of the mean over rows.
        return -_log(rows).gather(1, target[:, None]).sum() / len(rows) ** 0.5
    scale = float(output.detach().double().square().mean().sqrt())
    noise = torch.from_numpy(rng.standard_normal(tuple(output.shape))).to(output)
    # The gradient of (f - y)^2 / (2 s^2) at y = f + s e is -e / s: nothing else of it matters.
    return (output * noise).sum() / (scale or 1.0) / output.numel() ** 0.5


def _is_distribution(output: Any) -> bool:
    """Whether the last axis of an output holds probabilities of exclusive classes."""
    values = output.detach()
    if values.ndim < 2 or values.shape[-1] < 2 or bool((values < 0).any()):
        return False
    return bool(((values.sum(-1) - 1).abs() < _SUM_SLACK).all())


def _log(probabilities: Any) -> Any:
    return probabilities.clamp_min(1e-30).log()

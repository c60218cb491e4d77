"""Why some operators of the standard have no rule: each is a barrier by design, not by neglect."""

from __future__ import annotations

_REASONS = {
    "makes a value of constants and sizes: it reads no channels": (
        "AffineGrid BlackmanWindow Constant ConstantOfShape EyeLike HammingWindow HannWindow "
        "MelWeightMatrix Range"
    ),
    "draws numbers by position: with fewer of them, the others would change": (
        "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike"
    ),
    "its size depends on the data, so no position can be told": "NonMaxSuppression NonZero Unique",
    "runs bodies, which are not followed; what they read is frozen": "If Loop Scan SequenceMap",
    "lists and optional values are not followed": (
        "ConcatFromSequence Optional OptionalGetElement OptionalHasElement SequenceAt "
        "SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SplitToSequence"
    ),
    "works on text or encoded images": (
        "ImageDecoder RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer"
    ),
    "divides by the deviation of each channel, and that of a zeroed one is zero": (
        "MeanVarianceNormalization"
    ),
    "a loss reads every class": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    "reads a signal, which has no channels": "STFT",
    "its heads carry a state from call to call; no runtime at hand can replay a certificate": (
        "LinearAttention"
    ),
}

BARRIERS: dict[str, str] = {
    name: reason for reason, names in _REASONS.items() for name in names.split()
}

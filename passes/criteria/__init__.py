"""Criteria: what each weight of a site is worth. Higher means keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparsec.ir.errors import PassConfigError
from sparsec.ir.registry import Registry
from sparsec.ir.sites import WeightSite

Criterion: TypeAlias = Callable[[WeightSite, NDArray[np.floating]], NDArray[np.floating]]
"""``(site, matrix [out, reduction]) -> score [out, reduction]``; the matrix is the site's own."""

criteria: Registry[Criterion] = Registry(
    "criterion",
    "sparsec.criteria",
    {"magnitude": "sparsec.passes.criteria.magnitude:magnitude"},
    error=PassConfigError,
)

import pytest

from sparsec.backends.cuda import nvcc, variants


@pytest.fixture(autouse=True, scope="module")
def _same_candidates_everywhere(request):
    """Hide nvcc from tests of the Triton kernels, which must not depend on what is installed."""
    name = request.module.__name__
    if "native" in name or "loader" in name:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nvcc, "why_not", lambda sm: "hidden from this test")
        yield


@pytest.fixture(scope="module")
def few_kernels():
    """Compile kernels for 1 and for 16 rows of x alone, where a test looks at none for more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "BUCKETS", variants.BUCKETS[:2])
        yield

import pytest

from sparsec.backends.cpu.library import features, why_no_library


@pytest.fixture(params=["none"] if why_no_library() else features())
def isa(request: pytest.FixtureRequest) -> str:
    """Each instruction set of the library that this machine runs."""
    return str(request.param)

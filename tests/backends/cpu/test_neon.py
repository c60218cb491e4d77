"""The tests of every kernel again, with the NEON unit: cross-compiled, under an emulator.

The cases are those of the other files, made by numpy and compared with float64 there; only what runs the
plans is exchanged.
"""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.backends.cpu import emulated, test_encoder, test_gemv, test_linear, test_window
from tests.backends.cpu.emulated import Server
from tests.backends.cpu.test_encoder import (  # noqa: F401
    test_a_mask_of_another_shape_is_refused,
    test_attention,
    test_layer_norm,
)
from tests.backends.cpu.test_gemv import (  # noqa: F401
    test_a_pixel_of_an_image_is_a_column,
    test_dense_and_empty_weights,
    test_dense_weights,
    test_every_float16_is_read_exactly,
    test_not_a_number_stays_in_its_rows,
)
from tests.backends.cpu.test_gemv import test_every_microkernel as test_every_gemv  # noqa: F401
from tests.backends.cpu.test_linear import (  # noqa: F401
    test_activations,
    test_empty_rows_and_heavy_rows,
    test_every_microkernel,
    test_images_are_channels_first,
    test_not_a_number_stays_in_its_row_and_column,
    test_residual_and_activation_come_after_the_last_block,
    test_shapes,
)
from tests.backends.cpu.test_window import (  # noqa: F401
    test_average_and_channel_chain,
    test_convolution,
    test_depthwise,
    test_max_pool,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(emulated.why_not() is not None, reason=str(emulated.why_not())),
]


@pytest.fixture(params=["neon", "portable"])
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("emulated"))
    yield started
    started.close()


@pytest.fixture(autouse=True)
def _on_arm(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the imported tests run their plans on the server."""

    def loaded(data: bytes, *, isa: str | None = None, threads: int = 1) -> SimpleNamespace:
        return SimpleNamespace(run=lambda *inputs: server.run(bytes(data), isa, threads, *inputs))

    for module in (test_encoder, test_gemv, test_linear, test_window):
        monkeypatch.setattr(module, "LoadedPlan", loaded)
    for module in (test_gemv, test_linear, test_window):
        monkeypatch.setattr(module, "microkernels", server.microkernels)


def test_the_plans_really_run_there(server: Server) -> None:
    names = server.microkernels("neon")
    assert len(names) > 20
    assert all(name.endswith("__neon") for name in names)
    assert server.microkernels("avx2") == ("",)

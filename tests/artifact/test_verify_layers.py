"""``verify`` relates every weight of an artifact to its row of the layer table, packed ones too."""

import dataclasses
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from nasty import put, read, rehash

import sparsec
from sparsec.artifact.graph import load_graph
from sparsec.backends.cpu.labels import KEY
from sparsec.backends.cpu.library import library_path
from sparsec.backends.cpu.plan import Plan
from sparsec.ir.errors import ArtifactError, VerifyError
from sparsec.verification import verify_artifact

NEEDS = {
    "onnx": True,
    "a100": importlib.util.find_spec("triton") is not None,
    "cpu": library_path() is not None,
}
PASSES = {"onnx": "nm24", "a100": "nm24", "cpu": "unstructured:sparsity=0.95"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers that every backend packs; the second has its node's name as a value's, too."""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[64, 512] x) => (float[64, 512] y) {
            a = MatMul (x, w1)
            h = Relu (a)
            y = Gemm <alpha = 0.5, transB = 1> (h, w2)
        }"""
    )
    for name in ("w1", "w2"):
        array = rng.standard_normal((512, 512)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    proto.graph.node[0].name, proto.graph.node[2].name = "first", "h"
    path = tmp_path_factory.mktemp("source") / "net.onnx"
    onnx.save(proto, path)
    return path


@pytest.fixture(scope="module")
def compiled(model: Path) -> Callable[[str], Path]:
    """Return the artifact of a target, compiled once; no test may change it."""

    def compile_for(target: str) -> Path:
        path = model.parent / f"{target}.sparsec"
        if not path.exists():
            sparsec.compile(model, passes=[PASSES[target]], target=target, output=path)
        return path

    return compile_for


@pytest.fixture(params=["onnx", "a100", "cpu"])
def artifact(
    request: pytest.FixtureRequest, compiled: Callable[[str], Path], tmp_path: Path
) -> Path:
    """Return a copy of one artifact of each backend, to be damaged."""
    target: str = request.param
    if not NEEDS[target]:
        pytest.skip(f"{target} cannot be compiled for here")
    return Path(shutil.copytree(compiled(target), tmp_path / "copy.sparsec"))


def test_every_pattern_is_checked(artifact: Path) -> None:
    assert [row["name"] for row in read(artifact)["layers"]] == ["first", "h"]
    assert verify_artifact(artifact)["graph"]["patterns"] == 2


@pytest.mark.parametrize(
    ("key", "value"), [("shape", [512, 511]), ("pattern", "1:4"), ("sparsity", 0.25)]
)
def test_a_row_that_claims_something_else_fails(artifact: Path, key: str, value: object) -> None:
    put("layers", 1, key, value=value)(artifact)
    with pytest.raises(VerifyError, match=f"layer 'h': the manifest says {key}"):
        verify_artifact(artifact)


def test_a_row_without_a_weight_and_a_weight_without_a_row_fail(artifact: Path) -> None:
    rows = read(artifact)["layers"]
    put("layers", value=rows[:1])(artifact)
    with pytest.raises(VerifyError, match="'h': the manifest has no row for this weight"):
        verify_artifact(artifact)
    put("layers", value=[*rows, {**rows[0], "name": "third"}])(artifact)
    with pytest.raises(VerifyError, match="'third': the manifest has a row for it"):
        verify_artifact(artifact)


def edit_data(root: Path, edit: Callable[[np.ndarray], None], name: str) -> None:
    """Change a tensor where it lies on the disk, and make the hashes right again."""
    tensor = load_graph(root).graph.initializers[name].const_value
    array = np.memmap(root / "model.onnx.data", tensor.dtype.numpy(), "r+", tensor.offset,
                      tuple(tensor.shape.numpy()))  # fmt: skip
    edit(array)
    array.flush()
    rehash(root)


@pytest.mark.parametrize("artifact", ["onnx"], indirect=True)
def test_weights_that_break_their_pattern_fail(artifact: Path) -> None:

    def swap(array: np.ndarray) -> None:  # as many zeros as before, in other places
        kept, zero = np.flatnonzero(array[:4, 0]), np.flatnonzero(array[4:8, 0] == 0) + 4
        array[zero[0], 0], array[kept[0], 0] = 1.0, 0.0

    edit_data(artifact, swap, "w1")
    with pytest.raises(VerifyError, match=r"layer 'first': .* hold 3 non-zeros"):
        verify_artifact(artifact)


@pytest.mark.parametrize("artifact", ["cpu"], indirect=True)
class TestRegions:
    @pytest.mark.parametrize("value", [0.0, 3.0])
    def test_plan_that_was_altered_with_care(self, artifact: Path, value: float) -> None:
        """A weight that goes is noticed; one of another value is as good as any other."""

        def edit(array: np.ndarray) -> None:
            plan = Plan.from_bytes(array.tobytes())
            index, tensors = plan.ops[0].weight, list(plan.tensors)
            values = np.array(tensors[index].values)
            values.flat[np.flatnonzero(values)[0]] = value
            tensors[index] = dataclasses.replace(tensors[index], values=values)
            plan = dataclasses.replace(plan, tensors=tuple(tensors))
            array[:] = np.frombuffer(plan.to_bytes(), np.uint8)

        name = next(n for n in load_graph(artifact).graph.initializers if n.endswith(".plan"))
        edit_data(artifact, edit, name)
        if value:
            assert verify_artifact(artifact)["passed"]
        else:
            with pytest.raises(VerifyError, match="the manifest says sparsity"):
                verify_artifact(artifact)

    @pytest.mark.parametrize(
        ("note", "words"),
        [
            ("[", "damaged"),
            ("[" * 100_000, "damaged"),
            ("7", "damaged"),
            ('[[0, "first"]]', "damaged"),
            ('[[0, "", null]]', "damaged"),
            ('[[[], "first", null]]', "damaged"),
            ('[[0, "first", "9:4"]]', "damaged"),
            ('[[99, "first", null]]', "no weight"),
            ('[[true, "first", null]]', "no weight"),
            ('[[0, "first", null], [0, "h", null]]', "no weight"),
        ],
    )
    def test_damaged_notes_are_refused(self, artifact: Path, note: str, words: str) -> None:
        proto = onnx.load(artifact / "model.onnx", load_external_data=False)
        node = next(node for node in proto.graph.node if node.domain == "sparsec")
        next(entry for entry in node.metadata_props if entry.key == KEY).value = note
        (artifact / "model.onnx").write_bytes(proto.SerializeToString())
        rehash(artifact)
        with pytest.raises(ArtifactError, match=words):
            verify_artifact(artifact)

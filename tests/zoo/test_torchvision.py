"""torchvision, pruned at half its channels and heads; the whole list is the slow suite's."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from benchmarks.structure.vision import SPECS
from examples.zoo import vision
from examples.zoo.cache import UnavailableError
from sparsec.ir.cleanup import clean_up, fold_batch_norm
from sparsec.ir.cost import graph_cost
from sparsec.ir.feeds import random_feeds
from sparsec.ir.groups import find_groups, prepare
from sparsec.passes.base import PassContext
from sparsec.passes.pipeline import Pipeline

pytestmark = pytest.mark.zoo

# One of each kind of structure, and small.
BRIEF = {
    *("convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "mobilenet_v3_small"),
    *("regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t"),
    "lraspp_mobilenet_v3_large",
}
# What of the multiply-accumulates may be left, by family; of all others half.
LEFT = {"convnext": 0.55, "swin": 0.56, "vit": 0.55, "shufflenet": 0.45, "maxvit": 0.5, "raft": 0.5}
# What freezes channels in these networks: normalisations over the channels, and outputs.
REASONS = (
    "normalises over it",
    "keeps its shape",
    "it is one unit",
    "spreads it over an axis that is fixed",
)


def networks() -> list[object]:
    return [
        pytest.param(name, marks=() if name in BRIEF else pytest.mark.slow)
        for name in vision.NETWORKS
    ]


def loaded(name: str) -> ir.Model:
    try:
        return vision.load(name)
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", networks())
def test_half_of_it_goes_and_every_certificate_is_replayed(name: str) -> None:
    model = loaded(name)
    clean_up(model)
    fold_batch_norm(model)
    prepare(model)
    feeds = random_feeds(model).feeds[0]
    before = graph_cost(model, feeds)
    frozen = find_groups(model).frozen
    assert all(any(words in (group.reason or "") for words in REASONS) for group in frozen)
    steps = Pipeline.parse(SPECS).run(model, PassContext())  # a replay that fails raises
    assert sum(len(step.result.certificates) for step in steps) >= 1
    after = graph_cost(model, feeds)
    family = next((key for key in LEFT if name.startswith(key)), "")
    assert after.macs < LEFT.get(family, 0.5) * before.macs
    assert after.params < before.params


def test_the_list_is_all_there_is() -> None:
    try:
        models = vision.torchvision().models
    except UnavailableError as error:
        pytest.skip(str(error))
    families = (models, models.segmentation, models.optical_flow)
    listed = {name for family in families for name in models.list_models(module=family)}
    detectors = {name for name, net in vision.NETWORKS.items() if net.family == "detection"}
    assert listed == vision.NETWORKS.keys() - detectors
    assert len(listed) == 80 + 6 + 2
    assert detectors <= set(models.list_models(module=models.detection))


def test_weights_are_drawn_alike_and_stored_nowhere() -> None:
    loaded("shufflenet_v2_x0_5")
    first, second = (vision.load("shufflenet_v2_x0_5") for _ in range(2))
    large = 0
    for name, value in first.graph.initializers.items():
        array = value.const_value.numpy()
        assert (array == second.graph.initializers[name].const_value.numpy()).all()
        large += array.size >= 4096
    assert large > 10
    path = vision.NETWORKS["shufflenet_v2_x0_5"].path
    assert path.stat().st_size < 1e6

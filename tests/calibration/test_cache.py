"""Statistics are found again, for what has not changed and only for that."""

from __future__ import annotations

import numpy as np
import pytest

from sparsec.ir.execute import segmented
from sparsec.ir.sites import weight_sites
from sparsec.passes.calibration.calibration import Calibration
from sparsec.passes.calibration.statistics import Needs
from tests.calibration import nets
from tests.calibration.test_sequential import visit

GRAM = Needs(gram=True)


@pytest.fixture
def opened(monkeypatch):
    """How many segments were opened."""
    count = []
    true = segmented.cut_segment
    monkeypatch.setattr(
        segmented,
        "cut_segment",
        lambda *args, **options: (count.append(1), true(*args, **options))[1],
    )
    return count


def collect(model, feeds, cache, needs=GRAM, **options):
    sites = list(weight_sites(model))
    with Calibration(feeds, cache=cache, **options).parallel(model, sites, needs) as found:
        return {name: statistics.gram() if needs.gram else statistics.norms
                for name, statistics in found.items()}  # fmt: skip


def test_a_second_run_runs_nothing(tmp_path, opened):
    feeds = nets.vectors(3, 8)
    first = collect(nets.residual(), feeds, tmp_path)
    assert opened
    opened.clear()
    second = collect(nets.residual(), feeds, tmp_path)
    assert not opened
    for name, gram in first.items():
        np.testing.assert_array_equal(second[name], gram)


@pytest.mark.parametrize("what", ["feeds", "feed order", "needs", "weight", "mask"])
def test_other_data_weights_or_options_are_collected_anew(what, tmp_path, opened):
    feeds = nets.vectors(3, 8)
    collect(nets.residual(), feeds, tmp_path)
    opened.clear()
    model, needs, options = nets.residual(), GRAM, {}
    if what == "feeds":
        feeds[1]["x"][0, 0] += 1
    elif what == "feed order":
        feeds = feeds[::-1]
    elif what == "needs":
        needs = Needs()
    elif what == "mask":
        options["mask"] = "x"
    else:
        site = next(iter(weight_sites(model)))
        site.write_matrix(site.matrix() * 2)
    collect(model, feeds, tmp_path, needs, **options)
    assert opened


def test_a_change_behind_a_layer_does_not_matter(tmp_path):
    feeds = nets.vectors(3, 8)
    collect(nets.residual(), feeds, tmp_path)
    before = set((tmp_path / "statistics").iterdir())
    model = nets.residual()
    last = list(weight_sites(model))[-2]  # the shared one: only the input of "down" changes
    last.write_matrix(last.matrix() * 2)
    collect(model, feeds, tmp_path)
    assert len(set((tmp_path / "statistics").iterdir()) - before) == 1


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "garbage"])
def test_damaged_files_are_collected_again(damage, tmp_path, opened):
    feeds = nets.vectors(3, 8)
    first = collect(nets.residual(), feeds, tmp_path)
    opened.clear()
    for path in (tmp_path / "statistics").iterdir():
        data = bytearray(path.read_bytes())
        if damage == "flip":
            data[len(data) // 2] ^= 0x40
        path.write_bytes(
            {"flip": data, "truncate": data[: len(data) // 2], "empty": b"", "garbage": b"PK" * 99}[
                damage
            ]
        )
    second = collect(nets.residual(), feeds, tmp_path)
    assert opened
    for name, gram in first.items():
        np.testing.assert_array_equal(second[name], gram)


def test_a_sequential_walk_is_found_again_with_all_its_rewrites(tmp_path, opened):
    feeds = nets.vectors(3, 8)
    order, expected = visit(nets.residual(), feeds, cache=tmp_path)
    assert opened
    opened.clear()
    again, found = visit(nets.residual(), feeds, cache=tmp_path)
    assert not opened
    assert again == order
    for name, matrix in expected.items():
        np.testing.assert_array_equal(found[name], matrix)


def test_a_folder_of_someone_elses_files_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    collect(nets.residual(), nets.vectors(2, 8), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not list((tmp_path / "walks").glob("*/"))  # what was finished is not kept
    assert not list((tmp_path / "statistics").glob("*.partial"))

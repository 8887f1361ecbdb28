"""Predictions on refined points: the masses of the sets, and what mass-weighted and plain attention make of them."""

import dataclasses
from argparse import Namespace

import pytest
import torch

from lrsa_coupled.bench.experiments.refinement import node_sets, run, table
from lrsa_coupled.config import Config, LrsaConfig
from lrsa_coupled.operators.grid import find_grid
from lrsa_coupled.training import checkpoint
from tests.unit.test_checkpoint import CARD_OF_TEST
from tests.unit.test_training import SCHEMA, sample, write


def grid_points(size):
    axis = torch.linspace(0.0, 1.0, size)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(1, -1, 2)
    return points[:, torch.randperm(size * size, generator=torch.Generator().manual_seed(0))]


def test_the_masses_of_each_set_integrate_linear_functions_exactly():
    points = grid_points(9)
    sets = node_sets(find_grid(points))
    assert {name: len(rows) for name, (rows, _) in sets.items()} == {"coarse": 25, "half": 5 * 9 + 2 * 5, "fine": 81}
    for rows, mass in sets.values():
        x, y = points[0, rows].unbind(dim=-1)
        for values, integral in ((torch.ones_like(x), 1.0), (x, 0.5), (y, 0.5), (x * y, 0.25)):
            assert (mass * values).sum().item() == pytest.approx(integral, rel=1e-5)
    assert set(sets["coarse"][0].tolist()) < set(sets["half"][0].tolist()) < set(sets["fine"][0].tolist())


def test_a_grid_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="odd number of points a side, 5 at least, got 8 x 8"):
        node_sets(find_grid(grid_points(8)))


@pytest.mark.parametrize("mass_weighted", [True, False])
def test_mass_weighted_attention_does_not_see_a_refined_half(tmp_path, mass_weighted, monkeypatch):
    monkeypatch.setattr("tests.unit.test_training.sample", lambda index: sample(2 * index + 1))  # on 9 x 9 points
    data = write(tmp_path / "data", count=4)
    operator = LrsaConfig(width=16, num_blocks=1, num_heads=2, num_latents=8, mass_weighted=mass_weighted)
    torch.manual_seed(0)
    model = checkpoint.make_model(operator, SCHEMA)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    card = dataclasses.replace(CARD_OF_TEST, schema=SCHEMA, operator=operator)
    checkpoint.save(tmp_path / "model", model, card)
    results = run(Namespace(model=tmp_path / "model", data=data), Config())
    assert results.num_samples == 3 and ("mass-weighted" if mass_weighted else "plain") in table(results)
    drift = {name: sum(row.number("drift") for row in rows) for name, rows in results.methods.items()}
    # Plain attention moves further when one half is refined than when all is; mass-weighted attention less.
    assert (drift["half"] < drift["fine"]) == mass_weighted

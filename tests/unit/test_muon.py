"""Muon, many matrices at once, against torch's, one by one."""

import pytest
import torch

from lrsa_coupled.training.muon import Muon, orthogonal


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this release of torch has no Muon")
def test_steps_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    shapes = [(12, 12), (12, 12), (36, 12), (12, 36), (12, 12)]
    first = [torch.randn(shape, generator=generator) for shape in shapes]
    ours, theirs = ([weight.clone().requires_grad_() for weight in first] for _ in range(2))
    settings = {"lr": 1e-2, "weight_decay": 0.1}
    optimisers = [Muon(ours, **settings), torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings)]
    for _ in range(4):
        for pair in zip(ours, theirs, strict=True):
            gradient = torch.randn(pair[0].shape, generator=generator)
            for weight in pair:
                weight.grad = gradient.clone()
        for optimiser in optimisers:
            optimiser.step()
    for weight, expected, start in zip(ours, theirs, first, strict=True):
        change = (expected - start).norm().item()
        assert change > 1e-2 and (weight - expected).norm().item() < 0.02 * change


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
def test_orthogonal_keeps_directions_and_evens_out_sizes(shape):
    matrices = (
        torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    )
    result = orthogonal(matrices).float()
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.3 and values.max() < 1.4
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    assert (result - left @ right).norm() < 0.5 * (left @ right).norm()


def test_weights_without_a_gradient_stay():
    weights = [torch.ones(4, 4, requires_grad=True) for _ in range(2)]
    weights[0].grad = torch.eye(4)
    Muon(weights, lr=1e-2, weight_decay=0.5).step()
    assert torch.equal(weights[1], torch.ones(4, 4)) and not torch.equal(weights[0], torch.ones(4, 4))

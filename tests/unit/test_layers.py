"""The gain of a norm in the matrix that follows it."""

import torch
from torch import nn

from lrsa_coupled.operators.layers import normed_linear
from tests.operators import relative


def test_the_gain_in_the_matrix_is_the_gain_of_the_norm():
    torch.manual_seed(0)
    norm, linear = nn.RMSNorm(12, eps=1e-6, dtype=torch.float64), nn.Linear(12, 7, dtype=torch.float64)
    nn.init.normal_(norm.weight)
    features = torch.randn(3, 5, 12, dtype=torch.float64)
    expected = linear(norm(features))
    assert relative(normed_linear(features, norm, linear), expected) < 1e-14
    assert relative(normed_linear(features, norm, linear, slice(2, 5)), expected[..., 2:5]) < 1e-14
    assert torch.isfinite(normed_linear(torch.zeros(1, 12, dtype=torch.float64), norm, linear)).all()

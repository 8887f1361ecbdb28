"""Relative errors against hand-computed and analytic values."""

import math

import numpy as np
import pytest
import torch

from lrsa_coupled.schema import Field
from lrsa_coupled.training.losses import (
    FieldColumns,
    Reference,
    aligned,
    field_columns,
    relative_h1,
    relative_l2,
    weighted_mean,
)

FIELDS = field_columns((Field("u", 2, loss_weight=3.0), Field("p")))


def square(n):
    """Return nodes and triangles of the unit square."""
    axis = np.linspace(0.0, 1.0, n + 1)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    node = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    a, b, c, d = node[:-1, :-1].ravel(), node[1:, :-1].ravel(), node[:-1, 1:].ravel(), node[1:, 1:].ravel()
    return torch.tensor(points), torch.tensor(np.concatenate((np.stack((a, b, d), 1), np.stack((a, d, c), 1))))


def nodal(exact, fields):
    """Return exact outputs at points of mass one, none of them fixed."""
    return Reference(exact, torch.ones_like(exact[..., 0]), torch.ones_like(exact), fields)


def test_columns_lie_side_by_side():
    assert (FieldColumns("u", slice(0, 2), 3.0), FieldColumns("p", slice(2, 3), 1.0)) == FIELDS
    assert field_columns((Field("u", 2),), [3.0, 4.0])[0].scale == 5.0


def test_relative_l2_by_hand():
    exact = torch.tensor([[[3.0, 4.0, 1.0], [0.0, 0.0, 2.0]]])
    predicted = exact + torch.tensor([[[1.0, 2.0, 0.5], [2.0, 4.0, 1.0]]])
    free = torch.tensor([[[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]])
    errors = relative_l2(predicted, Reference(exact, torch.tensor([[4.0, 1.0]]), free, FIELDS))
    assert errors.shape == (1, 2)
    assert errors[0, 0].item() == pytest.approx(math.sqrt((4 * 1 + 1 * (4 + 16)) / (4 * 25)))
    assert errors[0, 1].item() == pytest.approx(0.5)
    assert weighted_mean(errors, FIELDS).item() == pytest.approx((3 * errors[0, 0].item() + 0.5) / 4)


def test_the_span_of_a_basis_counts_not_the_basis():
    generator = torch.Generator().manual_seed(0)
    fields = field_columns((Field("modes", 3, span=True), Field("p")))
    mass = torch.rand(2, 40, generator=generator, dtype=torch.float64) + 0.5
    root = mass.sqrt().unsqueeze(-1)
    whole = (
        torch.linalg.qr(torch.randn(2, 40, 6, generator=generator, dtype=torch.float64)).Q / root
    )  # orthonormal in the masses
    exact, others = torch.cat((whole[..., :3], torch.ones(2, 40, 1)), dim=-1), whole[..., 3:]
    free = torch.ones_like(exact)

    reference = Reference(exact, mass, free, fields)

    def error(basis):
        return relative_l2(aligned(torch.cat((basis, 2.0 * exact[..., 3:]), dim=-1), reference), reference)

    mixing = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64) + 4.0 * torch.eye(3)
    rotated = error(exact[..., :3] @ mixing)
    assert rotated[:, 0].max() < 1e-4 and torch.allclose(rotated[:, 1], torch.ones(2, dtype=torch.float64))
    angle = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    tilted = (exact[..., :3] * angle.cos() + others * angle.sin()) @ mixing
    squares = torch.tensor([1.0, 8 / 9, 5 / 9], dtype=torch.float64) ** 2  # of the weights 1 - (j / 3)^2
    assert error(tilted)[:, 0] == pytest.approx(2 * [math.sqrt((angle.sin() ** 2) @ squares / squares.sum())], rel=1e-3)
    assert error(others)[:, 0] == pytest.approx(2 * [1.0])
    assert error(exact[..., [0, 0, 1]])[:, 0] == pytest.approx(
        2 * [math.sqrt(squares[2] / squares.sum())], rel=1e-3
    )  # a dependent basis


def test_the_angle_of_spans_has_a_gradient():
    generator = torch.Generator().manual_seed(0)
    fields = field_columns((Field("modes", 4, span=True),))
    mass, exact, basis = (
        torch.randn(1, 30, *shape, generator=generator, dtype=torch.float64) for shape in ((), (4,), (4,))
    )
    mass, free = mass.exp(), torch.ones_like(exact)

    reference = Reference(exact, mass, free, fields)

    def loss(basis):
        return relative_l2(aligned(basis, reference), reference).sum()

    assert torch.autograd.gradcheck(loss, basis.requires_grad_())


def test_a_vanishing_field_counts_against_its_size_in_training():
    fields = (FieldColumns("p", slice(0, 1), scale=2.0),)
    ones = torch.ones(1, 10, 1)
    errors = relative_l2(2e-3 * ones, Reference(0.0 * ones, 0.1 * ones[..., 0], ones, fields))
    assert errors.item() == pytest.approx(1.0)


def test_a_perfect_prediction_has_a_finite_gradient():
    points, cells = square(2)
    exact = torch.stack((points[:, 0], points[:, 1], points.sum(dim=1)), dim=1)[None]
    predicted = exact.clone().requires_grad_()
    reference = nodal(exact, FIELDS)
    loss = relative_l2(predicted, reference).sum()
    loss = loss + relative_h1(predicted, reference, points_BNd=points[None], cells_EV=cells).sum()
    loss.backward()
    assert loss.item() == 0.0 and predicted.grad.abs().max() == 0.0


def test_h1_seminorm_of_linear_fields_is_exact():
    points, cells = square(4)
    points = points @ torch.tensor([[2.0, 0.3], [-0.5, 1.0]], dtype=torch.float64)
    exact = torch.stack((points @ torch.tensor([1.0, 2.0]).double(), points[:, 1], 3.0 * points[:, 0] + 7.0), dim=1)[
        None
    ]
    predicted = exact + torch.stack((0.5 * points[:, 0], 0.0 * points[:, 0], 4.0 * points[:, 1] - 1.0), dim=1)[None]
    errors = relative_h1(predicted, nodal(exact, FIELDS), points_BNd=points[None], cells_EV=cells)
    expected = [math.sqrt(0.25 / 6.0), 4.0 / 3.0]
    assert errors[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_h1_seminorm_in_space_is_exact():
    points = torch.tensor([[0.0, 0, 0], [2.0, 0, 0], [0, 1.0, 0], [0, 0, 3.0], [2.0, 2.0, 2.0]], dtype=torch.float64)
    cells = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    gradient, error = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.1, 0.2, -0.3]).double()
    exact = (points @ gradient)[None, :, None]
    reference = nodal(exact, (FieldColumns("u", slice(0, 1)),))
    errors = relative_h1(exact + (points @ error)[None, :, None], reference, points_BNd=points[None], cells_EV=cells)
    assert errors.item() == pytest.approx(float(error.norm() / gradient.norm()), rel=1e-12)


@pytest.mark.parametrize("fold", [0.0, 0.7])
def test_h1_seminorm_on_a_surface_is_that_of_its_development(fold):
    """A sheet that is folded along a line keeps its gradients; in space they are tangential."""
    flat, cells = square(4)
    exact = torch.stack((flat @ torch.tensor([1.0, 2.0]).double(), flat[:, 0], 3.0 * flat[:, 0] + 7.0), dim=1)[None]
    predicted = exact + torch.stack((0.5 * flat[:, 0], 0.0 * flat[:, 0], 4.0 * flat[:, 1] - 1.0), dim=1)[None]
    along = (flat[:, 0] - 0.5).clamp_min(0.0)
    sheet = torch.stack((flat[:, 0] - along * (1 - math.cos(fold)), flat[:, 1], along * math.sin(fold)), dim=1)
    errors = relative_h1(predicted, nodal(exact, FIELDS), points_BNd=sheet[None], cells_EV=cells)
    assert errors[0].tolist() == pytest.approx([math.sqrt(0.25 / 6.0), 4.0 / 3.0], rel=1e-12)


def test_h1_seminorm_on_a_curve_is_that_of_its_length():
    angle = torch.linspace(0.0, 3.0, 30, dtype=torch.float64)
    helix = torch.stack((angle.cos(), angle.sin(), angle), dim=1)
    cells = torch.stack((torch.arange(29), torch.arange(1, 30)), dim=1)
    exact, reference = angle[None, :, None], (FieldColumns("u", slice(0, 1)),)
    error = 0.3 * angle[None, :, None] + 2.0
    errors = relative_h1(exact + error, nodal(exact, reference), points_BNd=helix[None], cells_EV=cells)
    assert errors.item() == pytest.approx(0.3, rel=1e-12)


def test_h1_seminorm_of_interpolants_converges_with_order_two():
    """Error field ``x (1 - x)``, seminorm sqrt(1/3), against ``sin(pi x) sin(pi y)``, seminorm pi / sqrt(2)."""
    expected = math.sqrt(1.0 / 3.0) / (math.pi / math.sqrt(2.0))
    gaps = []
    for n in (16, 32):
        points, cells = square(n)
        exact = (torch.sin(math.pi * points[:, 0]) * torch.sin(math.pi * points[:, 1]))[None, :, None]
        error = (points[:, 0] * (1.0 - points[:, 0]))[None, :, None]
        reference = nodal(exact, (FieldColumns("u", slice(0, 1)),))
        value = relative_h1(exact + error, reference, points_BNd=points[None], cells_EV=cells)
        gaps.append(abs(value.item() - expected))
    assert math.log2(gaps[0] / gaps[1]) == pytest.approx(2.0, abs=0.1)


def test_constrained_values_count_as_exact_in_the_seminorm():
    points, cells = square(3)
    exact = points[None, :, :1].clone()
    free = torch.ones_like(exact)
    free[0, 5] = 0.0
    predicted = exact.clone()
    predicted[0, 5] += 10.0
    reference = Reference(exact, torch.ones_like(exact[..., 0]), free, (FieldColumns("u", slice(0, 1)),))
    errors = relative_h1(predicted, reference, points_BNd=points[None], cells_EV=cells)
    assert errors.item() == 0.0

"""The baselines of LRSA against their formulas written out, and what they refuse."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from lrsa_coupled.bench.baselines import fno
from lrsa_coupled.bench.cost import flop_counter
from lrsa_coupled.config import LrsaConfig
from lrsa_coupled.operators.grid import find_grid
from lrsa_coupled.operators.layers import GridConvolution
from lrsa_coupled.operators.reducer import TorchReducer
from tests.operators import (
    BASELINES,
    SIZES,
    arguments,
    lrsa_flop_count,
    lrsa_parameter_count,
    make_operator,
    of_kind,
    relative,
)

SMALL = LrsaConfig(width=12, num_blocks=2, num_heads=3, num_latents=5)
CONVOLVED = [
    f"{kind} with {parts}"
    for kind in ("lrsa", "flare", "transolver", "full")
    for parts in ("grid_convolution", "grid_convolution and grid_skip")
    if kind != "flare" or "skip" not in parts
]
EXACT = 1e-12


def config(name):
    kind, *parts = name.replace(" and ", " with ").split(" with ")
    return of_kind(SMALL, kind, **dict.fromkeys(parts, True))


def grid_points(batch=2, sizes=(7, 5)):
    axes = [
        torch.linspace(-1.0, 2.0, sizes[0], dtype=torch.float64),
        torch.linspace(0.0, 0.5, sizes[1], dtype=torch.float64),
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, -1, 2).expand(batch, -1, -1)


def block_and_features(kind, points=20):
    model = make_operator(config(kind), dtype=torch.float64)
    return model.blocks[0], torch.randn(
        2, points, SMALL.width, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )


def heads(tensor):
    return tensor.unflatten(-1, (SMALL.num_heads, -1)).transpose(1, 2)


@pytest.mark.parametrize("name", [*BASELINES, *CONVOLVED])
def test_a_permutation_of_the_points_permutes_the_outputs(name):
    model, points = make_operator(config(name), dtype=torch.float64), grid_points()
    _, inputs, scalars, mass = arguments(points=points.shape[1], dtype=torch.float64)
    order = torch.randperm(points.shape[1], generator=torch.Generator().manual_seed(2))
    outputs = model(points, inputs, scalars, mass)
    assert outputs.std() > 1e-3
    assert relative(model(points[:, order], inputs[:, order], scalars, mass[:, order]), outputs[:, order]) < EXACT
    model.zero_grad()
    outputs.square().sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, name


def test_transolver_is_its_formula():
    block, features = block_and_features("transolver")
    with torch.no_grad():
        to_slices, values = (heads(part) for part in block.projection(block.norm(features)).chunk(2, dim=-1))
        weights = torch.exp(block.slices(to_slices) / block.temperature_H11)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        tokens = torch.einsum("bhnm,bhnd->bhmd", weights, values) / (
            torch.einsum("bhnm->bhm", weights)[..., None] + 1e-5
        )
        queries, keys, token_values = block.token_projection(tokens).chunk(3, dim=-1)
        mixed = torch.softmax(queries @ keys.mT / queries.shape[-1] ** 0.5, dim=-1) @ token_values
        spread = torch.einsum("bhnm,bhmd->bnhd", weights, mixed).flatten(2)
        expected = features + block.output(spread)
        expected = expected + block.second(F.gelu(block.first(block.ffn_norm(expected))))
        assert relative(block(features, None, None), expected) < EXACT


def test_flare_is_a_product_of_two_stochastic_matrices():
    block, features = block_and_features("flare")
    with torch.no_grad():
        normalised = block.norm(features)
        keys, values = heads(block.keys(normalised)), heads(block.values(normalised))
        scores = keys @ block.queries_HMD.mT
        mixing = torch.softmax(scores, dim=-1) @ torch.softmax(scores.mT, dim=-1)
        expected = features + block.output((mixing @ values).transpose(1, 2).flatten(2))
        assert relative(block(features, None, None), expected + block.ffn(block.ffn_norm(expected))) < EXACT
        assert torch.allclose(mixing.sum(dim=-1), torch.ones_like(mixing[..., 0]))


def test_fno_keeps_the_low_modes_of_a_transform_written_out():
    block, (nx, ny), low = fno.Block(config("fno")).double(), (7, 5), 2
    block.initialise()
    features = torch.randn(1, nx * ny, SMALL.width, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    px, py = nx + 1, ny + 1
    assert px >= nx * (1 + fno.PADDING) and py >= ny * (1 + fno.PADDING)
    waves = {
        n: torch.exp(-2j * torch.pi * torch.outer(torch.arange(n), torch.arange(n)).double() / n) for n in (px, py)
    }
    with torch.no_grad():
        padded = F.pad(features.view(nx, ny, -1), (0, 0, 0, py - ny, 0, px - nx)).to(torch.complex128)
        modes = torch.einsum("kx,ly,xyi->kli", waves[px], waves[py], padded)
        result = torch.zeros_like(modes)
        weights = torch.view_as_complex(block.spectral_2CCmm2)
        for row in range(-low, low):
            for column in range(low):
                matrix = weights[0, :, :, row, column] if row >= 0 else weights[1, :, :, low + row, column]
                result[row, column] = modes[row, column] @ matrix
                if column > 0:  # a real field: opposite wave vectors are conjugate
                    result[-row, -column] = result[row, column].conj()
        result[:, 0] = 0.5 * (
            result[:, 0] + result[torch.arange(px).neg() % px, 0].conj()
        )  # as the inverse of real fields does
        field = torch.einsum("kx,ly,kli->xyi", waves[px].conj(), waves[py].conj(), result).real / (px * py)
        expected = F.gelu(block.pointwise(features) + field[:nx, :ny].reshape(1, nx * ny, -1))
        assert relative(block(features, None, (nx, ny)), expected) < 1e-10


def test_a_grid_is_found_in_any_order():
    points = grid_points(batch=1, sizes=(6, 4))
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    grid = find_grid(points[:, order])
    assert grid.shape == (6, 4)
    assert torch.equal(grid.into(points[:, order]), points)
    assert torch.equal(grid.back(points), points[:, order])


def test_points_that_are_no_grid_are_refused():
    points = grid_points()
    with pytest.raises(ValueError, match=r"do not fill a grid of 7 x 5: train with training.num_points=none"):
        find_grid(points[:, :-1])
    with pytest.raises(ValueError, match="no uniform grid"):
        find_grid(points**3)
    moved = points.clone()
    moved[1, 3] += 0.01
    with pytest.raises(ValueError, match="do not share one grid: train with training.num_points=none"):
        find_grid(moved)
    _, inputs, scalars, _ = arguments(points=12, dtype=torch.float64)
    with pytest.raises(ValueError, match="fno needs a grid of two axes of at least 4 points"):
        make_operator(config("fno"), dtype=torch.float64)(grid_points(sizes=(4, 3)), inputs, scalars)


def test_the_convolution_sees_the_eight_neighbours_on_the_grid():
    torch.manual_seed(0)
    convolution, features = GridConvolution(5).double(), torch.randn(2, 4 * 3, 5, dtype=torch.float64)
    kernel = convolution.kernel.weight.detach().view(5, 5, 3, 3)
    expected = convolution.kernel.bias.detach().expand(2, 4, 3, 5).clone()
    for x in range(4):
        for y in range(3):
            for i in range(max(0, x - 1), min(4, x + 2)):
                for j in range(max(0, y - 1), min(3, y + 2)):
                    expected[:, x, y] += features[:, 3 * i + j] @ kernel[:, :, i - x + 1, j - y + 1].T
    with torch.no_grad():
        assert relative(convolution(features, (4, 3)), F.layer_norm(expected.flatten(1, 2), (5,))) < EXACT
    with pytest.raises(ValueError, match=r"a grid of two axes, got \(12,\)"):
        convolution(features, (12,))
    with pytest.raises(ValueError, match="lrsa on a grid is for two dimensions, the points have 3"):
        make_operator(dataclasses.replace(SMALL, grid_convolution=True), dim=3)


@pytest.mark.parametrize("name", CONVOLVED)
def test_size_and_products_of_convolved_operators_are_counted(name):
    model, points = make_operator(config(name)), grid_points(sizes=(6, 4)).float()
    _, inputs, scalars, mass = arguments(points=24)
    with torch.inference_mode(), flop_counter() as counter:
        model(points, inputs, scalars, mass)
    plain = config(name.partition(" ")[0])
    added = [weight.numel() for weight in model.parameters()]
    assert (
        sum(added) - sum(w.numel() for w in make_operator(plain).parameters()) == plain.num_blocks * (9 * 12 + 3) * 12
    )
    if name.startswith("lrsa"):
        assert lrsa_parameter_count(model.config, 2, **SIZES) == sum(added)
        assert 2 * lrsa_flop_count(model.config, 24, dim=2, **SIZES) == counter.get_total_flops()


@pytest.mark.parametrize("name", [*BASELINES, *CONVOLVED])
def test_baselines_refuse_what_only_lrsa_does(name):
    model, (points, inputs, scalars, mass) = make_operator(config(name)), arguments()
    name = name.partition(" ")[0]
    for options in ({"reducer": TorchReducer()}, {"chunk_size": 10}):
        with pytest.raises(ValueError, match=f"{name}.* needs all points on one rank, in one piece"):
            model(points, inputs, scalars, mass, **options)
    with pytest.raises(ValueError, match=f"{name}.* has no tokens"):
        model.decode(points, inputs, scalars, [])

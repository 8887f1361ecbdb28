"""The LRSA operator: symmetries, precision, cost formulas."""

import dataclasses

import pytest
import torch

from lrsa_coupled.bench.cost import flop_counter
from lrsa_coupled.operators.attention import by_exponentials, softmax_attention
from lrsa_coupled.operators.model import Operator
from lrsa_coupled.operators.normalise import Normaliser
from lrsa_coupled.operators.precision import MAX_TOKENS, autocast, by_products, choose_device, cpu_has_bf16
from tests.operators import (
    BASELINES,
    CONFIG,
    SIZES,
    VARIANTS,
    arguments,
    lrsa_flop_count,
    lrsa_parameter_count,
    make_operator,
    of_kind,
    relative,
)


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("dim", [2, 3])
def test_a_permutation_of_the_points_permutes_the_outputs(config, dim):
    model, (points, inputs, scalars, mass) = (
        make_operator(config, dim, torch.float64),
        arguments(dim=dim, dtype=torch.float64),
    )
    order = torch.randperm(points.shape[1], generator=torch.Generator().manual_seed(2))
    outputs = model(points, inputs, scalars, mass)
    permuted = model(points[:, order], inputs[:, order], scalars, mass[:, order])
    assert outputs.std() > 1e-3
    assert relative(permuted, outputs[:, order]) < 1e4 * torch.finfo(torch.float64).eps


@pytest.mark.parametrize("config", VARIANTS)
def test_every_weight_gets_a_gradient(config):
    model = make_operator(config)
    model(*arguments()).square().sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, name


@pytest.mark.parametrize("kind", ["lrsa", *BASELINES])
@pytest.mark.parametrize("gradient", [False, True])
def test_bf16_agrees_with_fp32(kind, gradient):
    model = make_operator(of_kind(CONFIG, kind))
    points, inputs, scalars, mass = arguments(points=49)
    axis = torch.linspace(0.0, 1.0, 7)
    points[:] = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).view(1, 49, 2)
    with torch.set_grad_enabled(gradient):
        exact = model(points, inputs, scalars, mass)
        with autocast("bf16", torch.device("cpu")):
            rounded = model(points, inputs, scalars, mass)
    assert rounded.dtype == torch.float32 and rounded.requires_grad == gradient
    assert 0.0 < relative(rounded, exact) < 0.03


@pytest.mark.parametrize("tokens", [16, MAX_TOKENS + 16])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bounded", [False, True])
def test_attention_in_bf16_has_values_and_gradients_of_that_in_fp64(tokens, weighted, bounded):
    """By two products with few tokens, by torch's attention with more."""
    exact = attention_arguments(tokens, 300)
    rounded = [tensor.detach().to(torch.bfloat16).requires_grad_() for tensor in exact]
    bias = attention_bias(300) if weighted else None
    assert by_products(*rounded) == (tokens <= MAX_TOKENS)
    results = [softmax_attention(*tensors, bias=bias, bounded=bounded) for tensors in (exact, rounded)]
    assert relative(results[1].double(), results[0]) < 0.02
    for result in results:
        result.double().square().sum().backward()
    for near, true in zip(rounded, exact, strict=True):
        assert relative(near.grad.double(), true.grad) < 0.03


@pytest.mark.parametrize(("rows", "columns"), [(16, 300), (300, 16), (30, 30)])
@pytest.mark.parametrize("weighted", [False, True])
def test_attention_by_exponentials_is_attention(rows, columns, weighted):
    arrays = attention_arguments(rows, columns)
    bias = attention_bias(columns) if weighted else None
    results = []
    for attention in (
        softmax_attention,
        lambda *tensors, bias: by_exponentials(tensors[0] * 8**-0.5, *tensors[1:], bias),
    ):
        tensors = [array.detach().clone().requires_grad_() for array in arrays]
        values = attention(*tensors, bias=bias)
        values.square().sum().backward()
        results.append([values.detach(), *(tensor.grad for tensor in tensors)])
    for found, expected in zip(*results, strict=True):
        assert relative(found, expected) < 1e-13


def test_attention_by_exponentials_stays_finite_beyond_its_range():
    queries, keys, values = (
        torch.full((1, 1, rows, 4), 1e3, dtype=torch.bfloat16, requires_grad=True) for rows in (3, 500, 500)
    )
    result = by_exponentials(queries, keys, values)
    result.sum().backward()
    assert torch.isfinite(result).all() and all(torch.isfinite(tensor.grad).all() for tensor in (queries, keys, values))


def attention_arguments(rows, columns):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 3, size, 8, dtype=torch.float64, generator=generator, requires_grad=True)
        for size in (rows, columns, columns)
    ]


def attention_bias(columns):
    return torch.randn(2, 1, 1, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_score_gain_is_where_the_gains_of_the_queries_begin():
    points, inputs, scalars, mass = arguments(dtype=torch.float64)
    model = make_operator(dataclasses.replace(CONFIG, score_gain=3.0), dtype=torch.float64)
    plain = make_operator(CONFIG, dtype=torch.float64)
    assert relative(model(points, inputs, scalars, mass), plain(points, inputs, scalars, mass)) > 1e-3
    with torch.no_grad():
        for block in plain.blocks:
            block.down_gain_D.add_(2.0), block.up_gain_D.add_(2.0)
    assert relative(model(points, inputs, scalars, mass), plain(points, inputs, scalars, mass)) < 1e-6


def test_no_type_keeps_torch_from_its_fused_kernels(recwarn):
    model = make_operator()
    with autocast("bf16", torch.device("cpu")):
        model(*arguments()).sum().backward()
    assert not [warning for warning in recwarn if "fused" in str(warning.message)]


@pytest.mark.parametrize("config", VARIANTS)
def test_parameter_count_is_exact(config):
    model = make_operator(config, dim=3)
    assert lrsa_parameter_count(config, 3, **SIZES) == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("config", VARIANTS)
def test_flop_count_is_exact(config):
    model, batch, points = make_operator(config), 2, 40
    with torch.inference_mode(), flop_counter() as counter:
        model(*arguments(batch, points))
    assert batch * lrsa_flop_count(config, points, dim=2, **SIZES) == counter.get_total_flops()


@pytest.mark.parametrize("weight_std", [0.02, None])
def test_the_size_of_new_weights(weight_std):
    model = make_operator(dataclasses.replace(CONFIG, weight_std=weight_std, width=64, num_heads=4))
    model.initialise()
    for module in model.blocks.modules():
        if isinstance(module, torch.nn.Linear):
            assert module.weight.std().item() == pytest.approx(weight_std or module.in_features**-0.5, rel=0.1)


def test_mass_weights_make_a_repeated_point_immaterial():
    model, (points, inputs, scalars, mass) = make_operator(dtype=torch.float64), arguments(dtype=torch.float64)
    outputs = model(points, inputs, scalars, mass)
    split = mass.clone()
    split[:, 0] *= 0.25
    twice = [torch.cat((tensor, tensor[:, :1]), dim=1) for tensor in (points, inputs)]
    refined = model(*twice, scalars, torch.cat((split, 0.75 * mass[:, :1]), dim=1))
    assert relative(refined[:, :-1], outputs) < 1e-12
    assert relative(model(points, inputs, scalars, 7.0 * mass), outputs) < 1e-12


def test_outputs_are_in_physical_units():
    model, (points, inputs, scalars, mass) = make_operator(dtype=torch.float64), arguments(dtype=torch.float64)
    before = model(points, inputs, scalars, mass)
    normaliser = model.normaliser
    normaliser.outputs_mean += 5.0
    normaliser.outputs_std *= 3.0
    normaliser.points_mean += 2.0
    normaliser.points_std *= 10.0
    assert relative(model(10.0 * points + 2.0, inputs, scalars, mass), 3.0 * before + 5.0) < 1e-12


def test_outputs_may_correct_inputs():
    """Columns 0 and 3 of the outputs correct columns 2 and 0 of the inputs; whole, in chunks and decoded."""
    points, inputs, scalars, mass = arguments(dtype=torch.float64)
    plain = make_operator(dtype=torch.float64)
    torch.manual_seed(0)
    model = Operator(CONFIG, 2, 3, 2, 4, relative_to=[2, 3, 3, 0]).to(torch.float64)
    model.load_state_dict(plain.state_dict())
    expected = plain(points, inputs, scalars, mass)
    expected[..., 0] += inputs[..., 2]
    expected[..., 3] += inputs[..., 0]
    outputs, tokens = model.encode(points, inputs, scalars, mass, chunk_size=7)
    assert relative(outputs, expected) < 1e-12
    assert relative(model.decode(points[:, :5], inputs[:, :5], scalars, tokens), expected[:, :5]) < 1e-12
    model.normaliser.fit(
        points[0], inputs[0], scalars_SG=scalars, outputs_TK=model.base(inputs)[0] + 3.0, base_TK=model.base(inputs)[0]
    )
    assert torch.allclose(model.normaliser.outputs_mean, torch.full((4,), 3.0, dtype=torch.float64))
    assert model.normaliser.outputs_max[0] == inputs[0, :, 2].max() + 3.0


def test_fit_of_the_normaliser_and_excess():
    normaliser = Normaliser(2, 1, num_scalars=1, num_outputs=2)
    points = torch.rand(1000, 2, dtype=torch.float64) * 4.0 + 1e3
    outputs = torch.stack((torch.linspace(-2.0, 6.0, 1000), torch.full((1000,), 3.0)), dim=1)
    normaliser.fit(points, torch.full((1000, 1), 0.3), scalars_SG=torch.tensor([[1.0], [3.0]]), outputs_TK=outputs)
    units = normaliser.normalised(points, torch.full((1, 1), 0.3), torch.tensor([[3.0]]))
    assert torch.allclose(units[0].std(dim=0), torch.ones(2), rtol=1e-2)
    assert normaliser.inputs_std.item() == 1.0 and normaliser.outputs_std[1] == 1.0
    assert units[2].item() == pytest.approx(1.0)
    assert normaliser.excess(outputs) == pytest.approx(1.0)
    assert normaliser.excess(torch.tensor([[10.0, 3.0]])) == pytest.approx(2.0)
    assert normaliser.excess(torch.tensor([[0.0, torch.nan]])) == float("inf")
    assert normaliser.excess(torch.empty(1, 0, 2)) == 0.0


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"grid_skip .* grid_convolution, which is off"):
        make_operator(dataclasses.replace(CONFIG, grid_skip=True))
    model, (points, inputs, scalars, mass) = make_operator(), arguments()
    with pytest.raises(ValueError, match="points: expected shape"):
        model(points[..., :1], inputs, scalars, mass)
    with pytest.raises(ValueError, match="scalars: expected shape"):
        model(points, inputs, scalars[:1], mass)
    with pytest.raises(ValueError, match="needs the lumped mass"):
        model(points, inputs, scalars)
    with pytest.raises(ValueError, match="at least one point"):
        model(points[:, :0], inputs[:, :0], scalars, mass[:, :0])


@pytest.mark.parametrize("change", [{"num_heads": 5}, {"num_blocks": 0}, {"num_frequencies": -1}, {"score_gain": 0.0}])
def test_impossible_sizes_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Operator(dataclasses.replace(CONFIG, **change), 2, 3, 2, 4)


def test_devices_and_precisions(tmp_path):
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match="precision must be"):
        autocast("fp8", torch.device("cpu"))
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags : fpu avx512_bf16 sse\n", encoding="utf-8")
    assert cpu_has_bf16(tmp_path / "cpuinfo")
    assert not cpu_has_bf16(tmp_path / "none")


def test_decoding_a_point_gives_what_encoding_gave():
    model = make_operator(dtype=torch.float64)
    points, inputs, scalars, mass = arguments(dtype=torch.float64)
    outputs, tokens = model.encode(points, inputs, scalars, mass)
    some = torch.tensor([3, 17, 44])
    again = model.decode(points[:, some], inputs[:, some], scalars, tokens)
    assert torch.allclose(again, outputs[:, some], rtol=0.0, atol=1e-12)

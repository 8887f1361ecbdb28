"""Collector and attach with unknowns of any element, of several functions, and on surfaces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import ufl
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the attachment needs DOLFINx")

import basix.ufl
from dolfinx import default_scalar_type, fem
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem
from dolfinx.mesh import create_submesh, create_unit_cube, create_unit_square, exterior_facet_indices, locate_entities

from lrsa_coupled.config import Config, GuessConfig, LrsaConfig, TrainingConfig
from lrsa_coupled.coupling.elements import num_columns
from lrsa_coupled.coupling.predictor import Predictor
from lrsa_coupled.coupling.script import unknown
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.data.store import DataStore
from lrsa_coupled.generation.collect import Collector, fields_of
from lrsa_coupled.guess.attach import attach
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.mpi import share
from lrsa_coupled.schema import Schema
from lrsa_coupled.study.on_mesh import is_same
from lrsa_coupled.training import checkpoint
from lrsa_coupled.training.loop import train

COMM = MPI.COMM_WORLD
ITERATIVE = {"ksp_type": "gmres", "pc_type": "jacobi", "ksp_rtol": 1e-9, "ksp_gmres_restart": 500, "ksp_max_it": 2000}
type Problem = LinearProblem | NonlinearProblem


def linear(a: ufl.Form, rhs: ufl.Form, u: fem.Function, *bcs: fem.DirichletBC) -> LinearProblem:
    return LinearProblem(a, rhs, u=u, bcs=bcs, petsc_options_prefix=f"any_{u.name}_", petsc_options=ITERATIVE)


def discontinuous() -> Problem:
    mesh = create_unit_square(COMM, 3, 3)
    space = fem.functionspace(mesh, ("DG", 1))
    u, v, normal = ufl.TrialFunction(space), ufl.TestFunction(space), ufl.FacetNormal(mesh)
    a = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx + ufl.inner(u, v) * ufl.dx
    a += 50 * ufl.inner(ufl.jump(u), ufl.jump(v)) * ufl.dS
    a -= ufl.inner(ufl.avg(ufl.grad(u)), ufl.jump(v, normal)) * ufl.dS
    a -= ufl.inner(ufl.jump(u, normal), ufl.avg(ufl.grad(v))) * ufl.dS
    return linear(a, ufl.inner(ufl.SpatialCoordinate(mesh)[0], v) * ufl.dx, fem.Function(space, name="dg"))


def edges() -> Problem:
    mesh = create_unit_square(COMM, 4, 3)
    space = fem.functionspace(mesh, ("N1curl", 1))
    u, v = ufl.TrialFunction(space), ufl.TestFunction(space)
    mesh.topology.create_connectivity(1, 2)
    dofs = fem.locate_dofs_topological(space, 1, exterior_facet_indices(mesh.topology))
    a = ufl.inner(ufl.curl(u), ufl.curl(v)) * ufl.dx + 10 * ufl.inner(u, v) * ufl.dx
    x = ufl.SpatialCoordinate(mesh)
    solution, edge = fem.Function(space, name="edges"), fem.Function(space)
    edge.interpolate(lambda x: np.stack([x[1], 0 * x[0]]))
    return linear(
        a, ufl.inner(ufl.as_vector([x[1] ** 2, 1.0 + x[0]]), v) * ufl.dx, solution, fem.dirichletbc(edge, dofs)
    )


def fluxes() -> Problem:
    mesh = create_unit_square(COMM, 3, 3)
    cell = mesh.basix_cell()
    space = fem.functionspace(mesh, basix.ufl.mixed_element([basix.ufl.element("RT", cell, 1),
                                                             basix.ufl.element("DG", cell, 0)]))  # fmt: skip
    (q, p), (w, v) = ufl.TrialFunctions(space), ufl.TestFunctions(space)
    a = (ufl.inner(q, w) - ufl.inner(p, ufl.div(w)) + ufl.inner(ufl.div(q), v) + ufl.inner(p, v)) * ufl.dx
    return linear(a, ufl.inner(ufl.SpatialCoordinate(mesh)[0], v) * ufl.dx, fem.Function(space, name="fluxes"))


def surface() -> Problem:
    box = create_unit_cube(COMM, 3, 3, 3)
    box.topology.create_connectivity(2, 3)
    mesh = create_submesh(box, 2, locate_entities(box, 2, lambda x: np.isclose(x[2], 1) | np.isclose(x[0], 1)))[0]
    space = fem.functionspace(mesh, ("P", 2))
    u, v = ufl.TrialFunction(space), ufl.TestFunction(space)
    a = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx + ufl.inner(u, v) * ufl.dx
    x = ufl.SpatialCoordinate(mesh)
    return linear(a, ufl.inner(x[0] + 5 * x[1] * x[2], v) * ufl.dx, fem.Function(space, name="surface"))


def several(kind: str, *, is_linear: bool) -> Problem:
    mesh = create_unit_square(COMM, 3, 3)
    spaces = [fem.functionspace(mesh, ("P", 2)), fem.functionspace(mesh, ("DG", 0))]
    u, p = (fem.Function(space, name=name) for space, name in zip(spaces, ("heat", "charge"), strict=True))
    v, q = map(ufl.TestFunction, spaces)
    mesh.topology.create_connectivity(1, 2)
    dofs = fem.locate_dofs_topological(spaces[0], 1, exterior_facet_indices(mesh.topology))
    bcs = [fem.dirichletbc(default_scalar_type(0.5), dofs, spaces[0])]
    one = fem.Constant(mesh, default_scalar_type(1.0))
    if is_linear:
        s, t = map(ufl.TrialFunction, spaces)
        a = [[ufl.inner(ufl.grad(s), ufl.grad(v)) * ufl.dx, ufl.inner(t, v) * ufl.dx],
             [-ufl.inner(s, q) * ufl.dx, ufl.inner(t, q) * ufl.dx]]  # fmt: skip
        rhs = [10 * ufl.inner(one, v) * ufl.dx, ufl.inner(one, q) * ufl.dx]
        return LinearProblem(a, rhs, u=[u, p], bcs=bcs, kind=kind, petsc_options_prefix=f"several_{kind}_",
                             petsc_options=ITERATIVE | {"pc_type": "none"})  # fmt: skip
    residual = [ufl.inner((1 + u**2) * ufl.grad(u), ufl.grad(v)) * ufl.dx + ufl.inner(p - 10, v) * ufl.dx,
                ufl.inner(p - u - 1, q) * ufl.dx]  # fmt: skip
    options = ITERATIVE | {"pc_type": "none", "snes_rtol": 1e-6, "snes_linesearch_type": "none", "ksp_rtol": 1e-6}
    return NonlinearProblem(residual, [u, p], bcs=bcs, kind=kind, petsc_options_prefix=f"snes_{kind}_",
                            petsc_options=options)  # fmt: skip


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "discontinuous": discontinuous,
    "edges": edges,
    "fluxes": fluxes,
    "surface": surface,
    "two functions": lambda: several("mpi", is_linear=True),
    "two functions, nested": lambda: several("nest", is_linear=True),
    "two functions, nonlinear": lambda: several("mpi", is_linear=False),
    "two functions, nonlinear, nested": lambda: several("nest", is_linear=False),
}


class Known(torch.nn.Module):
    """Stands for an operator: outputs that were given beforehand at the nodes of this rank, in their order."""

    def __init__(self, model: torch.nn.Module, values: np.ndarray) -> None:
        super().__init__()
        self.normaliser, self.config, self.values = model.normaliser, model.config, torch.from_numpy(values)

    def encode(self, *_: object, **others: object) -> tuple[torch.Tensor, None]:
        return self.values[None].float(), None


def knows(schema: Schema, values: np.ndarray) -> LearnedGuess:
    operator = LrsaConfig(width=16, num_blocks=1, num_heads=2, num_latents=8)
    card = checkpoint.ModelCard(schema, 6, operator, TrainingConfig(), checkpoint.DataInfo(10, 0), {})
    model = checkpoint.make_model(operator, schema)
    zero = torch.zeros(50, 0)
    model.normaliser.fit(
        torch.rand(50, schema.dim), zero, scalars_SG=zero, outputs_TK=torch.rand(50, schema.num_outputs)
    )
    predictor = Predictor(model.eval(), card, GuessConfig(evaluate_at="nodes", max_ratio=1e9))
    predictor.model = Known(model, values)
    return LearnedGuess(predictor)


def functions(problem: Problem) -> list[fem.Function]:
    return list(problem.u) if isinstance(problem.u, (list, tuple)) else [problem.u]


def solved(problem: Problem) -> int:
    for function in functions(problem):
        function.x.array[:] = 0.0
    problem.solve()
    assert problem.solver.getConvergedReason() > 0
    return problem.solver.getIterationNumber()


@pytest.mark.parametrize("name", PROBLEMS)
def test_collected_and_solved_from_the_guess(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    problem = PROBLEMS[name]()
    folder = Path(COMM.bcast(str(tmp_path_factory.mktemp("any") / "data") if COMM.rank == 0 else None))
    with Collector(folder, problem, name="any") as samples:
        default = solved(problem)
        samples.add()
    schema = COMM.bcast(DataStore(folder).card.schema if COMM.rank == 0 else None)
    truth = [function.x.array.copy() for function in functions(problem)]
    solution = tuple(problem.u) if isinstance(problem.u, (list, tuple)) else problem.u
    nodes = NodeSet(unknown(solution, [], schema.outputs), schema.outputs)
    attached = attach(problem, knows(schema, nodes.gather(solution)))
    iterations = []
    for _ in range(2):
        iterations.append(solved(problem))
        for function, values in zip(functions(problem), truth, strict=True):
            size = max(1.0, np.abs(values).max(initial=0.0))
            assert np.abs(function.x.array - values).max(initial=0.0) < 1e-5 * size
    first, second = attached.policy.decisions
    assert (first.choice, second.choice, second.outcome) == ("default", "learned", "converged")
    assert iterations[0] == default > iterations[1]


def test_names_of_the_functions_of_a_list() -> None:
    problem = several("mpi", is_linear=True)
    solution = tuple(problem.u)
    assert num_columns(solution, "heat", (0,)) == num_columns(solution, "charge", (1,)) >= 1
    with pytest.raises(ValueError, match="expected a path that begins with the number"):
        num_columns(solution, "heat", ())


def test_a_surface_trains_with_the_gradient_loss(tmp_path_factory: pytest.TempPathFactory) -> None:
    problem = surface()
    folder = Path(COMM.bcast(str(tmp_path_factory.mktemp("surface")) if COMM.rank == 0 else None))
    factor = fem.Constant(problem.u.function_space.mesh, default_scalar_type(1.0))
    with Collector(
        folder / "data", problem, name="surface", scalars={"factor": lambda: float(factor.value.real)}
    ) as all_:
        for number in range(10):
            factor.value = 1.0 + number / 10
            problem.solve()
            problem.u.x.array[:] *= factor.value
            all_.add()
    config = Config(
        operator=LrsaConfig(width=16, num_blocks=1, num_heads=2, num_latents=8),
        training=TrainingConfig(
            epochs=2, batch_size=4, num_points=30, gradient_weight=0.5, valid_fraction=0.2, device="cpu"
        ),
    )
    share(COMM, lambda: train(folder / "data", folder / "model", config))
    attached = attach(problem, LearnedGuess.load(folder / "model"), scalars={"factor": 1.0})
    for _ in range(2):
        solved(problem)
    assert attached.policy.summary()


def test_unknowns_of_the_same_shape_are_not_the_same() -> None:
    """Elements of edges have the same nodes and numbers, and another meaning."""
    mesh = create_unit_square(COMM, 3, 3)
    functions = [fem.Function(fem.functionspace(mesh, (family, 1))) for family in ("RT", "N1curl", "RT")]
    one, other, again = (unknown(function, [], fields_of(function, None)) for function in functions)
    assert not is_same(one, other) and is_same(one, again)

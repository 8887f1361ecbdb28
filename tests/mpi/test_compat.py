"""The versions of DOLFINx: what stands in one module works with 0.11 and knows the forms that 0.10 has."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ufl
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="it is about DOLFINx")

import dolfinx
from dolfinx import fem, mesh as meshes
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem
from petsc4py import PETSc

from lrsa_coupled import cli
from lrsa_coupled.coupling import compat

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def problems() -> tuple[LinearProblem, NonlinearProblem, list[fem.DirichletBC]]:
    """One Dirichlet problem as a linear and as a nonlinear one, and its conditions."""
    mesh = meshes.create_unit_square(COMM, 4, 4)
    space = fem.functionspace(mesh, ("P", 1))
    u, v = fem.Function(space), ufl.TestFunction(space)
    mesh.topology.create_connectivity(1, 2)
    dofs = fem.locate_dofs_topological(space, 1, meshes.exterior_facet_indices(mesh.topology))
    bcs = [fem.dirichletbc(PETSc.ScalarType(2.0), dofs, space)]
    stiffness = ufl.inner(ufl.grad(ufl.TrialFunction(space)), ufl.grad(v)) * ufl.dx
    load = ufl.inner(fem.Constant(mesh, PETSc.ScalarType(1.0)), v) * ufl.dx
    linear = LinearProblem(stiffness, load, bcs=bcs, petsc_options_prefix="compat_linear_")
    residual = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx - load
    return linear, NonlinearProblem(residual, u, bcs=bcs, petsc_options_prefix="compat_"), bcs


@pytest.mark.filterwarnings("ignore:.*compat:RuntimeWarning")  # it is in sys.modules already
@pytest.mark.parametrize(("version", "known"), [("0.9.0.post1", 0), ("0.10.0.post5", 1), ("0.11.0", 1), ("1.11.0", 0)])
def test_other_versions_are_refused_at_the_first_import(monkeypatch, version: str, known: int) -> None:
    monkeypatch.setattr(dolfinx, "__version__", version)
    if known:
        assert runpy.run_module(compat.__name__)["RELEASE"] == ".".join(version.split(".")[:2])
        return
    with pytest.raises(ImportError, match=rf"needs DOLFINx 0.10 or 0.11, found {version}") as found:
        runpy.run_module(compat.__name__)
    assert cli._line(found.value) == str(found.value)  # one line on the command line, too


def test_conditions_are_found_wherever_the_callbacks_have_them(problems) -> None:
    linear, nonlinear, bcs = problems
    assert compat.dirichlet_conditions(linear) == bcs == compat.dirichlet_conditions(nonlinear)
    snes, u, own = nonlinear.solver, nonlinear.u, fem.petsc.assemble_residual
    for known in (bcs, []):
        snes.setFunction(partial(own, u, nonlinear.F, nonlinear.J, known), nonlinear.b)  # as 0.10 does
        assert compat.dirichlet_conditions(nonlinear) == known
    snes.setFunction(lambda snes, x, b: None, nonlinear.b)  # of the user's own: the Jacobian has them
    assert compat.dirichlet_conditions(nonlinear) == bcs
    snes.setJacobian(lambda snes, x, matrix, preconditioner: None, nonlinear.A)
    assert compat.dirichlet_conditions(nonlinear) is None
    snes.setFunction(lambda snes, x, b, *given: None, nonlinear.b, args=(u, [u], bcs))
    assert compat.dirichlet_conditions(nonlinear) == bcs


def _old_order(u, residual, jacobian, bcs, _snes, x, b) -> tuple:
    return u, residual, jacobian, bcs, _snes, x, b


def _new_order(_snes, x, b, u, residual, jacobian, bcs, _blocks=None) -> tuple:
    return u, residual, jacobian, bcs, _snes, x, b


@pytest.mark.parametrize("function", [_old_order, _new_order])
def test_arguments_of_the_residual_reach_their_names(monkeypatch, function: Callable[..., tuple]) -> None:
    found: list[tuple] = []
    monkeypatch.setattr(
        compat, "petsc", SimpleNamespace(assemble_residual=lambda **given: found.append(function(**given)))
    )
    compat.assemble_residual("u", "F", "J", bcs=("bc",), x="x", b="b")
    assert found == [("u", "F", "J", ["bc"], None, "x", "b")]


def test_residual_and_geometry(problems, monkeypatch) -> None:
    _, problem, bcs = problems
    x, b = problem.x, problem.b
    x.set(0.0)
    compat.assemble_residual(problem.u, problem.F, problem.J, bcs=bcs, x=x, b=b)
    fixed = bcs[0].dof_indices()[0][: bcs[0].dof_indices()[1]]
    assert np.allclose(b.array_r[fixed], -2.0)
    mesh = problem.u.function_space.mesh
    assert compat.coordinate_degree(mesh) == 1
    corners = mesh.geometry.x[compat.cell_nodes(mesh)]
    area = np.abs(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2]) / 2
    assert np.allclose(area, 1 / 32)
    monkeypatch.setattr(compat, "RELEASE", "0.10")
    old = SimpleNamespace(geometry=SimpleNamespace(cmap=SimpleNamespace(degree=3), dofmap="cells"))
    assert (compat.coordinate_degree(old), compat.cell_nodes(old)) == (3, "cells")


def test_internals_of_dolfinx_stand_in_one_module() -> None:
    names = r"assemble_residual|assemble_jacobian|assign|create_vector"
    internal = re.compile(
        rf"from dolfinx\.fem\.petsc import .*\b({names})\b|dolfinx\.cpp|\._cpp_object|\.(cmap|dofmap)s?\["
    )
    files = [path for part in ("lrsa_coupled", "solvers", "cases") for path in (ROOT / part).rglob("*.py")]
    own = [path for path in files if path.name != "compat.py" and "scripts" not in path.parts]  # those are users'
    wrong = [str(path.relative_to(ROOT)) for path in own if internal.search(path.read_text(encoding="utf-8"))]
    assert not wrong, "use lrsa_coupled.coupling.compat"

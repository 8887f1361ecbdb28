"""Small problems of every kind that the support table of ``lrsa_coupled/README.md`` names."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import basix.ufl
import numpy as np
import pytest
import ufl
from mpi4py import MPI
from dolfinx import default_scalar_type, fem
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem
from dolfinx.mesh import (
    CellType,
    Mesh,
    create_mesh,
    create_submesh,
    create_unit_cube,
    create_unit_square,
    locate_entities,
)

COMM = MPI.COMM_WORLD
NUMBERS = itertools.count()
GMRES = {"ksp_type": "gmres", "pc_type": "jacobi", "ksp_rtol": 1e-9, "ksp_gmres_restart": 500, "ksp_max_it": 2000}
element, mixed = basix.ufl.element, basix.ufl.mixed_element


@dataclass
class Kind:
    """A problem of a script, the residual whose root its unknown is, and an input at its nodes."""

    problem: Any
    residual: Any
    u: fem.Function | list[fem.Function]
    source: fem.Function
    steps: int = 1

    def run(self) -> list[np.ndarray]:
        """Solve from zeros, each step with the one before as the source; the last answers, owned and ghosts."""
        functions = self.u if isinstance(self.u, list) else [self.u]
        for function in functions:
            function.x.array[:] = 0.0
        for step in range(self.steps):
            if self.steps > 1:
                self.source.interpolate(functions[0] if step else (lambda x: 1.0 + x[0]))
            self.problem.solve()
        return [function.x.array.copy() for function in functions]


def made(mesh: Mesh, space: Any, form: Callable[..., Any], *, options: dict[str, Any] | None = None) -> Kind:
    """A linear problem ``form(u, v) = (source, v)``; ``options`` go before those of GMRES."""
    space = fem.functionspace(mesh, space)
    u, trial, v = fem.Function(space, name="u"), ufl.TrialFunction(space), ufl.TestFunction(space)
    source = fem.Function(fem.functionspace(mesh, ("DG", 0)))
    source.interpolate(lambda x: 1.0 + (x[0] > 0.3) * x[1])
    tests = sum(v[i] for i in np.ndindex(v.ufl_shape)) if v.ufl_shape else v
    load = ufl.inner(source, tests) * ufl.dx
    problem = LinearProblem(form(trial, v), load, u=u, bcs=[], petsc_options_prefix=f"kind{next(NUMBERS)}_",
                            petsc_options=GMRES | (options or {}))  # fmt: skip
    return Kind(problem, form(u, v) - load, u, source)


def diffusion(u: Any, v: Any) -> Any:
    return (ufl.inner(ufl.grad(u), ufl.grad(v)) + ufl.inner(u, v)) * ufl.dx


def jumps(u: Any, v: Any) -> Any:
    return diffusion(u, v) + 20 * ufl.inner(ufl.jump(u), ufl.jump(v)) * ufl.dS


def curls(u: Any, v: Any) -> Any:
    return (ufl.inner(ufl.curl(u), ufl.curl(v)) + 5 * ufl.inner(u, v)) * ufl.dx


def divergences(u: Any, v: Any) -> Any:
    return (ufl.inner(ufl.div(u), ufl.div(v)) + 5 * ufl.inner(u, v)) * ufl.dx


def flow(u: Any, v: Any) -> Any:
    (w, p), (z, q) = ufl.split(u), ufl.split(v)
    return diffusion(w, z) - (ufl.inner(p, ufl.div(z)) + ufl.inner(ufl.div(w), q) + ufl.inner(p, q)) * ufl.dx


def square(cell: CellType = CellType.triangle) -> Mesh:
    return create_unit_square(COMM, 4, 4, cell)


def surface() -> Mesh:
    box = create_unit_cube(COMM, 3, 3, 3)
    return create_submesh(box, 2, locate_entities(box, 2, lambda x: np.isclose(x[2], 1) | np.isclose(x[0], 1)))[0]


def curve() -> Mesh:
    plane = create_unit_square(COMM, 5, 5)
    plane.topology.create_entities(1)
    return create_submesh(plane, 1, locate_entities(plane, 1, lambda x: np.isclose(x[0], 1) | np.isclose(x[1], 1)))[0]


def curved() -> Mesh:
    nodes = fem.functionspace(create_unit_square(MPI.COMM_SELF, 4, 4), ("P", 2))
    x = nodes.tabulate_dof_coordinates()[:, :2]
    x, rows = x + 0.1 * np.sin(3 * x[:, ::-1]), slice(None if COMM.rank == 0 else 0)
    cells = nodes.dofmap.list.astype(np.int64)
    return create_mesh(COMM, cells[rows], element("P", "triangle", 2, shape=(2,)), x[rows])


def on_submesh() -> Kind:
    mesh = square()
    part = create_submesh(mesh, 2, locate_entities(mesh, 2, lambda x: x[0] <= 0.5 + 1e-9))[0]
    kind = made(part, ("P", 1), diffusion)
    parent = fem.Function(fem.functionspace(mesh, ("DG", 0)))
    parent.interpolate(lambda x: 1.0 + x[1])
    kind.source = parent
    return kind


def mini(cell: str) -> Any:
    bubble = basix.ufl.enriched_element([element("P", cell, 1), element("Bubble", cell, 3)])
    return mixed([basix.ufl.blocked_element(bubble, shape=(2,)), element("P", cell, 1)])


def several(kind: str) -> Kind:
    mesh = square()
    spaces = [fem.functionspace(mesh, ("P", 2)), fem.functionspace(mesh, ("P", 1))]
    u, p = (fem.Function(space, name=name) for space, name in zip(spaces, "up", strict=True))
    (s, t), (v, q) = map(ufl.TrialFunction, spaces), map(ufl.TestFunction, spaces)
    a = [[diffusion(s, v), ufl.inner(t, v) * ufl.dx], [-ufl.inner(s, q) * ufl.dx, diffusion(t, q)]]
    source = fem.Function(spaces[1])
    source.interpolate(lambda x: 1.0 + x[0])
    rhs = [ufl.inner(source, v) * ufl.dx, ufl.inner(source, q) * ufl.dx]
    options = GMRES | {"pc_type": "none"}
    problem = LinearProblem(a, rhs, u=[u, p], bcs=[], kind=kind, petsc_options_prefix=f"kind{next(NUMBERS)}_",
                            petsc_options=options)  # fmt: skip
    return Kind(problem, None, [u, p], source)


def nonlinear(**options: Any) -> Kind:
    kind = made(square(), ("P", 2), diffusion)
    residual = kind.residual + ufl.inner(5 * kind.u**3, ufl.TestFunction(kind.u.function_space)) * ufl.dx
    settings = GMRES | {"snes_rtol": 1e-10, "snes_linesearch_type": "none"} | options
    problem = NonlinearProblem(residual, kind.u, bcs=[], petsc_options_prefix=f"kind{next(NUMBERS)}_",
                               petsc_options=settings)  # fmt: skip
    return Kind(problem, residual, kind.u, kind.source)


def inequality() -> Kind:
    kind = nonlinear(snes_type="vinewtonrsls", snes_vi_zero_tolerance=1e-10)
    lower, upper = (fem.petsc.create_vector(kind.u.function_space) for _ in range(2))
    lower.set(-1.0)
    upper.set(0.5)
    kind.problem.solver.setVariableBounds(lower, upper)
    return kind


def eigenproblem() -> Kind:
    slepc = pytest.importorskip("slepc4py.SLEPc")
    kind = made(square(), ("P", 1), diffusion)
    return Kind(slepc.EPS().create(COMM), None, kind.u, kind.source)


def time_steps() -> Kind:
    kind = made(square(), ("P", 1), lambda u, v: 0.1 * diffusion(u, v) + 10 * ufl.inner(u, v) * ufl.dx)
    return dataclasses.replace(kind, steps=3)


def complex_waves() -> Kind:
    if not np.issubdtype(default_scalar_type, np.complexfloating):
        pytest.skip("needs complex PETSc")
    return made(square(), ("P", 1), lambda u, v: diffusion(u, v) - ufl.inner((9 + 3j) * u, v) * ufl.dx)


def prisms() -> Kind:
    mesh = create_unit_cube(COMM, 2, 2, 2, CellType.prism)
    return made(mesh, ("P", 1), diffusion)


def lagrange(
    space: Any, form: Any = diffusion, mesh: Callable[[], Mesh] = square, **options: Any
) -> Callable[[], Kind]:
    return lambda: made(mesh(), space, form, options=options)


KINDS: dict[str, Callable[[], Kind]] = {
    "P1": lagrange(("P", 1)),
    "P2": lagrange(("P", 2)),
    "P4": lagrange(("P", 4)),
    "vector P2": lagrange(("P", 2, (2,))),
    "symmetric tensor": lagrange(element("P", "triangle", 1, shape=(2, 2), symmetry=True)),
    "Taylor-Hood": lagrange(mixed([element("P", "triangle", 2, shape=(2,)), element("P", "triangle", 1)]), flow,
                            pc_type="none"),
    "MINI": lagrange(mini("triangle"), flow, pc_type="none"),
    "DG1": lagrange(("DG", 1), jumps),
    "DG0": lagrange(("DG", 0), jumps),
    "Nedelec": lagrange(("N1curl", 1), curls),
    "Raviart-Thomas": lagrange(("RT", 1), divergences),
    "list of functions, `mpi`": lambda: several("mpi"),
    "list of functions, `nest`": lambda: several("nest"),
    "surface": lagrange(("P", 2), mesh=surface),
    "curve": lagrange(("P", 2), mesh=curve),
    "quadrilaterals": lagrange(("P", 2), mesh=lambda: square(CellType.quadrilateral)),
    "hexahedra": lagrange(("P", 1), mesh=lambda: create_unit_cube(COMM, 2, 2, 2, CellType.hexahedron)),
    "prisms": prisms,
    "curved mesh": lagrange(("P", 2), mesh=curved),
    "submesh, input on its parent": on_submesh,
    "nonlinear": nonlinear,
    "complex": complex_waves,
    "time steps": time_steps,
    "direct solver": lagrange(("P", 1), ksp_type="preonly", pc_type="lu"),
    "fixed number of iterations": lagrange(("P", 1), ksp_norm_type="none", ksp_max_it=30, ksp_type="chebyshev"),
    "variational inequality": inequality,
    "eigenproblem": eigenproblem,
}  # fmt: skip

"""Ten families of problems as a user's script has them: P1 and P2, scalar and vector, with and without an energy.

``FAMILIES`` has a function for each; it takes the communicator and the cells along a side, and returns a ``Family``.
``lrsa-coupled experiment acceptance`` runs all of them. Real PETSc only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import ufl
from ufl import dx, grad, inner
from mpi4py import MPI
from dolfinx import fem, mesh
from dolfinx.fem.petsc import LinearProblem, NonlinearProblem

LU = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
NEWTON = {**LU, "snes_rtol": 1e-8, "snes_max_it": 50}
KRYLOV = {"ksp_rtol": 1e-8, "pc_type": "ilu", "ksp_max_it": 2000}


@dataclass(frozen=True)
class Family:
    """A problem, and how it is varied.

    Args:
        problem: Its ``solve`` starts from what is in the unknown, zeros at first.
        inputs: What an operator sees, by name.
        scalars: The same of scalars.
        draw: Sets the parameters of the next problem, and puts the script's own guess into the unknown.
        outputs: Fields of the unknown, None for all of it.
    """

    problem: NonlinearProblem | LinearProblem
    inputs: Mapping[str, Any]
    scalars: Mapping[str, Any]
    draw: Callable[[np.random.Generator], None]
    outputs: Mapping[str, tuple[int, ...]] | None = None


def heat(comm: MPI.Comm, cells: int) -> Family:
    """Conductivity that grows with the square of the temperature, P2."""
    u, v, bcs, source = _scalar(comm, cells, 2)
    form = (1.0 + u**2) * inner(grad(u), grad(v)) * dx - inner(source, v) * dx
    return Family(_newton("heat", form, u, bcs), {"source": source}, {}, lambda rng: _bumps(source, rng, 60.0))


def p_laplacian(comm: MPI.Comm, cells: int) -> Family:
    """The p-Laplacian for p = 4, P1, with its energy."""
    u, v, bcs, source = _scalar(comm, cells, 1)
    energy = ((0.05 + inner(grad(u), grad(u))) ** 2 / 4 - source * u) * dx
    return Family(
        _minimise("p_laplacian", energy, u, v, bcs), {"source": source}, {}, lambda rng: _bumps(source, rng, 10.0)
    )


def minimal_surface(comm: MPI.Comm, cells: int) -> Family:
    """A soap film over a random boundary curve, P1, with its energy."""
    u, v, _, _ = _scalar(comm, cells, 1)
    edge = fem.Function(u.function_space, name="edge")
    energy = ufl.sqrt(1.0 + inner(grad(u), grad(u))) * dx

    def draw(rng: np.random.Generator) -> None:
        a, b = rng.uniform(-0.5, 0.5, 3), rng.uniform(0.0, 2.0 * np.pi, 3)
        edge.interpolate(
            lambda x: sum(a[k] * np.sin((k + 1) * np.arctan2(x[1] - 0.5, x[0] - 0.5) + b[k]) for k in range(3))
        )

        u.x.array[:] = 0.0
        bcs[0].set(u.x.array)  # a step towards the edge would have to raise the energy

    bcs = [fem.dirichletbc(edge, _boundary(u.function_space))]
    return Family(_minimise("minimal_surface", energy, u, v, bcs), {"edge": edge}, {}, draw)


def reaction_diffusion(comm: MPI.Comm, cells: int) -> Family:
    """A cubic reaction in a thin layer, P1."""
    u, v, bcs, source = _scalar(comm, cells, 1)
    rate = fem.Constant(u.function_space.mesh, 1.0)
    form = (0.01 * inner(grad(u), grad(v)) + rate * (u**3 + u) * v - source * v) * dx

    def draw(rng: np.random.Generator) -> None:
        _bumps(source, rng, 10.0)
        rate.value = rng.uniform(0.5, 2.0)

    return Family(_newton("reaction_diffusion", form, u, bcs), {"source": source}, {"rate": rate}, draw)


def bratu(comm: MPI.Comm, cells: int) -> Family:
    """An exothermic reaction, P2, up to near the fold."""
    u, v, bcs, source = _scalar(comm, cells, 2)
    strength = fem.Constant(u.function_space.mesh, 1.0)
    form = (inner(grad(u), grad(v)) - (strength * ufl.exp(u) + source) * v) * dx

    def draw(rng: np.random.Generator) -> None:
        _bumps(source, rng, 5.0)
        strength.value = rng.uniform(3.0, 6.4)

    return Family(_newton("bratu", form, u, bcs), {"source": source}, {"strength": strength}, draw)


def flow(comm: MPI.Comm, cells: int) -> Family:
    """The stationary Navier-Stokes equations in a lid-driven cavity, Taylor-Hood."""
    import basix.ufl

    domain = mesh.create_unit_square(comm, cells, cells)
    name = domain.basix_cell()
    element = basix.ufl.mixed_element([basix.ufl.element("P", name, 2, shape=(2,)), basix.ufl.element("P", name, 1)])
    space = fem.functionspace(domain, element)
    w, (v, q) = fem.Function(space, name="w"), ufl.TestFunctions(space)
    u, p = ufl.split(w)
    velocity, pressure = (space.sub(k).collapse()[0] for k in range(2))
    lid, viscosity = fem.Function(velocity, name="lid"), fem.Constant(domain, 0.01)
    form = (viscosity * inner(grad(u), grad(v)) + inner(grad(u) * u, v) - p * ufl.div(v) - q * ufl.div(u)) * dx
    domain.topology.create_connectivity(1, 2)
    facets = mesh.exterior_facet_indices(domain.topology)
    corner = fem.locate_dofs_geometrical(
        (space.sub(1), pressure), lambda x: np.isclose(x[0], 0.0) & np.isclose(x[1], 0.0)
    )
    wall = fem.locate_dofs_topological((space.sub(0), velocity), 1, facets)
    bcs = [
        fem.dirichletbc(lid, wall, space.sub(0)), fem.dirichletbc(fem.Function(pressure), corner, space.sub(1))
    ]  # fmt: skip

    def draw(rng: np.random.Generator) -> None:
        viscosity.value, (a, b) = 1.0 / rng.uniform(50.0, 400.0), rng.uniform(-0.5, 0.5, 2)
        shape = [
            lambda x: 16 * (x[0] * (1 - x[0])) ** 2 * (1 + a * np.cos(np.pi * x[0]) + b * np.cos(2 * np.pi * x[0]))
        ]
        lid.interpolate(lambda x: np.vstack([np.isclose(x[1], 1.0) * shape[0](x), 0.0 * x[0]]))

    scalars = {"reynolds": lambda: float(1.0 / viscosity.value)}
    return Family(
        _newton("flow", form, w, bcs), {"lid": ufl.as_ufl(lid)}, scalars, draw, {"velocity": (0,), "pressure": (1,)}
    )


def hyperelastic(comm: MPI.Comm, cells: int) -> Family:
    """A clamped neo-Hookean beam under a load, P1, without its energy."""
    domain = mesh.create_rectangle(comm, [[0.0, 0.0], [2.0, 0.5]], [2 * cells, cells // 2])
    u, v, bcs = _clamped(domain, 1)
    load = fem.Constant(domain, (0.0, 0.0))
    deformation = ufl.Identity(2) + grad(u)
    volume = ufl.det(deformation)
    density = 0.5 * (inner(deformation, deformation) - 2 - 2 * ufl.ln(volume)) + ufl.ln(volume) ** 2
    form = ufl.derivative((density - inner(load, u)) * dx, u, v)

    def draw(rng: np.random.Generator) -> None:
        load.value = rng.uniform(-1.0, 1.0, 2) * (0.05, 0.006)

    return Family(_newton("hyperelastic", form, u, bcs), {}, {"load": load}, draw)


def elasticity(comm: MPI.Comm, cells: int) -> Family:
    """A clamped plate of random stiffness, P2, by conjugate gradients."""
    domain = mesh.create_rectangle(comm, [[0.0, 0.0], [1.0, 1.0]], [cells, cells])
    u, v, bcs = _clamped(domain, 2)
    trial = ufl.TrialFunction(u.function_space)
    stiffness, load = (
        fem.Function(fem.functionspace(domain, ("P", 1)), name="stiffness"),
        fem.Constant(domain, (0.0, 0.0)),
    )

    def strain(w: Any) -> Any:
        return ufl.sym(grad(w))

    stress = stiffness * (2.0 * strain(trial) + ufl.tr(strain(trial)) * ufl.Identity(2))

    def draw(rng: np.random.Generator) -> None:
        _bumps(stiffness, rng, 1.0)
        stiffness.x.array[:] = np.exp(stiffness.x.array)
        load.value = rng.uniform(-1.0, 1.0, 2)

    problem = _krylov(
        "elasticity", inner(stress, strain(v)) * dx, inner(load, v) * dx, u, bcs, ksp_type="cg", pc_type="icc"
    )
    return Family(problem, {"stiffness": stiffness}, {"load": load}, draw)


def helmholtz(comm: MPI.Comm, cells: int) -> Family:
    """Standing waves between two resonances, P2, by GMRES; indefinite."""
    u, v, bcs, source = _scalar(comm, cells, 2)
    trial = ufl.TrialFunction(u.function_space)
    a = (inner(grad(trial), grad(v)) - 144.0 * inner(trial, v)) * dx
    problem = _krylov("helmholtz", a, inner(source, v) * dx, u, bcs, ksp_type="gmres", ksp_gmres_restart=100)
    return Family(problem, {"source": source}, {}, lambda rng: _bumps(source, rng, 100.0))


def convection_diffusion(comm: MPI.Comm, cells: int) -> Family:
    """A source carried by a wind of random direction, stabilised, P1, by GMRES."""
    u, v, bcs, source = _scalar(comm, cells, 1)
    trial, wind = ufl.TrialFunction(u.function_space), fem.Constant(u.function_space.mesh, (1.0, 0.0))
    size = ufl.CellDiameter(u.function_space.mesh)
    test = v + 0.5 * size * inner(wind, grad(v))
    a = (0.01 * inner(grad(trial), grad(v)) + inner(inner(wind, grad(trial)), test)) * dx
    problem = _krylov("convection_diffusion", a, inner(source, test) * dx, u, bcs, ksp_type="gmres", pc_type="jacobi")

    def draw(rng: np.random.Generator) -> None:
        _bumps(source, rng, 5.0)
        angle = rng.uniform(0.0, 2.0 * np.pi)
        wind.value = (np.cos(angle), np.sin(angle))

    return Family(problem, {"source": source}, {"wind": wind}, draw)


FAMILIES: Mapping[str, Callable[[MPI.Comm, int], Family]] = {
    "flow": flow, "heat": heat, "p-Laplacian": p_laplacian, "hyperelastic": hyperelastic, "elasticity": elasticity,
    "reaction-diffusion": reaction_diffusion, "minimal surface": minimal_surface, "Helmholtz": helmholtz,
    "convection-diffusion": convection_diffusion, "Bratu": bratu,
}  # fmt: skip
"""The families by name."""

CELLS: Mapping[str, int] = {
    "flow": 16, "heat": 24, "p-Laplacian": 40, "hyperelastic": 20, "elasticity": 16,
    "reaction-diffusion": 40, "minimal surface": 40, "Helmholtz": 24, "convection-diffusion": 48, "Bratu": 24,
}  # fmt: skip
"""Cells along a side at which a family has about two thousand unknowns."""


def _scalar(comm: MPI.Comm, cells: int, degree: int) -> tuple[Any, Any, list[fem.DirichletBC], fem.Function]:
    """Return an unknown that is zero on the boundary of the unit square, its test function, and a source."""
    domain = mesh.create_unit_square(comm, cells, cells)
    space = fem.functionspace(domain, ("P", degree))
    bc = fem.dirichletbc(0.0, _boundary(space), space)
    source = fem.Function(fem.functionspace(domain, ("P", 1)), name="source")
    return fem.Function(space, name="u"), ufl.TestFunction(space), [bc], source


def _clamped(domain: mesh.Mesh, degree: int) -> tuple[fem.Function, Any, list[fem.DirichletBC]]:
    """Return a displacement that is zero on the left."""
    space = fem.functionspace(domain, ("P", degree, (2,)))
    left = fem.locate_dofs_geometrical(space, lambda x: np.isclose(x[0], 0.0))
    bc = fem.dirichletbc(np.zeros(2), left, space)
    return fem.Function(space, name="u"), ufl.TestFunction(space), [bc]


def _boundary(space: fem.FunctionSpace) -> Any:
    space.mesh.topology.create_connectivity(1, 2)
    return fem.locate_dofs_topological(space, 1, mesh.exterior_facet_indices(space.mesh.topology))


def _newton(name: str, form: Any, u: fem.Function, bcs: list[fem.DirichletBC], **options: object) -> NonlinearProblem:
    return NonlinearProblem(form, u, bcs=bcs, petsc_options_prefix=f"{name}_", petsc_options={**NEWTON, **options})


def _minimise(name: str, energy: Any, u: fem.Function, v: Any, bcs: list[fem.DirichletBC]) -> NonlinearProblem:
    """Return a problem whose line search lowers the energy."""
    problem = _newton(name, ufl.derivative(energy, u, v), u, bcs, snes_rtol=1e-6)  # rounding of the energy
    compiled = fem.form(energy)

    def value(snes: Any, x: Any) -> float:
        x.copy(u.x.petsc_vec)
        u.x.scatter_forward()
        return u.function_space.mesh.comm.allreduce(fem.assemble_scalar(compiled))

    problem.solver.setObjective(value)
    return problem


def _krylov(name: str, a: Any, b: Any, u: fem.Function, bcs: list[fem.DirichletBC], **options: object) -> LinearProblem:
    return LinearProblem(a, b, bcs=bcs, u=u, petsc_options_prefix=f"{name}_", petsc_options={**KRYLOV, **options})


def _bumps(f: fem.Function, rng: np.random.Generator, size: float) -> None:
    """Put three bumps of random place, width and sign into a function on the unit square."""
    centres, widths, heights = rng.uniform(0.1, 0.9, (3, 2)), rng.uniform(0.1, 0.3, 3), rng.uniform(-size, size, 3)
    f.interpolate(
        lambda x: sum(
            h * np.exp(-((x[0] - c[0]) ** 2 + (x[1] - c[1]) ** 2) / w**2)
            for c, w, h in zip(centres, widths, heights, strict=True)
        )
    )

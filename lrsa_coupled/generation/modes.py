"""The wrapper ``CASE:modes``: the lowest modes of a linear case with a spectrum, for coarse spaces and eigensolvers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, final

import basix.ufl
import numpy as np
from mpi4py import MPI
from dolfinx import fem
from dolfinx.mesh import Mesh

from lrsa_coupled.coupling.contract import features_of
from lrsa_coupled.interfaces import (
    Case,
    Features,
    FixedMesh,
    Pencil,
    Problem,
    Reuse,
    SequenceSolver,
    Solver,
    SolveResult,
    SolverFactory,
    Spectrum,
)
from lrsa_coupled.schema import Field, Schema, Symmetry


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ModesProblem(Pencil):
    """The pencil of a problem of the case, its solution with one component a mode."""

    problem: Problem


@final
class ModesCase(Case[ModesProblem]):
    """The lowest modes of the pencil of a linear case: one output, a basis of which the span counts.

    The operator sees those inputs of the case that determine the pencil. ``options.modes`` is the number of modes; the
    other options are the case's.

    Raises:
        ValueError: If the case has no spectrum, or the number of modes is not positive.
    """

    default_method = "krylov-schur"

    def __init__(self, make_case: type[Case[Any]], options: Any = None) -> None:
        default = make_case.default_options
        own = [("modes", int, dataclasses.field(default=64))]
        kind = dataclasses.make_dataclass("ModesOptions", own, bases=(type(default),), frozen=True)
        self.default_options = kind(**vars(default))
        super().__init__(options)
        self.case = make_case(self.options)
        spectrum, count = self.case.spectrum, self.options.modes
        if self.case.is_complex:
            raise ValueError(f"modes are of a real pencil, and '{self.case.name}' is complex: give it a real spectrum")
        if spectrum is None or count < 1:
            raise ValueError(f"modes are of a case with a spectrum and at least one, got {count} of '{self.case.name}'")
        self._spectrum = spectrum
        schema, self.fields = self.case.schema, (Field("modes", count, span=True),)
        inputs = tuple(field for field in schema.inputs if field.name in spectrum.inputs)
        self.schema = Schema(f"{schema.name}:modes", schema.dim, inputs, schema.scalars, self.fields,
                             symmetries=symmetries_of_points(schema))  # fmt: skip
        self.resolution, self.rtol = self.case.resolution, self.case.rtol

    def sample(self, rng: np.random.Generator) -> Any:
        return self.case.sample(rng)

    def mesh(self, comm: MPI.Comm, parameters: Any, resolution: int) -> Mesh:
        return self.case.mesh(comm, parameters, resolution)

    def problem(self, mesh: Mesh, parameters: Any) -> ModesProblem:
        """Set up the pencil of the case's problem; ValueError unless that has the nodes of its unknown. Collective."""
        problem = self.case.problem(mesh, parameters)
        if problem.to_nodes is not None:
            raise ValueError(f"'{self.name}' needs the nodes of the unknown, with these options it has others")
        pencil = self._spectrum.pencil(problem)
        count, scalar = self.options.modes, problem.solution.function_space
        space = fem.functionspace(mesh, basix.ufl.blocked_element(scalar.ufl_element(), shape=(count,)))
        bcs = [fem.dirichletbc(np.zeros(count), bc.dof_indices()[0], space) for bc in problem.bcs]
        unknown = {"solution": fem.Function(space, name="modes"), "bcs": bcs}
        return ModesProblem(**pencil.shared() | unknown, parameters=parameters, stiffness=pencil.stiffness,
                            mass=pencil.mass, problem=problem)  # fmt: skip

    def features(self, problem: ModesProblem) -> Features:
        """Those inputs of the case that determine the pencil. Collective."""
        features = features_of(self.case, problem.problem)
        seen = [[field in self.schema.inputs] * field.components for field in self.case.schema.inputs]
        return Features(features.nodal[:, np.concatenate(seen).astype(bool)], features.scalars)

    def solver(self, problem: ModesProblem, atol: float, *, max_iterations: int | None = None) -> Solver:
        """An eigensolver, which starts from nothing; it has its own limit of iterations."""
        return self.default_solver(problem, atol)

    def methods(self) -> Mapping[str, SolverFactory]:
        """Shift-and-invert Krylov-Schur."""
        return {self.default_method: lambda problem, atol: ModesSolver(self._spectrum, problem, atol)}

    @property
    def fixed_mesh(self) -> FixedMesh[ModesProblem] | None:
        """Mesh and forms are those of the case; nothing else is reused."""
        return None if self.case.fixed_mesh is None else FixedMesh(self._update, self._sequence)

    @property
    def spectrum(self) -> Spectrum:
        """That of the case; the pencil of a problem is the problem itself."""
        return dataclasses.replace(self._spectrum, pencil=lambda problem: problem, is_definite=True)

    def _update(self, problem: ModesProblem, parameters: Any) -> ModesProblem:
        assert self.case.fixed_mesh is not None
        updated = self.case.fixed_mesh.update(problem.problem, parameters)  # in the forms of the pencil, too
        problem.solution.x.array[:] = 0.0
        return dataclasses.replace(problem, parameters=parameters, problem=updated)

    def _sequence(self, problem: ModesProblem, atol: float, *, method: str, reuse: Reuse) -> SequenceSolver:
        raise ValueError(f"the modes of each sample are found from nothing: '{self.name}' has nothing to reuse")


@final
class ModesSolver(Solver):
    """Puts the lowest modes of a pencil, as many as its solution has components, into the solution."""

    def __init__(self, spectrum: Spectrum, problem: ModesProblem, rtol: float) -> None:
        self.spectrum, self.problem, self.rtol = spectrum, problem, rtol

    def solve(self) -> SolveResult:
        """Find the modes, orthonormal in the mass. Collective."""
        solution = self.problem.solution
        count = solution.function_space.dofmap.index_map_bs
        modes = self.spectrum.modes(self.problem, count, rtol=self.rtol)
        text = f"only {len(modes.values)} of {count} modes converged: ask for fewer, or refine the mesh"
        if modes.converged:
            text = ""
            solution.x.array[: modes.vectors.size] = modes.vectors.ravel()
            solution.x.scatter_forward()
        return SolveResult(
            modes.converged, modes.reason, text, modes.iterations, modes.residual, {"solve": modes.seconds}
        )


def symmetries_of_points(schema: Schema) -> tuple[Symmetry, ...]:
    """Return the symmetries, which hold for modes and residuals too when they act on points only; none otherwise."""
    return () if any(item.inputs or item.scalars or item.outputs for item in schema.symmetries) else schema.symmetries

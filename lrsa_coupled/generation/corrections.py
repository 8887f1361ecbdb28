"""The wrapper ``CASE:correction``: residuals of Krylov runs on a linear case and their errors, for ``NeuralPC``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import numpy as np
from mpi4py import MPI
from dolfinx.fem import Function
from dolfinx.mesh import Mesh
from petsc4py import PETSc

from lrsa_coupled.config import Natural
from lrsa_coupled.coupling.contract import features_of
from lrsa_coupled.coupling.norms import jacobian, solution_vector
from lrsa_coupled.coupling.residual import residual_vector
from lrsa_coupled.coupling.scalars import PARTS, to_columns
from lrsa_coupled.coupling.transfer import NodeSet
from lrsa_coupled.generation.modes import symmetries_of_points
from lrsa_coupled.interfaces import Case, Features, Problem, Solver, SolveResult, SolverFactory, Unknown
from lrsa_coupled.schema import Field, Schema

MAX_ITERATIONS = 30  # of a Krylov run; each sample draws its own number
RTOL = 1e-5  # reduction of the residual that ends a run earlier: below, the error of what counts as exact would show


@dataclass(frozen=True)
class CorrectionParameters:
    """``seed`` draws the problem of the case, ``iterations`` is the length of the Krylov run."""

    seed: Natural = field(metadata={"unit": "1"})
    iterations: Natural = field(metadata={"unit": "1"})


@dataclass(frozen=True, eq=False, kw_only=True)
class CorrectionProblem(Unknown):
    """The correction of a residual, both divided by the L2 norm of the density: the residual over the lumped mass.

    The problem of the case shares its solution with this one.
    """

    parameters: CorrectionParameters
    problem: Problem
    density: Function


@final
class CorrectionCase(Case[CorrectionProblem]):
    """Corrections of the residuals of a linear case: its inputs and the residual to the error that has it."""

    def __init__(self, make_case: type[Case[Any]], options: Any = None) -> None:
        self.default_options = make_case.default_options
        super().__init__(options)
        self.case = case = make_case(self.options)
        self.is_complex, parts = case.is_complex, 1 + case.is_complex
        inputs, symmetries = (*case.schema.inputs, Field("residual", parts)), symmetries_of_points(case.schema)
        self.fields = (Field("correction", parts),)
        self.schema = Schema(f"{case.name}:correction", case.dim, inputs, case.schema.scalars, self.fields,
                             symmetries=symmetries)  # fmt: skip
        self.resolution, self.rtol, self.default_method = case.resolution, case.rtol, case.default_method

    def sample(self, rng: np.random.Generator) -> CorrectionParameters:
        """Draw a problem of the case and the length of the run."""
        return CorrectionParameters(int(rng.integers(2**31)), int(rng.integers(MAX_ITERATIONS + 1)))

    def mesh(self, comm: MPI.Comm, parameters: CorrectionParameters, resolution: int) -> Mesh:
        return self.case.mesh(comm, self._given(parameters), resolution)

    def problem(self, mesh: Mesh, parameters: CorrectionParameters) -> CorrectionProblem:
        """Set up the case's problem; ValueError unless it is linear with the nodes of its unknown. Collective."""
        problem = self.case.problem(mesh, self._given(parameters))
        if not isinstance(problem, Problem) or not problem.is_linear or problem.to_nodes is not None:
            raise ValueError(
                f"corrections are of linear problems whose operator sees the nodes of the unknown, "
                f"which '{self.case.name}' with these options is not"
            )
        space = problem.solution.function_space
        return CorrectionProblem(**problem.shared(), parameters=parameters, problem=problem, density=Function(space))

    def features(self, problem: CorrectionProblem) -> Features:
        """Those of the case's problem and, after a solve, the residual."""
        of_case = features_of(self.case, problem.problem)
        density = to_columns(problem.density.x.array[: len(of_case.nodal), None])
        return Features(np.column_stack([of_case.nodal, density]), of_case.scalars)

    def solver(self, problem: CorrectionProblem, atol: float, *, max_iterations: int | None = None) -> Solver:
        """A run and a solve by the case's default method, which has its own limit of iterations."""
        return self.default_solver(problem, atol)

    def methods(self) -> Mapping[str, SolverFactory]:
        """A run, and a solve by each of the case's."""
        return {name: partial(SamplingSolver, self.rtol, make) for name, make in self.case.methods().items()}

    def _given(self, parameters: CorrectionParameters) -> Any:
        return self.case.sample(np.random.default_rng(parameters.seed))


@final
class SamplingSolver(Solver):
    """Runs a Krylov method for some iterations; the error of what it has found, and its residual, are the result.

    The method is FGMRES with SOR unless options under ``sampling_`` choose another: ``-sampling_pc_type python
    -sampling_pc_python_type ...`` runs with an operator trained before. What the case's method finds counts as exact.

    Args:
        rtol: Tolerance of that, relative to the residual norm of the zero guess.
        make: The case's method.
        problem: Residual and correction.
        atol: Not read: the correction has no residual of its own.
    """

    def __init__(self, rtol: float, make: SolverFactory, problem: CorrectionProblem, atol: float) -> None:
        self.rtol, self.make, self.problem = rtol, make, problem

    def solve(self) -> SolveResult:
        """Run, solve, subtract. Collective."""
        problem = self.problem.problem
        problem.solution.x.array[:] = 0.0
        matrix, right = jacobian(problem), residual_vector(problem)
        right.scale(-1.0)
        exact = self.make(problem, self.rtol * right.norm())
        found = self._run(matrix, right)
        result = exact.solve_once()
        solution = solution_vector(problem)
        solution.axpy(-1.0, found)
        right.axpy(-1.0, matrix * found)
        if result.converged:
            self._store(solution, right)
        for item in (matrix, right, found, solution):
            item.destroy()
        return result

    def _run(self, matrix: PETSc.Mat, right: PETSc.Vec) -> PETSc.Vec:
        """Return what the Krylov method has found."""
        ksp = PETSc.KSP().create(matrix.comm)
        ksp.setOptionsPrefix("sampling_")
        ksp.setOperators(matrix)
        ksp.setType(PETSc.KSP.Type.FGMRES)
        ksp.getPC().setType(PETSc.PC.Type.SOR)
        ksp.setFromOptions()
        ksp.setTolerances(rtol=RTOL, max_it=self.problem.parameters.iterations)
        found = right.duplicate()
        found.set(0.0)
        if self.problem.parameters.iterations:
            ksp.solve(right, found)
        ksp.destroy()
        return found

    def _store(self, error: PETSc.Vec, residual: PETSc.Vec) -> None:
        """Put error and residual into the functions, in units of the norm of the residual."""
        problem = self.problem
        nodes = NodeSet(problem, (Field("correction", PARTS),))
        density = np.where(nodes.constrained[:, 0], 0.0, residual.array_r / nodes.mass)
        square = nodes.mass @ np.sum(to_columns(density[:, None]) ** 2, axis=1)
        scale = np.sqrt(problem.mesh.comm.allreduce(float(square)))
        for function, values in ((problem.density, density), (problem.solution, error.array_r)):
            function.x.array[: len(values)] = values / scale
            function.x.scatter_forward()

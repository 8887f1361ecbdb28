"""Methods for a linear system: those of the case, PETSc's and our preconditioners."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import final

import msgspec
import numpy as np
from mpi4py import MPI
from dolfinx.fem import Function
from dolfinx.fem.petsc import assemble_matrix
from petsc4py import PETSc

from lrsa_coupled.bench.payback import cost_of
from lrsa_coupled.bench.rows import Cost, Row, Seconds
from lrsa_coupled.bench.samples import Samples, refuse_seen
from lrsa_coupled.config import Config
from lrsa_coupled.coupling.failures import reason_of
from lrsa_coupled.coupling.norms import jacobian, set_solution
from lrsa_coupled.coupling.options import GAMG, default_options
from lrsa_coupled.coupling.residual import residual_norm, residual_vector
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.interfaces import Case, Pencil, Problem, SolverFactory, Spectrum
from lrsa_coupled.petsc.describe import describe

logger = logging.getLogger(__name__)

LEARNED = "learned"
PREFIX = "bench_"
"""Options prefix of all methods but those of the case."""

GMRES = {"ksp_type": "gmres", "ksp_gmres_restart": "300", "ksp_pc_side": "right"}
CG = {"ksp_type": "cg", "ksp_norm_type": "unpreconditioned"}
FGMRES = {"ksp_type": "fgmres", "ksp_gmres_restart": "300"}
FCG = {"ksp_type": "fcg", "ksp_fcg_mmax": "50", "ksp_norm_type": "unpreconditioned"}
ILU = {"pc_type": "bjacobi", "sub_pc_type": "ilu"}
SUPERLU = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "superlu_dist"}
INNER = {"": GAMG, ", icc": {"pc_type": "bjacobi", "sub_pc_type": "icc", "sub_pc_factor_levels": "2"}}
"""Around which a coarse space is put: what is added to the name of a method, and options."""

COARSE_SPACE = {"pc_type": "python", "pc_python_type": "lrsa_coupled.petsc.coarse_space.CoarseSpacePC"}
NEURAL = {"pc_type": "python", "pc_python_type": "lrsa_coupled.petsc.neural.NeuralPC", "pc_lrsa_precision": "fp32"}

MODES, SMOOTHING = "64", "3"
"""Modes of the exact and the coarse spaces; smoothing of bases from a coarse mesh, or an operator at all nodes."""


@dataclass(frozen=True)
class System:
    """A sample to solve: A x = b, and what the methods may need."""

    samples: Samples
    index: int
    spectrum: Spectrum
    problem: Problem
    matrix: PETSc.Mat
    right: PETSc.Vec
    pencil: Pencil

    @property
    def atol(self) -> float:
        """Residual norm to reach."""
        return self.samples.case.rtol * self.right.norm()

    def stiffness(self, shift: float = 0.0) -> PETSc.Mat:
        """Assemble P + shift s B, which is A for a definite case. Collective."""
        if self.spectrum.is_definite:
            return self.matrix
        matrix = assemble_matrix(self.pencil.stiffness, bcs=list(self.problem.bcs))
        matrix.assemble()
        if shift:
            matrix.scale(1.0 + shift)
            matrix.axpy(-shift, self.matrix, PETSc.Mat.Structure.SAME_NONZERO_PATTERN)
        return matrix

    def describe(self, matrix: PETSc.Mat, *, coarse: bool = False) -> PETSc.Mat:
        """Attach nodes, the case's inputs and, when needed, a prolongation to a matrix; return it. Collective."""
        problem, case = self.problem, self.samples.case
        features = case.features(problem)
        functions, first = {}, 0
        for item in case.schema.inputs:
            functions[item.name] = Function(problem.node_space, dtype=np.float64)
            functions[item.name].x.array[: len(features.nodal)] = features.nodal[:, first]
            functions[item.name].x.scatter_forward()
            first += item.components
        describe(
            matrix,
            problem.solution.function_space,
            bcs=problem.bcs,
            inputs=functions,
            scalars=dict(zip(case.schema.scalars, map(float, features.scalars), strict=True)),
            prolongation=self.spectrum.prolongation(problem) if coarse else None,
        )
        return matrix

    def row(self, method: str, iterations: int, seconds: Seconds, dimension: int = 0) -> Row:
        """Return the row of a method whose solution is in the problem. Collective: the residual is assembled again."""
        norm, comm = residual_norm(self.problem), self.samples.comm
        slowest = {name: comm.allreduce(getattr(seconds, name), op=MPI.MAX) for name in ("setup", "solve", "total")}
        return Row(
            method=method,
            sample=self.index,
            unknowns=self.matrix.getSize()[0],
            seconds=msgspec.structs.replace(seconds, **slowest),
            iterations=iterations,
            solved=bool(norm <= 1.01 * self.atol),  # Krylov methods update their residual
            residual=norm / self.right.norm(),
            atol=self.atol,
            values={"dimension": dimension},
        )

    def destroy(self) -> None:
        """Free the system. Collective."""
        self.matrix.destroy()
        self.right.destroy()


def system(samples: Samples, spectrum: Spectrum, index: int) -> System:
    """Assemble a sample. Collective."""
    problem = samples.problem(index)
    right = residual_vector(problem)
    right.scale(-1.0)
    return System(samples, index, spectrum, problem, jacobian(problem), right, spectrum.pencil(problem))


@dataclass(frozen=True)
class Method(ABC):
    """A method; ``cost`` is what data and training of its operator took, None without one."""

    name: str
    cost: Cost | None = field(default=None, kw_only=True)

    @abstractmethod
    def solve(self, system: System) -> Row:
        """Solve from zero. Collective."""


Setup = Callable[[System, PETSc.KSP], PETSc.Mat]
"""Prepares a KSP, options read, and returns its preconditioning matrix."""


@final
@dataclass(frozen=True)
class KrylovMethod(Method):
    """A Krylov method with a preconditioner, from options and a preparation; the user's options go before."""

    options: Mapping[str, str]
    prepare: Setup = lambda system, ksp: system.matrix

    def solve(self, system: System) -> Row:
        ksp, found = PETSc.KSP().create(system.samples.comm), system.right.duplicate()
        ksp.setOptionsPrefix(PREFIX)
        found.set(0.0)
        with default_options(PREFIX, self.options):
            system.samples.comm.Barrier()
            started = time.perf_counter()
            ksp.setOperators(system.matrix)
            ksp.setTolerances(rtol=1e-50, atol=system.atol, max_it=1000)
            ksp.setFromOptions()
            matrix = self.prepare(system, ksp)
            ksp.setOperators(system.matrix, matrix)
            set_up = self._run(ksp, system, found)
            ended = time.perf_counter()
        set_solution(system.problem, found)
        context = ksp.getPC().getPythonContext() if self.options["pc_type"] == "python" else None
        inference, dimension = (getattr(context, name, 0) for name in ("inference", "dimension"))
        times = Seconds(total=ended - started, setup=set_up - started, solve=ended - set_up, inference=inference)
        row = system.row(self.name, ksp.getIterationNumber(), times, dimension)
        for item in (found, ksp, *([matrix] if matrix.handle != system.matrix.handle else [])):
            item.destroy()
        return row

    def _run(self, ksp: PETSc.KSP, system: System, found: PETSc.Vec) -> float:
        """Set up and solve, return the time between. A factorisation that breaks down shows in the residual."""
        try:
            ksp.setUp()
            ksp.setUpOnBlocks()
            set_up = time.perf_counter()
            ksp.solve(system.right, found)
        except PETSc.Error as error:
            logger.warning("%s: %s", self.name, reason_of(error))
            return time.perf_counter()
        return set_up


@final
@dataclass(frozen=True)
class CaseMethod(Method):
    """A method of the case."""

    make: SolverFactory

    def solve(self, system: System) -> Row:
        system.problem.solution.x.array[:] = 0.0
        system.samples.comm.Barrier()
        started = time.perf_counter()
        solver = self.make(system.problem, system.atol)
        made = time.perf_counter()
        iterations = solver.solve().iterations
        ended = time.perf_counter()
        solver.destroy()
        times = Seconds(total=ended - started, setup=made - started, solve=ended - made)
        return system.row(self.name, iterations, times)


def linear_methods(case: Case, config: Config, models: Sequence[Path]) -> list[Method]:
    """Return the methods of a case and of the operators in the folders ``models``; ValueError when one does not fit."""
    spectrum = spectrum_of(case)
    krylov, definite = (CG if spectrum.is_definite else GMRES), spectrum.is_definite
    space = krylov | COARSE_SPACE | {"pc_lrsa_combine": "symmetric" if definite else "deflated"}
    coarse = {"pc_lrsa_basis": "coarse", "pc_lrsa_coarse_modes": MODES, "pc_lrsa_smoothing": SMOOTHING}
    found: list[Method] = [CaseMethod(name, make) for name, make in case.methods().items()]
    found += [
        KrylovMethod("superlu_dist", SUPERLU),
        KrylovMethod("ilu", krylov | ILU),
        KrylovMethod("sor", krylov | {"pc_type": "sor"}),
        KrylovMethod("gamg of A", krylov | GAMG),
        *([] if definite else [KrylovMethod("gamg of P", krylov | GAMG, _on_stiffness)]),
        *([] if definite else [KrylovMethod("gamg shifted", krylov | GAMG, partial(_on_stiffness, shift=0.5))]),
        KrylovMethod("exact modes", space | _inside(GAMG), _with_exact_modes),
    ]
    for name, inner in INNER.items():
        found.append(KrylovMethod(f"coarse modes{name}", space | coarse | _inside(inner), _described_coarse))
    for folder in models:
        of = "" if len(models) == 1 else f" of {folder}"
        found += _learned_methods(case, config, folder, space, of=of)
    return found


def spectrum_of(case: Case) -> Spectrum:
    """Return the spectrum of a case; ValueError when it has none."""
    if case.spectrum is None or any(field.span for field in case.schema.outputs):
        raise ValueError(f"this experiment is for linear cases with a spectrum, such as darcy; '{case.name}' has none")
    return case.spectrum


def _inside(options: Mapping[str, str]) -> dict[str, str]:
    return {f"pc_lrsa_inner_{name}": value for name, value in options.items()}


def _learned_methods(
    case: Case, config: Config, folder: Path, space: Mapping[str, str], *, of: str
) -> list[KrylovMethod]:
    card = LearnedGuess.load(folder).predictor.card
    if card.schema.name.partition(":")[0] != case.name:
        raise ValueError(f"{folder}: expected an operator of '{case.name}', got one of '{card.schema.name}'")
    refuse_seen(config.problem.test_seed, {card.data.seed, *card.data.seeds}, f"the data behind the model {folder}")
    checkpoint, cost = {"pc_lrsa_checkpoint": str(folder)}, cost_of(card)
    if any(item.span for item in card.schema.outputs):
        return [
            KrylovMethod(f"{LEARNED} basis{of}{name}", {**space, **checkpoint, **options}, _described, cost=cost)
            for name, options in _basis_variants(str(card.resolution)).items()
        ]
    outputs = [item.name for item in card.schema.outputs]
    if outputs != ["correction"]:
        raise ValueError(f"{folder}: expected an operator that predicts a basis or a correction, got one of {outputs}")
    flexible = {"fgmres": FGMRES, "fcg": FCG} if spectrum_of(case).is_definite else {"fgmres": FGMRES}
    found = []
    for krylov, options in flexible.items():
        name, start = f"{LEARNED} correction{of}, {krylov}", options | NEURAL | checkpoint
        found += [
            KrylovMethod(name, start | {"pc_lrsa_sweeps": "0"}, _described_own, cost=cost),
            KrylovMethod(f"{name}, sor", start | _inside({"pc_type": "sor"}), _described_own, cost=cost),
            KrylovMethod(f"{name}, gamg", start | _inside(GAMG), _described, cost=cost),
        ]
    return found


def _basis_variants(resolution: str) -> dict[str, dict[str, str]]:
    """Return options of a predicted basis by variant; the grid is as fine as the meshes of the training."""
    grid = {"pc_lrsa_grid": resolution}
    return {
        **{name: grid | _inside(inner) for name, inner in INNER.items()},
        ", all nodes": {"pc_lrsa_smoothing": SMOOTHING} | _inside(GAMG),
        ", 1 inverse iteration step": grid | _inside(GAMG) | {"pc_lrsa_inverse_iterations": "1"},
        ", 2 inverse iteration steps": grid | _inside(GAMG) | {"pc_lrsa_inverse_iterations": "2"},
    }


def _on_stiffness(system: System, ksp: PETSc.KSP, *, shift: float = 0.0) -> PETSc.Mat:
    return system.stiffness(shift)


def _with_exact_modes(system: System, ksp: PETSc.KSP) -> PETSc.Mat:
    modes = system.spectrum.modes(system.pencil, int(MODES))
    ksp.getPC().getPythonContext().set_basis(modes.vectors)
    return system.stiffness()


def _described(system: System, ksp: PETSc.KSP) -> PETSc.Mat:
    return system.describe(system.stiffness())


def _described_coarse(system: System, ksp: PETSc.KSP) -> PETSc.Mat:
    return system.describe(system.stiffness(), coarse=True)


def _described_own(system: System, ksp: PETSc.KSP) -> PETSc.Mat:
    return system.describe(system.matrix)

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
from mpi4py import MPI
from dolfinx.fem import Function
from dolfinx.fem.petsc import assemble_matrix
from petsc4py import PETSc

from lrsa_coupled.bench.payback import cost_of
from lrsa_coupled.bench.rows import Cost, Row, Seconds
from lrsa_coupled.bench.samples import Samples, refuse_seen
from lrsa_coupled.config import Config
from lrsa_coupled.coupling.norms import jacobian, set_solution
from lrsa_coupled.coupling.options import GAMG
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


@dataclass(frozen=True)
class Limits:
    """Numbers of the comparison.

    Args:
        achieved: Times the tolerance at which a true residual counts as solved: Krylov methods update theirs.
        count: Modes of the exact and the coarse spaces.
        smoothing: Degree of the smoothing of bases that come from a coarse mesh, or from an operator at all nodes.
        shift: Of the shifted operator P + shift s B.
        max_iterations: Of a Krylov method.
    """

    achieved: float = 1.01
    count: int = 64
    smoothing: int = 3
    shift: float = 0.5
    max_iterations: int = 1000


LIMITS = Limits()


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
        return self.samples.rtol * self.right.norm()

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

    def describe(self, matrix: PETSc.Mat, *, coarse: bool = False) -> None:
        """Attach nodes, the case's inputs and, when needed, a prolongation to a matrix. Collective."""
        problem, case = self.problem, self.samples.case
        features = case.features(problem)
        functions, first = {}, 0
        for item in case.schema.inputs:
            functions[item.name] = Function(problem.node_space)
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

    def row(self, method: str, iterations: int, seconds: Seconds, dimension: int = 0) -> Row:
        """Return the row of a method whose solution is in the problem. Collective: the residual is assembled again."""
        norm, comm = residual_norm(self.problem), self.samples.comm
        slowest = {name: comm.allreduce(getattr(seconds, name), op=MPI.MAX) for name in ("setup", "solve", "total")}
        solved, unknowns = bool(norm <= LIMITS.achieved * self.atol), self.matrix.getSize()[0]
        row = Row(
            method=method, sample=self.index, seconds=seconds, solved=solved, iterations=iterations, unknowns=unknowns
        )
        own = {"residual": norm / self.right.norm(), "atol": self.atol, "values": {"dimension": dimension}}
        return msgspec.structs.replace(row, seconds=msgspec.structs.replace(seconds, **slowest), **own)

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
        options, comm = PETSc.Options(PREFIX), system.samples.comm
        ours = [name for name in self.options if not options.hasName(name)]
        for name in ours:
            options[name] = self.options[name]
        comm.Barrier()
        started = time.perf_counter()
        ksp = PETSc.KSP().create(comm)
        ksp.setOptionsPrefix(PREFIX)
        ksp.setOperators(system.matrix)
        ksp.setTolerances(rtol=1e-50, atol=system.atol, max_it=LIMITS.max_iterations)
        ksp.setFromOptions()
        matrix = self.prepare(system, ksp)
        ksp.setOperators(system.matrix, matrix)
        found = system.right.duplicate()
        found.set(0.0)
        set_up = self._run(ksp, system, found)
        ended = time.perf_counter()
        set_solution(system.problem, found)
        context = ksp.getPC().getPythonContext() if self.options["pc_type"] == "python" else None
        inference, dimension = (getattr(context, name, 0) for name in ("inference", "dimension"))
        times = Seconds(total=ended - started, setup=set_up - started, solve=ended - set_up, inference=inference)
        row = system.row(self.name, ksp.getIterationNumber(), times, dimension)
        for name in ours:
            options.delValue(name)
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
            if error.__cause__ is not None:
                raise error.__cause__ from None
            logger.warning("%s: %s", self.name, str(error).splitlines()[0])
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
        return system.row(
            self.name, iterations, Seconds(total=ended - started, setup=made - started, solve=ended - made)
        )


def linear_methods(case: Case, config: Config, models: Sequence[Path]) -> list[Method]:
    """Return the methods of a case and of the operators in the folders ``models``; ValueError when one does not fit."""
    spectrum = spectrum_of(case)
    krylov = CG if spectrum.is_definite else GMRES
    found: list[Method] = [CaseMethod(name, make) for name, make in case.methods().items()]
    found += [
        KrylovMethod("superlu_dist", SUPERLU),
        KrylovMethod("ilu", krylov | ILU),
        KrylovMethod("sor", krylov | {"pc_type": "sor"}),
        KrylovMethod("gamg of A", krylov | GAMG),
    ]
    if not spectrum.is_definite:
        found += [
            KrylovMethod("gamg of P", krylov | GAMG, _on_stiffness),
            KrylovMethod("gamg shifted", krylov | GAMG, partial(_on_stiffness, shift=LIMITS.shift)),
        ]
    space = krylov | COARSE_SPACE | {"pc_lrsa_combine": "symmetric" if spectrum.is_definite else "deflated"}
    coarse = {"pc_lrsa_basis": "coarse", "pc_lrsa_coarse_modes": str(LIMITS.count)}
    coarse["pc_lrsa_smoothing"] = str(LIMITS.smoothing)
    found.append(KrylovMethod("exact modes", space | _inside(GAMG), _with_exact_modes))
    described = partial(_described, coarse=True)
    found += [
        KrylovMethod(f"coarse modes{name}", space | coarse | _inside(inner), described) for name, inner in INNER.items()
    ]
    for folder in models:
        of = "" if len(models) == 1 else f" of {folder}"
        found += _learned_methods(case, config, folder, space, of=of, definite=spectrum.is_definite)
    return found


def spectrum_of(case: Case) -> Spectrum:
    """Return the spectrum of a case; ValueError when it has none."""
    if case.spectrum is None or any(field.span for field in case.schema.outputs):
        raise ValueError(f"this experiment is for linear cases with a spectrum, such as darcy; '{case.name}' has none")
    return case.spectrum


def _inside(options: Mapping[str, str]) -> dict[str, str]:
    return {f"pc_lrsa_inner_{name}": value for name, value in options.items()}


def _learned_methods(
    case: Case, config: Config, folder: Path, space: Mapping[str, str], *, of: str, definite: bool
) -> list[Method]:
    card = LearnedGuess.load(folder).predictor.card
    if card.schema.name.partition(":")[0] != case.name:
        raise ValueError(f"{folder}: expected an operator of '{case.name}', got one of '{card.schema.name}'")
    refuse_seen(config.problem.test_seed, card.data.seed, f"the data behind the model {folder}")
    checkpoint, cost = {"pc_lrsa_checkpoint": str(folder)}, cost_of(card)
    if any(item.span for item in card.schema.outputs):
        variants = _basis_variants(str(card.resolution)).items()
        return [
            KrylovMethod(f"{LEARNED} basis{of}{name}", {**space, **checkpoint, **options}, _described, cost=cost)
            for name, options in variants
        ]
    if [item.name for item in card.schema.outputs] != ["correction"]:
        outputs = [item.name for item in card.schema.outputs]
        raise ValueError(f"{folder}: expected an operator that predicts a basis or a correction, got one of {outputs}")
    inside = {"": {"pc_lrsa_sweeps": "0"}, ", sor": _inside({"pc_type": "sor"}), ", gamg": _inside(GAMG)}
    found: list[Method] = []
    for krylov, options in {"fgmres": FGMRES, **({"fcg": FCG} if definite else {})}.items():
        for name, inner in inside.items():
            prepare = partial(_described, on_stiffness=name == ", gamg")
            label = f"{LEARNED} correction{of}, {krylov}{name}"
            found.append(KrylovMethod(label, options | NEURAL | checkpoint | inner, prepare, cost=cost))
    return found


def _basis_variants(resolution: str) -> dict[str, dict[str, str]]:
    """Return options of a predicted basis by variant; the grid is as fine as the meshes of the training."""
    grid = {"pc_lrsa_grid": resolution}
    found = {name: grid | _inside(inner) for name, inner in INNER.items()}
    found[", all nodes"] = {"pc_lrsa_smoothing": str(LIMITS.smoothing)} | _inside(GAMG)
    for steps, name in ((1, ", 1 inverse iteration step"), (2, ", 2 inverse iteration steps")):
        found[name] = grid | _inside(GAMG) | {"pc_lrsa_inverse_iterations": str(steps)}
    return found


def _on_stiffness(system: System, ksp: PETSc.KSP, *, shift: float = 0.0) -> PETSc.Mat:
    return system.stiffness(shift)


def _with_exact_modes(system: System, ksp: PETSc.KSP) -> PETSc.Mat:
    modes = system.spectrum.modes(system.pencil, LIMITS.count)
    ksp.getPC().getPythonContext().set_basis(modes.vectors)
    return system.stiffness()


def _described(system: System, ksp: PETSc.KSP, *, coarse: bool = False, on_stiffness: bool = True) -> PETSc.Mat:
    matrix = system.stiffness() if on_stiffness else system.matrix
    system.describe(matrix, coarse=coarse)
    return matrix

"""Ways to solve a linear system that ``bench/preconditioners.py`` compares: the case's strategies, and PETSc's and our preconditioners."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, final

from mpi4py import MPI
from dolfinx.fem import Function
from dolfinx.fem.petsc import assemble_matrix
from petsc4py import PETSc

from lrsa_coupled.bench.breakeven import cost_of
from lrsa_coupled.bench.strategies import refuse_seen
from lrsa_coupled.config import Config
from lrsa_coupled.coupling.norms import set_solution
from lrsa_coupled.coupling.predictor import Predictor
from lrsa_coupled.coupling.residual import residual_norm
from lrsa_coupled.generation.corrections import CORRECTION
from lrsa_coupled.interfaces import Case, Pencil, Problem, SolverFactory, Spectrum
from lrsa_coupled.petsc.describe import describe

logger = logging.getLogger(__name__)

LEARNED = "learned"
ACHIEVED = 1.01
"""Times the tolerance at which a true residual counts as there: what is watched is updated, not computed."""

COUNT = 64
"""Modes of the exact and the coarse spaces."""

SMOOTHING = 3
"""Degree of the smoothing of bases that come from a coarse mesh, or from an operator at all nodes."""

SHIFT = 0.5
"""Of the shifted operator P + SHIFT s B."""

MAX_ITERATIONS = 1000
PREFIX = "bench_"
"""Options prefix of all ways but the strategies."""

GMRES = {"ksp_type": "gmres", "ksp_gmres_restart": "300", "ksp_pc_side": "right"}
CG = {"ksp_type": "cg", "ksp_norm_type": "unpreconditioned"}
FGMRES = {"ksp_type": "fgmres", "ksp_gmres_restart": "300"}
FCG = {"ksp_type": "fcg", "ksp_fcg_mmax": "50", "ksp_norm_type": "unpreconditioned"}
GAMG = {"pc_type": "gamg", "mg_levels_ksp_type": "richardson", "mg_levels_ksp_max_it": "1", "mg_levels_pc_type": "sor"}
ILU = {"pc_type": "bjacobi", "sub_pc_type": "ilu"}
SUPERLU = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "superlu_dist"}
INNER = {"": GAMG, ", icc": {"pc_type": "bjacobi", "sub_pc_type": "icc", "sub_pc_factor_levels": "2"}}
"""Around which a coarse space is put: what is added to the name of a way, and options."""

COARSE_SPACE = {"pc_type": "python", "pc_python_type": "lrsa_coupled.petsc.coarse_space.CoarseSpacePC"}
NEURAL = {"pc_type": "python", "pc_python_type": "lrsa_coupled.petsc.neural.NeuralPC", "pc_lrsa_precision": "fp32"}


@dataclass(frozen=True)
class System:
    """A sample to solve: A x = b, and what the ways may ask for."""

    case: Case
    spectrum: Spectrum
    problem: Problem
    matrix: PETSc.Mat
    right: PETSc.Vec
    pencil: Pencil
    reference: float
    rtol: float

    @property
    def atol(self) -> float:
        """Residual norm to reach."""
        return self.rtol * self.reference

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
        """Attach nodes, the case's inputs and, if asked for, a prolongation to a matrix. Collective."""
        problem = self.problem
        features = self.case.features(problem)
        functions, start = {}, 0
        for item in self.case.schema.inputs:
            functions[item.name] = Function(problem.node_space)
            functions[item.name].x.array[: len(features.nodal)] = features.nodal[:, start]
            functions[item.name].x.scatter_forward()
            start += item.components
        scalars = dict(zip(self.case.schema.scalars, map(float, features.scalars), strict=True))
        prolongation = self.spectrum.prolongation(problem) if coarse else None
        describe(
            matrix,
            problem.solution.function_space,
            bcs=problem.bcs,
            inputs=functions,
            scalars=scalars,
            prolongation=prolongation,
        )


@dataclass(frozen=True)
class Way(ABC):
    """A way to solve a system; ``name`` is for people, ``cost`` what data and training of its operator took, as ``cost_of`` returns it."""

    name: str
    cost: Mapping[str, float | None] | None = field(default=None, kw_only=True)

    @abstractmethod
    def solve(self, system: System) -> dict[str, Any]:
        """Solve from zero; return an entry of ``samples`` in the ledger, but for its index. Collective."""


Setup = Callable[[System, PETSc.KSP], PETSc.Mat]
"""Prepares a KSP, options read, and returns its preconditioning matrix."""


@final
@dataclass(frozen=True)
class _Way(Way):
    """A Krylov method with a preconditioner, from options and what they do not say."""

    options: Mapping[str, str]
    prepare: Setup = lambda system, ksp: system.matrix

    def solve(self, system: System) -> dict[str, Any]:
        options, comm = PETSc.Options(PREFIX), system.problem.mesh.comm
        ours = [name for name in self.options if not options.hasName(name)]  # what the command line says wins
        for name in ours:
            options[name] = self.options[name]
        comm.Barrier()
        started = time.perf_counter()
        ksp = PETSc.KSP().create(comm)
        ksp.setOptionsPrefix(PREFIX)
        ksp.setOperators(system.matrix)
        ksp.setTolerances(rtol=1e-50, atol=system.atol, max_it=MAX_ITERATIONS)
        ksp.setFromOptions()
        preconditioning = self.prepare(system, ksp)
        ksp.setOperators(system.matrix, preconditioning)
        found = system.right.duplicate()
        found.set(0.0)
        try:
            ksp.setUp()
            ksp.setUpOnBlocks()
            set_up = time.perf_counter()
            ksp.solve(system.right, found)
        except (
            PETSc.Error
        ) as error:  # an incomplete factorisation that breaks down, memory that is not there: the residual says it
            if error.__cause__ is not None:
                raise error.__cause__ from None
            logger.warning("%s: %s", self.name, str(error).splitlines()[0])
            set_up = time.perf_counter()
        ended = time.perf_counter()
        set_solution(system.problem, found)
        context = ksp.getPC().getPythonContext() if self.options["pc_type"] == "python" else None
        extra = {name: getattr(context, name, 0) for name in ("inference", "dimension")}
        record = _record(system, ksp.getIterationNumber(), setup=set_up - started, solve=ended - set_up) | extra
        for name in ours:
            options.delValue(name)
        for item in (found, ksp):
            item.destroy()
        if preconditioning.handle != system.matrix.handle:
            preconditioning.destroy()
        return record


@final
@dataclass(frozen=True)
class _Strategy(Way):
    """A strategy of the case."""

    make: SolverFactory

    def solve(self, system: System) -> dict[str, Any]:
        problem = system.problem
        problem.solution.x.array[:] = 0.0
        problem.mesh.comm.Barrier()
        started = time.perf_counter()
        solver = self.make(problem, system.atol)
        made = time.perf_counter()
        iterations = solver.solve().iterations
        ended = time.perf_counter()
        solver.destroy()
        return _record(system, iterations, setup=made - started, solve=ended - made) | {
            "inference": 0.0,
            "dimension": 0,
        }


def _record(system: System, iterations: int, *, setup: float, solve: float) -> dict[str, Any]:
    """Collective: the residual of the field in the problem is taken anew."""
    comm = system.problem.mesh.comm
    norm = residual_norm(system.problem)
    setup, solve = (comm.allreduce(seconds, op=MPI.MAX) for seconds in (setup, solve))
    relative = norm / system.reference
    return {
        "solved": bool(norm <= ACHIEVED * system.atol),
        "iterations": int(iterations),
        "setup": setup,
        "solve": solve,
        "residual": relative,
    }


def all_ways(case: Case, config: Config, models: Sequence[Path]) -> list[Way]:
    """Return the ways of a case and of the operators in the folders ``models``; ValueError when one does not fit. Collective: no."""
    if case.spectrum is None or any(field.span for field in case.schema.outputs):
        raise ValueError(
            f"bench --what preconditioners is for linear cases with a spectrum, '{case.name}' as given is none"
        )
    krylov = CG if case.spectrum.is_definite else GMRES
    ways: list[Way] = [_Strategy(name, make) for name, make in case.methods().items()]
    ways += [
        _Way("superlu_dist", SUPERLU),
        _Way("ilu", krylov | ILU),
        _Way("sor", krylov | {"pc_type": "sor"}),
        _Way("gamg of A", krylov | GAMG),
    ]
    if not case.spectrum.is_definite:
        ways += [
            _Way("gamg of P", krylov | GAMG, _on_stiffness),
            _Way("gamg shifted", krylov | GAMG, partial(_on_stiffness, shift=SHIFT)),
        ]
    space = krylov | COARSE_SPACE | {"pc_lrsa_combine": "symmetric" if case.spectrum.is_definite else "deflated"}
    coarse = space | {
        "pc_lrsa_basis": "coarse",
        "pc_lrsa_coarse_modes": str(COUNT),
        "pc_lrsa_smoothing": str(SMOOTHING),
    }
    ways.append(_Way("exact modes", space | _inside(GAMG), _with_exact_modes))
    ways += [
        _Way(f"coarse modes{name}", coarse | _inside(inner), partial(_described, coarse=True))
        for name, inner in INNER.items()
    ]
    for folder in models:
        ways += _learned_ways(case, config, folder, space, of="" if len(models) == 1 else f" of {folder}")
    return ways


def _inside(options: Mapping[str, str]) -> dict[str, str]:
    return {f"pc_lrsa_inner_{name}": value for name, value in options.items()}


def _learned_ways(case: Case, config: Config, folder: Path, space: Mapping[str, str], *, of: str) -> list[Way]:
    card = Predictor.load(folder).card
    if card.schema.name.partition(":")[0] != case.name:
        raise ValueError(f"{folder}: expected an operator of '{case.name}', got one of '{card.schema.name}'")
    refuse_seen(config.problem.test_seed, card.data.seed, f"the data behind the model {folder}")
    checkpoint, cost = {"pc_lrsa_checkpoint": str(folder)}, cost_of(card)
    if any(item.span for item in card.schema.outputs):
        grid, smooth = (
            {"pc_lrsa_grid": str(card.resolution)},
            {"pc_lrsa_smoothing": str(SMOOTHING)},
        )  # a grid as fine as the meshes of its training
        variants = [(name, grid | _inside(inner)) for name, inner in INNER.items()]
        variants.append((", all nodes", smooth | _inside(GAMG)))
        variants += [
            (name, grid | _inside(GAMG) | {"pc_lrsa_inverse_iterations": steps})
            for name, steps in ((", 1 cleaning", "1"), (", 2 cleanings", "2"))
        ]
        return [
            _Way(f"{LEARNED} basis{of}{name}", space | checkpoint | options, _described, cost=cost)
            for name, options in variants
        ]
    if [item.name for item in card.schema.outputs] != [CORRECTION.name]:
        raise ValueError(
            f"{folder}: expected an operator that predicts a basis or a correction, got one of {[f.name for f in card.schema.outputs]}"
        )
    inside = {"": {"pc_lrsa_sweeps": "0"}, ", sor": _inside({"pc_type": "sor"}), ", gamg": _inside(GAMG)}
    ways: list[Way] = []
    for krylov, options in {"fgmres": FGMRES, **({"fcg": FCG} if case.spectrum.is_definite else {})}.items():
        for name, inner in inside.items():
            described = partial(_described, on_stiffness=name == ", gamg")
            ways.append(
                _Way(
                    f"{LEARNED} correction{of}, {krylov}{name}",
                    options | NEURAL | checkpoint | inner,
                    described,
                    cost=cost,
                )
            )
    return ways


def _on_stiffness(system: System, ksp: PETSc.KSP, *, shift: float = 0.0) -> PETSc.Mat:
    return system.stiffness(shift)


def _with_exact_modes(system: System, ksp: PETSc.KSP) -> PETSc.Mat:
    modes = system.spectrum.modes(system.pencil, COUNT)
    ksp.getPC().getPythonContext().set_basis(modes.vectors)
    return system.stiffness()


def _described(system: System, ksp: PETSc.KSP, *, coarse: bool = False, on_stiffness: bool = True) -> PETSc.Mat:
    matrix = system.stiffness() if on_stiffness else system.matrix
    system.describe(matrix, coarse=coarse)
    return matrix

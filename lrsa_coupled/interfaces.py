"""Contracts between the library (arrays), the solvers (algebra) and the cases (physics); imports neither torch nor dolfinx.

One set of contracts serves scalar, vector and mixed spaces, linear and nonlinear problems, one mesh or many.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from dolfinx.fem import DirichletBC, Form, Function, FunctionSpace
    from dolfinx.mesh import Mesh
    from mpi4py import MPI
    from petsc4py import PETSc


@dataclass(frozen=True)
class Field:
    """A named quantity given at the node set.

    Args:
        name: Name of the quantity, unique among the inputs or outputs of a case.
        components: Number of values at a node.
        unit: Unit as text; ``"1"`` is dimensionless.
        subspace: Path of sub-indices from the space of the solution to the field, ``()`` for the whole space; this and the rest are for outputs only.
        loss_weight: Weight of the field in the training loss.
        span: Whether the components are a basis of which the span counts, not each by itself.
        relative_to: Name of the input, of as many components, that the operator corrects to get this field; empty: it predicts all of it.
    """

    name: str
    components: int = 1
    unit: str = "1"
    subspace: tuple[int, ...] = ()
    loss_weight: float = 1.0
    span: bool = False
    relative_to: str = ""

    @property
    def label(self) -> str:
        """Name and unit for people."""
        return self.name if self.unit == "1" else f"{self.name} [{self.unit}]"


Matrix = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Symmetry:
    """A reflection or quarter turn that takes problems of a family, with their solutions, to problems of the same family.

    Matrices are rows of whole numbers, with one entry other than zero, 1 or -1, in each row and column; an empty one is the identity.

    Args:
        points: Matrix A ``(dim, dim)`` of the map ``x -> centre + A (x - centre)`` of the domain onto itself.
        centre: A point that stays where it is.
        inputs: Matrix of the nodal inputs, those of all fields side by side; ``scalars`` and ``outputs`` likewise.
    """

    points: Matrix
    centre: tuple[float, ...]
    inputs: Matrix = ()
    scalars: Matrix = ()
    outputs: Matrix = ()


@dataclass(frozen=True)
class Features:
    """What the operator is told of a problem, on this rank.

    Args:
        nodal: Values of the case's ``inputs`` at the owned nodes, ``(num_owned, sum of components)``, float64.
        scalars: Values of the case's ``scalars``, the same on all ranks, ``(num_scalars,)``, float64.
    """

    nodal: npt.NDArray[np.float64]
    scalars: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Continuation:
    """A path of problems that ends in the one to solve.

    Args:
        set_value: Sets the path parameter in the forms of the problem.
        start: Value at which the solver converges from the zero start, or from a bad one.
        target: Value of the problem to solve.
        logarithmic: Whether steps are ratios rather than differences.
    """

    set_value: Callable[[float], None]
    start: float
    target: float
    logarithmic: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Unknown:
    """The unknown of a discrete problem, and the nodes at which an operator sees it.

    Args:
        mesh: The mesh, distributed over the communicator of the problem.
        solution: The unknown; solvers start from its values and leave the result in it.
        bcs: Dirichlet conditions on the space of ``solution``.
        node_space: Scalar Lagrange space whose degrees of freedom are the node set: the highest degree among the fields. On a mesh of its
            own, of the same communicator, it needs the two matrices below and a scalar space of the solution.
        to_nodes: Takes the degrees of freedom of the solution to values at the nodes, when these have a mesh of their own.
        from_nodes: Takes values at the nodes to the degrees of freedom of the solution.
    """

    mesh: Mesh
    solution: Function
    bcs: Sequence[DirichletBC]
    node_space: FunctionSpace
    to_nodes: PETSc.Mat | None = None
    from_nodes: PETSc.Mat | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem(Unknown):
    """A discrete problem ``residual(solution; v) = 0`` with Dirichlet conditions.

    Args:
        parameters: The case's parameters.
        residual: Compiled residual form of ``solution``; affine in it when ``is_linear``.
        jacobian: Compiled derivative of ``residual``.
        is_linear: Whether ``residual`` is affine in ``solution``.
        energy: Compiled potential whose derivative is ``residual``, when the problem is a minimisation; not finite where it is not defined.
        continuation: Path to the problem, when the case knows one.
        relaxation: Path from a problem with the same solutions, or near them, that Newton's method solves from worse starts, when the case knows one.
    """

    parameters: Any
    residual: Form
    jacobian: Form
    is_linear: bool = False
    energy: Form | None = None
    continuation: Continuation | None = None
    relaxation: Continuation | None = None


@dataclass(frozen=True)
class SolveResult:
    """Outcome of a solve; a failed solve is a value, to be tested by the caller.

    Args:
        converged: Whether the residual met the tolerance.
        reason: Name of the converged or diverged reason of PETSc, or the text of the error that ended the solve.
        advice: What to try, empty when ``converged``.
        iterations: Newton iterations (KSP iterations of a linear problem), those of failed attempts included.
        residual: Euclidean norm of the true residual at the end.
        seconds: Wall time by stage [s].
        used_fallback: Whether a learned guess was given up for the classical strategy.
        linear_iterations: KSP iterations inside those of Newton, of the last attempt.
    """

    converged: bool
    reason: str
    advice: str
    iterations: int
    residual: float
    seconds: Mapping[str, float] = field(default_factory=dict)
    used_fallback: bool = False
    linear_iterations: int = 0


class Solver(ABC):
    """Solves one problem from the values in ``problem.solution``."""

    @abstractmethod
    def solve(self) -> SolveResult:
        """Solve to the tolerance the solver was made with. Collective over the communicator of the problem's mesh."""

    @abstractmethod
    def destroy(self) -> None:
        """Free the PETSc objects. Collective."""

    def watch(self, check: Callable[[int, float], bool]) -> None:
        """Call ``check(iterations, residual_norm)`` after each iteration, from 0, on all ranks, and end, unconverged, where it is True; here: run on."""


SolverFactory = Callable[[Problem, float], Solver]
"""Makes a solver of a problem for an absolute residual tolerance."""


@dataclass(frozen=True)
class Reuse:
    """What a solver carries over from one problem of a sequence to the next, besides its matrices and symbolic factorisations.

    ``preconditioner``: the preconditioner or factorisation while it pays. ``recycle``: a Krylov subspace of that dimension, 0 for none.
    """

    preconditioner: bool = False
    recycle: int = 0


class SequenceSolver(Solver):
    """Solves problems on one mesh one after the other."""

    @abstractmethod
    def renew(self, problem: Problem, atol: float) -> None:
        """Take over the next problem: the same mesh, spaces and Dirichlet degrees of freedom, other values. Collective."""


@dataclass(frozen=True)
class NoOptions:
    """Of a case without variants."""


class Signature(ABC):
    """What an operator is told of a problem and what it predicts of it.

    Attributes:
        name: Name of the family of problems.
        dim: Dimension of space.
        inputs: Nodal fields the operator sees besides the coordinates.
        scalars: Names of the numbers the operator sees, one value a problem.
        outputs: Fields of the solution that the operator predicts; the others start from zero.
    """

    name: str
    dim: int
    inputs: tuple[Field, ...]
    scalars: tuple[str, ...]
    outputs: tuple[Field, ...]

    @abstractmethod
    def features(self, problem: Unknown) -> Features:
        """Evaluate inputs and scalars at the owned nodes of ``problem.node_space``. Collective, as some need an assembly."""


class Case(Signature):
    """A family of problems.

    Subclasses are final, one a folder (``cases/<name>/case.py``), and set the class attributes below.

    Attributes:
        resolution: Resolution at which the shipped model is trained; meaning is the case's own.
        fields: All fields of the solution, for files and pictures; ``outputs`` are some of them.
        rtol: Tolerance of the solves, relative to the residual norm of the zero start.
        symmetries: Generators of the group of reflections and turns that the family has; training may apply them to samples.
        default_options: Variants of the case, a frozen dataclass of numbers and texts; ``--set options.key=value`` on the command line.
        options: Those of this instance.

    Args:
        options: Variant, ``default_options`` when None.
    """

    resolution: int
    fields: tuple[Field, ...]
    rtol: float
    symmetries: tuple[Symmetry, ...] = ()
    default_options: Any = NoOptions()

    def __init__(self, options: Any = None) -> None:
        self.options = self.default_options if options is None else options

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Any:
        """Draw parameters, a frozen dataclass of numbers and tuples of numbers whose fields carry ``metadata={"unit": ...}``."""

    @abstractmethod
    def mesh(self, comm: MPI.Comm, parameters: Any, resolution: int) -> Mesh:
        """Make the mesh, distributed over ``comm``. Collective."""

    @abstractmethod
    def problem(self, mesh: Mesh, parameters: Any) -> Problem:
        """Set up forms, spaces and boundary conditions; the solution holds zeros. Collective."""

    @abstractmethod
    def solver(self, problem: Problem, atol: float, *, max_iterations: int | None = None) -> Solver:
        """Make the plain solver that starts from ``problem.solution`` as it is, ``max_iterations`` None for its own limit. Collective."""

    @abstractmethod
    def strategies(self) -> Mapping[str, SolverFactory]:
        """Classical start strategies by name; each starts cold. The first is the one used for data generation and as fall-back."""

    def node_interpolation(self, source: Problem, target: Problem) -> PETSc.Mat:
        """Make the matrix from values at the nodes of a problem to those at the nodes of the same one on a finer mesh, for nested iteration. Collective."""
        raise ValueError(
            f"nested iteration needs {type(self).__name__}.node_interpolation, the case has none: leave bench.coarser at 0"
        )


class FixedMeshCase(Case):
    """A family of problems on one mesh, which does not depend on the parameters: data generation need not set up each from nothing."""

    @abstractmethod
    def update(self, problem: Problem, parameters: Any) -> Problem:
        """Give a problem other parameters in place: mesh, spaces, compiled forms and matrices stay; the solution holds zeros. Collective."""

    @abstractmethod
    def sequence(self, problem: Problem, atol: float, *, strategy: str, reuse: Reuse) -> SequenceSolver:
        """Make the solver of a sequence that begins with ``problem``, by one of ``strategies()``. Collective."""

"""Contracts between library (arrays), solvers (algebra) and cases (physics); imports neither torch nor dolfinx."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lrsa_coupled.schema import Field, Schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mpi4py import MPI
    from dolfinx.fem import DirichletBC, Form, Function, FunctionSpace
    from dolfinx.mesh import Mesh
    from petsc4py import PETSc

    from lrsa_coupled.coupling.quantities import PointSampling, Quantity


@dataclass(frozen=True)
class Features:
    """What the operator sees of a problem, on this rank.

    Args:
        nodal: Values of the inputs of the schema at the owned nodes, ``(num_owned, sum of components)``, float64.
        scalars: Values of its scalars, the same on all ranks, ``(num_scalars,)``, float64.
    """

    nodal: npt.NDArray[np.float64]
    scalars: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Continuation:
    """A path of problems that ends in the one to solve.

    Args:
        set_value: Sets the path parameter in the forms of the problem.
        start: Value at which the solver converges from the zero guess, or from a bad one; above or below the target.
    """

    set_value: Callable[[float], None]
    start: float
    target: float  # the problem to solve
    logarithmic: bool = False  # steps are ratios rather than differences


@dataclass(frozen=True, eq=False, kw_only=True)
class Unknown:
    """The unknown of a discrete problem, and the nodes at which an operator sees it.

    Args:
        mesh: The mesh, distributed over the communicator of the problem.
        solution: The unknown, a function or a tuple of them; solvers start from its values and leave the result in it.
        bcs: Dirichlet conditions on the space of ``solution``, each on that of one of its functions.
        node_space: Scalar Lagrange space whose degrees of freedom are the node set: the highest degree among the
            fields, discontinuous unless all of them are continuous Lagrange. With a mesh of its own, on the same
            communicator, it needs a scalar solution and the two matrices below.
        to_nodes: Takes the degrees of freedom of the solution to values at the nodes.
        from_nodes: Takes values at the nodes to the degrees of freedom of the solution.
    """

    mesh: Mesh
    solution: Any  # Function | tuple[Function, ...], which only scripts have
    bcs: Sequence[DirichletBC]
    node_space: FunctionSpace
    to_nodes: PETSc.Mat | None = None
    from_nodes: PETSc.Mat | None = None

    @property
    def functions(self) -> tuple[Function, ...]:
        """The functions of the solution, one or more."""
        return self.solution if isinstance(self.solution, tuple) else (self.solution,)

    def shared(self) -> dict[str, Any]:
        """Return the arguments above, for another problem with the same unknown."""
        return {f.name: getattr(self, f.name) for f in fields(Unknown)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem(Unknown):
    """A discrete problem ``residual(solution; v) = 0`` with Dirichlet conditions.

    Args:
        residual: Compiled residual form of ``solution``; affine in it when ``is_linear``.
        jacobian: Compiled derivative of ``residual``.
        energy: Compiled potential of a minimisation, whose derivative is ``residual``; not finite where it is not
            defined. With a complex unknown only of a linear problem, the real ``a(u, u) / 2 - Re l(u)``.
        continuation: Path to the problem.
        relaxation: Path from a problem with solutions near by that Newton's method finds from worse guesses.
    """

    solution: Function
    parameters: Any
    residual: Form
    jacobian: Form
    is_linear: bool = False
    energy: Form | None = None
    continuation: Continuation | None = None
    relaxation: Continuation | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Pencil(Unknown):
    """``stiffness x = lambda mass x``, symmetric positive definite on free degrees of freedom; on a scalar space."""

    solution: Function
    parameters: Any
    stiffness: Form
    mass: Form


@dataclass(frozen=True)
class Modes:
    """Lowest eigenpairs of a pencil.

    Args:
        values: Eigenvalues ``(m,)``, ascending, the same on all ranks.
        vectors: Owned rows of the eigenvectors ``(num_owned, m)``, orthonormal in the mass matrix; PETSc's scalars.
        converged: Whether all that were asked for met the tolerance; fewer are returned otherwise.
        reason: Name of the converged or diverged reason of the eigensolver.
        iterations: Outer iterations.
        residual: Largest norm of the residual relative to that of lambda x.
        seconds: Wall time, set-up included [s].
    """

    values: npt.NDArray[np.float64]
    vectors: npt.NDArray[Any]
    converged: bool
    reason: str
    iterations: int
    residual: float
    seconds: float


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
        used_fallback: Whether a guess was given up for the default method.
        linear_iterations: KSP iterations inside those of Newton.
    """

    converged: bool
    reason: str
    advice: str
    iterations: int
    residual: float
    seconds: Mapping[str, float] = field(default_factory=dict)
    used_fallback: bool = False
    linear_iterations: int = 0


@dataclass(frozen=True)
class Guess:
    """What became of an initial guess.

    Args:
        accepted: Whether it is in the unknown.
        reason: Why not, empty when accepted.
        seconds: Wall time of ``transfer`` and ``inference`` [s]; empty when all of it is transfer.
        iterations: Those of solves that should have led to a guess that is not accepted.
    """

    accepted: bool = True
    reason: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    iterations: int = 0


class NumericalError(Exception):
    """Raise it for a sample that cannot be made for a numerical reason; ``generate`` records it and goes on."""


class InitialGuess(ABC):
    """Puts values into the unknown of a problem, from which a solver starts.

    Attributes:
        name: Its name in records and reports.
        trusted: Whether it comes from solutions nearby: it is not tested nor its solve bounded, unlike a prediction.
    """

    name: str
    trusted: bool = False

    @abstractmethod
    def put(self, problem: Any) -> Guess:
        """Write the guess, with exact Dirichlet values, into ``problem.solution``; anything if refused. Collective."""

    def prepare(self, problem: Any) -> None:
        """Set up what depends on meshes and forms alone; benchmarks do not time it. Collective."""


class Solver(ABC):
    """Solves one problem from the values in ``problem.solution``."""

    @abstractmethod
    def solve(self) -> SolveResult:
        """Solve to the tolerance the solver was made with. Collective over the communicator of the problem's mesh."""

    def destroy(self) -> None:
        """Free the PETSc objects, if there are any. Collective."""

    def solve_once(self) -> SolveResult:
        """Solve, then free the PETSc objects. Collective."""
        result = self.solve()
        self.destroy()
        return result

    def monitor(self, check: Callable[[int, float], bool]) -> None:
        """Call ``check(iterations, residual_norm)`` after each iteration, from 0; True ends the solve. Here: never."""


SolverFactory = Callable[[Any, float], Solver]
"""Makes a solver of a problem for an absolute residual tolerance."""


@dataclass(frozen=True)
class Reuse:
    """What a solver reuses from one problem of a sequence to the next, besides matrices and symbolic factorisations."""

    preconditioner: bool = False  # or a factorisation, while it pays
    recycle: int | None = None  # dimension of a Krylov subspace


class SequenceSolver(Solver):
    """Solves problems on one mesh one after the other."""

    @abstractmethod
    def update(self, problem: Problem, atol: float) -> None:
        """Go to the next problem: same mesh, spaces and Dirichlet degrees of freedom, other values. Collective."""


@dataclass(frozen=True)
class NoOptions:
    """Of a case without variants."""


class Described[P: Unknown](ABC):
    """What has problems that an operator sees."""

    schema: Schema

    @abstractmethod
    def features(self, problem: P) -> Features:
        """Evaluate inputs and scalars at the owned nodes of ``problem.node_space``. Collective."""


@dataclass(frozen=True)
class FixedMesh[P: Unknown]:
    """Of a case with one mesh for all parameters; both are collective.

    Args:
        update: Gives a problem other parameters, in place: mesh, spaces, forms stay; the solution holds zeros.
        sequence: ``(problem, atol, *, method, reuse)`` to the solver of a sequence that begins with ``problem``.
    """

    update: Callable[[P, Any], P]
    sequence: Callable[..., SequenceSolver]


@dataclass(frozen=True)
class Trajectory[P: Unknown]:
    """Of a case on one mesh whose samples are time steps: ``index % num_steps`` of trajectory ``index // num_steps``.

    ``Case.sample`` draws a trajectory, at its first step. The parameters of a step determine its problem:
    ``Case.problem`` solves the steps before it, ``FixedMesh.update`` does unless it is the next one. ``Case.solver``
    makes a ``SequenceSolver``.

    Args:
        num_steps: Steps of a trajectory.
        at_step: ``(parameters, step)`` to the parameters of that step of the same trajectory.
        advance: Takes the solution for the state after the step to the problem of the next, with zeros. Collective.
        extrapolate: ``(problem, name)`` puts one of ``extrapolations``, Dirichlet values included, into the solution.
        extrapolations: Those of ``Case.methods()`` that differ in the initial guess alone.
    """

    num_steps: int
    at_step: Callable[[Any, int], Any]
    advance: Callable[[P], P]
    extrapolate: Callable[[P, str], None]
    extrapolations: tuple[str, ...]


@dataclass(frozen=True)
class Spectrum:
    """Of linear problems A = P - s B, s >= 0, with a symmetric positive definite pencil (P, B); all are collective.

    Args:
        pencil: Returns the pencil of a problem, with the same unknown.
        modes: ``(pencil, count, *, eigensolver, rtol, initial)`` to the lowest modes, zero where a Dirichlet condition
            holds, by "krylov-schur" or "lobpcg", from the vectors ``initial``.
        prolongation: To a problem from the free degrees of freedom of a coarse mesh that resolves the lowest modes.
        inputs: Names of the case's inputs that determine the pencil.
    """

    pencil: Callable[[Any], Pencil]
    modes: Callable[..., Modes]
    prolongation: Callable[[Any], PETSc.Mat]
    inputs: tuple[str, ...]
    is_definite: bool = False  # s is 0, A is P


class Case[P: Unknown](Described[P]):
    """A family of problems, of type ``P``.

    Subclasses are final, one a ``case.py``, and set these attributes. What only some cases can do is a value or None.

    Attributes:
        schema: Set in ``__init__`` where options change it.
        resolution: Resolution at which the shipped model is trained; meaning is the case's own.
        fields: All fields of the solution, for files and pictures; the outputs of the schema are some of them.
        rtol: Tolerance of the solves, relative to the residual norm of the zero guess.
        default_method: The one of ``methods()`` that generates data, and solves where a guess fails.
        is_complex: Whether the unknown is complex: the case needs PETSc with complex scalars, others with real ones.
        quantities: Numbers that are asked of its solutions; set in ``__init__`` where options change them.
        points: How its operator is evaluated without a mesh, None where it needs one.
        default_options: Variants of the case, a frozen dataclass; ``--set options.key=value`` on the command line.
        options: Those of this instance, ``default_options`` when None is given.
    """

    resolution: int
    fields: tuple[Field, ...]
    rtol: float
    default_method: str
    default_options: Any = NoOptions()
    is_complex: bool = False
    quantities: tuple[Quantity, ...] = ()
    points: PointSampling | None = None

    def __init__(self, options: Any = None) -> None:
        self.options = self.default_options if options is None else options

    @property
    def name(self) -> str:
        """Name of the case, that of its schema."""
        return self.schema.name

    @property
    def dim(self) -> int:
        """Dimension of space, that of its schema."""
        return self.schema.dim

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Any:
        """Draw parameters, a frozen dataclass of numbers and tuples of them with ``metadata={"unit": ...}``."""

    @abstractmethod
    def mesh(self, comm: MPI.Comm, parameters: Any, resolution: int) -> Mesh:
        """Make the mesh, distributed over ``comm``. Collective."""

    @abstractmethod
    def problem(self, mesh: Mesh, parameters: Any) -> P:
        """Set up forms, spaces and boundary conditions; the solution holds zeros. Collective."""

    @abstractmethod
    def solver(self, problem: P, atol: float, *, max_iterations: int | None = None) -> Solver:
        """Make the solver from the present solution; ``max_iterations`` bounds its nonlinear iterations. Collective."""

    @abstractmethod
    def methods(self) -> Mapping[str, SolverFactory]:
        """Return solvers by name that need no guess: they converge whatever is in ``problem.solution``."""

    def default_solver(self, problem: P, atol: float) -> Solver:
        """Make the solver of ``default_method``. Collective."""
        return self.methods()[self.default_method](problem, atol)

    @property
    def fixed_mesh(self) -> FixedMesh[P] | None:
        """How to go from problem to problem, when the mesh does not depend on the parameters."""
        return None

    @property
    def trajectory(self) -> Trajectory[P] | None:
        """How to go from step to step, when samples are time steps."""
        return None

    @property
    def spectrum(self) -> Spectrum | None:
        """The pencil of a linear case and its lowest modes, which preconditioners use."""
        return None

    @property
    def interpolation(self) -> Callable[[P, P], PETSc.Mat] | None:
        """Makes the matrix from nodal values of a problem to those on a finer mesh (nested iteration). Collective."""
        return None

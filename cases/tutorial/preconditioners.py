# %% [markdown]
# # Inside a Krylov solver
#
# A better start saves little in a Krylov solver: it gains digits one by one. What saves is a coarse space of what the
# preconditioner leaves. `CoarseSpacePC` makes one of any vectors, around any preconditioner of PETSc, chosen by
# options. Here: waves in media that change. Run it by `python preconditioners.py`, or under `mpirun -n 2`; it writes
# `preconditioners.png`.

# %%
import numpy as np
import ufl
from matplotlib.figure import Figure
from mpi4py import MPI
from dolfinx import fem
from dolfinx.fem.petsc import assemble_matrix
from dolfinx.mesh import create_unit_square, exterior_facet_indices
from petsc4py import PETSc

from lrsa_coupled.solvers.eigen import lowest_modes

comm = MPI.COMM_WORLD
domain = create_unit_square(comm, 48, 48)
domain.topology.create_connectivity(1, 2)
space = fem.functionspace(domain, ("P", 1))
u, v, slowness = ufl.TrialFunction(space), ufl.TestFunction(space), fem.Function(space)
walls = fem.locate_dofs_topological(space, 1, exterior_facet_indices(domain.topology))
bc = fem.dirichletbc(0.0, walls, space)
slowness.x.array[:] = 1.0


def assembled(form: ufl.Form, diagonal: float = 1.0) -> PETSc.Mat:
    """Return a matrix; the rows of the boundary have a diagonal only."""
    matrix = assemble_matrix(fem.form(form), bcs=[bc], diag=diagonal)
    matrix.assemble()
    return matrix


stiffness, mass = ufl.inner(ufl.grad(u), ufl.grad(v)) * ufl.dx, ufl.inner(u, v) * ufl.dx

# %% [markdown]
# The equation is indefinite: the modes below the wave number are what multigrid for the stiffness cannot see. We take
# those of the plain medium, once. `lrsa-coupled train` on data of `helmholtz:modes` makes an operator that predicts
# them for each medium: `-waves_pc_lrsa_checkpoint cases/helmholtz/basis`, with `describe` for its coefficients.
# %%
masses = assembled(mass)
modes = lowest_modes(assembled(stiffness, 1e6), masses, 40)
basis = [masses.createVecRight() for _ in modes.vectors.T]
for vector, column in zip(basis, modes.vectors.T, strict=True):
    vector.array[:] = column

PYTHON = "python -waves_pc_python_type lrsa_coupled.petsc.coarse_space.CoarseSpacePC -waves_pc_lrsa_inner_pc_type gamg"
METHODS = {"gamg": "gamg", "gamg and coarse space": PYTHON}
PETSc.Options().insertString("-waves_ksp_type gmres -waves_ksp_gmres_restart 200 -waves_ksp_pc_side right")


def field(x: np.ndarray) -> np.ndarray:
    """Return a sum of cosines at points."""
    waves = np.cos(np.pi * np.arange(3)[:, None, None] * x[:2])  # order, direction, point
    return np.einsum("ij,ip,jp->p", weights, waves[:, 0], waves[:, 1])


def iterations(name: str) -> int:
    """Solve for the medium at hand."""
    wave = assembled(stiffness - 600.0 * ufl.inner(slowness * u, v) * ufl.dx)
    ksp = PETSc.KSP().create(comm)
    ksp.setOptionsPrefix("waves_")
    PETSc.Options().insertString(f"-waves_pc_type {METHODS[name]}")
    ksp.setOperators(wave, assembled(stiffness))
    ksp.setTolerances(rtol=1e-8)
    ksp.setFromOptions()
    if "coarse" in name:
        ksp.getPC().getPythonContext().set_basis(basis)
    right, x = wave.createVecs()
    right.set(1.0)
    right.array[walls[walls < len(right.array)]] = 0.0
    ksp.solve(right, x)
    return ksp.getIterationNumber()


# %% [markdown]
# The further the medium is from the plain one, the less the modes fit it, and the more a prediction for each medium is
# worth. A basis that is of no use at all is measured at the set-up, and left out with a warning.
# %%
rng, contrasts = np.random.default_rng(2), (0.0, 0.1, 0.2, 0.4)
weights = rng.normal(0.0, 1.0, (3, 3))
counts: dict[str, list[int]] = {name: [] for name in METHODS}
for contrast in contrasts:
    slowness.interpolate(lambda x, c=contrast: np.exp(c * field(x)))
    for name, found in counts.items():
        found.append(iterations(name))
if comm.rank == 0:
    for name, found in counts.items():
        print(f"{name}: {', '.join(map(str, found))} iterations")
    figure = Figure(figsize=(5.0, 3.0), layout="constrained")
    axes = figure.subplots()
    for name, found in counts.items():
        axes.plot(contrasts, found, "o-", label=name)
    axes.set(xlabel="deviation of the logarithm of the medium", ylabel="GMRES iterations", ylim=(0, None))
    axes.legend()
    figure.savefig("preconditioners.png")

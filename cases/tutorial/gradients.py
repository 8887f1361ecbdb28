# %% [markdown]
# # Which conductivity? Gradients through a finite element solve
#
# A heated plate, cooled at its left edge, has an unknown conductivity. 72 sensors give its temperature with noise. We
# look for the conductivity that fits them, by L-BFGS of torch: a gradient costs one more solve, the adjoint, however
# many unknowns the conductivity has. Run it by `python gradients.py` or under `mpirun -n 2`; it writes `gradients.png`.

# %%
import numpy as np
import torch
import ufl
from matplotlib.figure import Figure
from mpi4py import MPI
from dolfinx import fem, mesh
from dolfinx.fem.petsc import LinearProblem

from lrsa_coupled import Differentiable

comm = MPI.COMM_WORLD
plate = mesh.create_unit_square(comm, 32, 32)
conductivity = fem.Function(fem.functionspace(plate, ("DG", 0)))


def heat(degree: int) -> tuple[LinearProblem, ufl.Form]:
    space = fem.functionspace(plate, ("P", degree))
    u, trial, v = fem.Function(space), ufl.TrialFunction(space), ufl.TestFunction(space)
    edge = fem.locate_dofs_geometrical(space, lambda x: np.isclose(x[0], 0.0))
    a = conductivity * ufl.inner(ufl.grad(trial), ufl.grad(v)) * ufl.dx
    source = 10.0 * v * ufl.dx
    options = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
    problem = LinearProblem(a, source, u=u, bcs=[fem.dirichletbc(0.0, edge, space)], petsc_options=options,
                            petsc_options_prefix=f"heat{degree}_")  # fmt: skip
    return problem, ufl.action(a, u) - source


# %% [markdown]
# The problem is one of DOLFINx. `Differentiable` makes torch functions of it: `fe.solve` is the solve of PETSc, with
# derivatives by the values of `conductivity`.
# %%
problem, residual = heat(degree=1)
fe = Differentiable(problem, residual, coefficients={"conductivity": conductivity})

# %% [markdown]
# The logarithm of the conductivity is a sum of 25 cosines with random amplitudes, the smaller the shorter the wave. The
# amplitudes are the same on all ranks, the cells are not: `fe.shared` stands between them.
# %%
x, y, _ = mesh.compute_midpoints(plate, 2, np.arange(len(fe.values("conductivity")), dtype=np.int32)).T
waves = [(i, j) for i in range(5) for j in range(5)]
cosines = np.stack([np.cos(np.pi * i * x) * np.cos(np.pi * j * y) / (1 + i**2 + j**2) for i, j in waves], axis=1)


def conductivity_of(amplitudes: torch.Tensor) -> torch.Tensor:
    return torch.exp(torch.tensor(cosines) @ fe.shared(amplitudes))


# %% [markdown]
# The measurements come from a computation of second degree, with a noise of 1 % of the largest temperature.
# %%
truth = conductivity_of(torch.tensor(np.random.default_rng(1).standard_normal(len(waves))))
conductivity.x.array[: len(truth)] = truth
conductivity.x.scatter_forward()
measured = fem.Function(problem.u.function_space)
measured.interpolate(heat(degree=2)[0].solve())
noise = 0.01 * comm.allreduce(measured.x.array.max(), op=MPI.MAX)
places = np.rint(32 * measured.function_space.tabulate_dof_coordinates()[: len(fe.values()), :2]).astype(int)
sensors = np.flatnonzero((places % 4 == 0).all(axis=1) & (places[:, 0] > 0))
numbers = np.random.default_rng(2).standard_normal((33, 33))[*places[sensors].T]
temperatures = torch.tensor(measured.x.array[sensors] + noise * numbers)

# %% [markdown]
# Misfit and prior are the negative logarithm of the posterior density; its minimum is the most probable conductivity.
# %%
amplitudes, losses = torch.zeros(len(waves), dtype=torch.float64, requires_grad=True), []


def misfit() -> torch.Tensor:
    solution = fe.solve(conductivity=conductivity_of(amplitudes))
    return fe.total((solution[sensors] - temperatures).square().sum()) / noise**2


def closure() -> torch.Tensor:
    optimiser.zero_grad()
    loss = misfit() + amplitudes.square().sum()
    loss.backward()
    losses.append(loss.item())
    return loss


optimiser = torch.optim.LBFGS([amplitudes], max_iter=100, line_search_fn="strong_wolfe", tolerance_change=1e-3)
optimiser.step(closure)
logarithms = torch.log(conductivity_of(amplitudes.detach()) / truth)
error = torch.sqrt(fe.total(logarithms.square().sum()) / fe.total(torch.log(truth).square().sum())).item()
fit = misfit().item() / comm.allreduce(len(sensors))
if comm.rank == 0:
    print(f"{len(losses)} solves, as many adjoint ones; by differences {len(losses) * 26} solves")
    print(f"mean square misfit {fit:.2f} of the noise's, error of the log-conductivity {error:.1%}")
    figure = Figure(figsize=(5.0, 3.0), layout="constrained")
    axes = figure.add_subplot(xlabel="solve", ylabel="misfit and prior")
    axes.semilogy(range(1, len(losses) + 1), losses)
    figure.savefig("gradients.png")

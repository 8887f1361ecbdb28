# %% [markdown]
# # Plate after plate: an operator for the way, finite elements for the answer
#
# `gradients.py` finds a conductivity by gradients of finite elements. Where many plates are measured, an operator that
# has learned from solves knows the way: it gives a first conductivity and the curvature, finite elements the exact
# gradients of the last steps. So the answer is theirs, in fewer solves. Run it by `python identification.py` or under
# `mpirun -n 2`; it writes `identification/` and `identification.png`.

# %%
import numpy as np
import torch
import ufl
from matplotlib.figure import Figure
from scipy.optimize import minimize
from mpi4py import MPI
from dolfinx import fem, mesh
from dolfinx.fem.petsc import LinearProblem

from lrsa_coupled import Collector, Differentiable, LearnedGuess
from lrsa_coupled.cli import main

comm, out, cells, samples = MPI.COMM_WORLD, "identification", 16, 96
plate = mesh.create_unit_square(comm, cells, cells)
space = fem.functionspace(plate, ("P", 1))
u, log_k = fem.Function(space, name="temperature"), fem.Function(space)
trial, v = ufl.TrialFunction(space), ufl.TestFunction(space)
a, source = ufl.exp(log_k) * ufl.inner(ufl.grad(trial), ufl.grad(v)) * ufl.dx, 10.0 * v * ufl.dx
bcs = [fem.dirichletbc(0.0, fem.locate_dofs_geometrical(space, lambda x: np.isclose(x[0], 0.0)), space)]
options = {"ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"}
problem = LinearProblem(a, source, u=u, bcs=bcs, petsc_options=options, petsc_options_prefix="plate_")
fe = Differentiable(problem, ufl.action(a, u) - source, coefficients={"log_k": log_k})

# %% [markdown]
# The logarithm of the conductivity is a sum of 24 cosines; every second node of every second row has a sensor. Ranks
# share the nodes of finite elements, each evaluates the operator on the whole grid; all know the readings.
# %%
grid = np.stack(np.meshgrid(*2 * [np.linspace(0.0, 1.0, cells + 1)], indexing="ij"), axis=-1).reshape(-1, 2)
nodes = space.tabulate_dof_coordinates()[: len(fe.values()), :2]
place = np.rint(cells * nodes).astype(int) @ [cells + 1, 1]  # of a node in the grid
waves = np.stack(np.meshgrid(range(5), range(5)), axis=-1).reshape(-1, 2)[1:]
cosines = np.cos(np.pi * grid[:, None] * waves).prod(axis=2) / (1 + (waves**2).sum(axis=1))
own, whole, rng = torch.tensor(cosines[place]), torch.tensor(cosines), np.random.default_rng(1)
sensors = np.flatnonzero((np.rint(cells * grid) % 2 == 0).all(axis=1) & (grid[:, 0] > 0.0))


def solved(amplitudes: torch.Tensor) -> torch.Tensor:
    values = fe.solve(log_k=own @ fe.shared(amplitudes))
    return fe.total(torch.zeros(len(grid)).double().index_put((torch.tensor(place),), values))[sensors]


# %% [markdown]
# Samples and training are paid once. The operator is a module of torch, and has derivatives like any other.
# %%
with Collector(f"{out}/data", problem, name="plate", inputs={"log_k": log_k}) as collector:
    for _ in range(samples):
        solved(torch.tensor(rng.standard_normal(24)))
        collector.add()
small = "--set training.epochs=20 --set operator.width=32 --set operator.num_blocks=2"
assert main(f"train {out}/data {small} --out {out}/model --quiet".split()) == 0
comm.Barrier()
model = LearnedGuess.load(f"{out}/model").predictor.model.double()


def predicted(amplitudes: torch.Tensor) -> torch.Tensor:
    rest = torch.zeros(1, 0).double(), torch.ones(1, len(grid)).double()
    return model(torch.tensor(grid)[None], (whole @ amplitudes)[None, :, None], *rest)[0, sensors, 0]


# %% [markdown]
# BFGS minimises misfit and prior, from a first guess and the inverse of the curvature there. Three plates, a noise of
# 5 %: by finite elements from the mean and the curvature of the prior, and from where the operator fits best.
# %%
def best(temperatures, readings: torch.Tensor, noise: torch.Tensor, *, start: np.ndarray, inverse: np.ndarray):
    def both(x: np.ndarray) -> tuple[float, np.ndarray]:
        misfit = (temperatures(amplitudes := torch.tensor(x, requires_grad=True)) - readings) / noise
        loss = misfit.square().sum() + amplitudes.square().sum()
        return loss.item(), torch.autograd.grad(loss, amplitudes)[0].numpy()

    return minimize(both, start, jac=True, method="BFGS", options={"gtol": 0.1, "hess_inv0": inverse})


found, prior = [], {"start": np.zeros(24), "inverse": 0.5 * np.eye(24)}
for _ in range(3):
    exact = solved(torch.tensor(rng.standard_normal(24)))
    readings = exact + (noise := 0.05 * exact.max()) * torch.tensor(rng.standard_normal(len(sensors)))
    first = best(predicted, readings, noise, **prior).x
    slopes = torch.autograd.functional.jacobian(predicted, torch.tensor(first)) / noise
    inverse = np.linalg.inv(2.0 * (slopes.T @ slopes + torch.eye(24)).numpy())
    after = best(solved, readings, noise, start=first, inverse=0.5 * (inverse + inverse.T))
    found.append((best(solved, readings, noise, **prior), after))
alone, after = ([result.nfev for result in results] for results in zip(*found, strict=True))
if comm.rank == 0:
    saved, apart = sum(alone) - sum(after), max(abs(one.x - other.x).max() for one, other in found)
    print(f"solves, and adjoint ones, of finite elements alone {alone}, after the operator {after}")
    print(f"saved: {saved} of {sum(alone)}, {samples} to learn; the amplitudes differ by {apart:.2g}")
    figure = Figure(figsize=(5.0, 3.0), layout="constrained")
    axes = figure.add_subplot(xlabel="plate", ylabel="solves", xticks=range(3), ylim=(0, 1.1 * max(alone)))
    axes.plot(np.transpose([alone, after]), "o--", label=["finite elements alone", "after the operator"])
    axes.legend()
    figure.savefig("identification.png")

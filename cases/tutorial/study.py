# %% [markdown]
# # A study in your own script
#
# Many solves of one problem with other parameters. One added line collects the solutions, and each solve begins from
# what the ones before have taught. The tolerance of your solver stays; where nothing better is known your own guess is
# used. Run it by `python study.py`, or `mpirun -n 2 python study.py`; it writes `study_data/` and `study.png`.

# %%
import numpy as np
import ufl
from matplotlib.figure import Figure
from mpi4py import MPI
from dolfinx import fem
from dolfinx.fem.petsc import NonlinearProblem
from dolfinx.mesh import create_unit_square

from lrsa_coupled import Learning, attach

comm = MPI.COMM_WORLD
domain = create_unit_square(comm, 32, 32)
space = fem.functionspace(domain, ("P", 2))

# %% [markdown]
# The problem as you have it: heat conduction, the conductivity grows with the temperature, a source of random place and
# strength, and heat from a surrounding that is `hot`.
# %%
u, v, x = fem.Function(space, name="temperature"), ufl.TestFunction(space), ufl.SpatialCoordinate(domain)
hot, strength, centre = fem.Constant(domain, 1.0), fem.Constant(domain, 1.0), fem.Constant(domain, (0.5, 0.5))
source = strength * ufl.exp(-20.0 * ufl.inner(x - centre, x - centre))
residual = (ufl.exp(0.5 * u) * ufl.inner(ufl.grad(u), ufl.grad(v)) - source * v + 10 * (u - hot) * v) * ufl.dx
edge = fem.locate_dofs_geometrical(space, lambda x: np.isclose(x[0], 0.0))
problem = NonlinearProblem(
    residual,
    u,
    bcs=[fem.dirichletbc(0.0, edge, space)],
    petsc_options_prefix="study_",
    petsc_options={"snes_rtol": 1e-8, "ksp_type": "preonly", "pc_type": "lu", "pc_factor_mat_solver_type": "mumps"},
)

# %% [markdown]
# The added line. What changes from solve to solve is named: Functions or UFL expressions are inputs, Constants are
# scalars. `when="never"` trains no operator: for so few solves none would pay, and `attach` would see that itself.
# Collecting takes 1 % of the time of the solves at most; `overhead=1.0` keeps all of these, which are short.
# %%
learning = Learning("study_data", name="study", when="never", overhead=1.0)
attached = attach(problem, inputs={"source": source}, scalars={"hot": hot}, learn=learning)

rng, iterations = np.random.default_rng(1), []
for _ in range(40):
    hot.value, strength.value, centre.value = rng.uniform(0.5, 2.0), rng.uniform(50.0, 500.0), rng.uniform(0.2, 0.8, 2)
    u.x.array[:] = 0.0  # your own initial guess
    problem.solve()
    iterations.append(problem.solver.getIterationNumber())

# %% [markdown]
# The summary names each guess, how often it was chosen, and what learning has cost and saved. Read it so: `rejected` is
# a guess that the acceptance test refused before the solve, `abandoned` one that led nowhere; your own solve followed.
# %%
summary = attached.summary()
if comm.rank == 0:
    first, last = np.mean(iterations[:4]), np.mean(iterations[-10:])
    print(f"iterations: {first:.1f} in the first four solves, {last:.1f} in the last ten")
    print(summary)
    figure = Figure(figsize=(6.0, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(iterations) + 1), iterations, "o-", markersize=3)
    axes.set(xlabel="solve", ylabel="Newton iterations", ylim=(0, None))
    figure.savefig("study.png")

# %% [markdown]
# # On a cluster
#
# One job, many groups of ranks: each group solves problems of its own, all add to one data set. Run it by `python
# cluster.py`, or `mpirun -n 2 python cluster.py` for two groups; it writes `cluster/` and `cluster.png`. With a case
# there is less to do: `srun lrsa-coupled generate my/case.py --samples 20000 --ranks-per-sample 4 --out data`.

# %%
import json
from pathlib import Path

import numpy as np
import ufl
from matplotlib.figure import Figure
from mpi4py import MPI
from dolfinx import fem
from dolfinx.fem.petsc import NonlinearProblem
from dolfinx.mesh import create_unit_square, exterior_facet_indices

from lrsa_coupled import Collector
from lrsa_coupled.data.store import DataStore

RANKS_PER_GROUP, SOLVES = 1, 24
world = MPI.COMM_WORLD
group, number = world.Split(world.rank // RANKS_PER_GROUP, world.rank), world.rank // RANKS_PER_GROUP
num_groups = world.size // RANKS_PER_GROUP

# %% [markdown]
# The mesh is on the communicator of the group, and so is all that is made of it: forms, solvers, `attach`,
# `Collector`. Groups need not wait for each other. A job script sets one thread a rank, asks for a signal before its
# time is up, and goes on where it ended: a finished sample is never lost.
#
#     #SBATCH --nodes=2 --ntasks-per-node=64 --time=04:00:00 --signal=USR1@120 --requeue
#     export OMP_NUM_THREADS=1
#     srun python cluster.py
# %%
domain = create_unit_square(group, 24, 24)
domain.topology.create_connectivity(1, 2)
space = fem.functionspace(domain, ("P", 1))
u, v, load = fem.Function(space, name="u"), ufl.TestFunction(space), fem.Constant(domain, 1.0)
residual = ((1.0 + u**2) * ufl.inner(ufl.grad(u), ufl.grad(v)) - load * v) * ufl.dx
walls = fem.locate_dofs_topological(space, 1, exterior_facet_indices(domain.topology))
problem = NonlinearProblem(
    residual, u, bcs=[fem.dirichletbc(0.0, walls, space)], petsc_options_prefix="cluster_",
    petsc_options={"snes_rtol": 1e-9, "ksp_type": "preonly", "pc_type": "lu"},
)  # fmt: skip

# %% [markdown]
# Each group takes every `num_groups`-th problem. Any number of jobs may add to one folder at the same time, also over
# NFS: indices are taken in blocks, no lock is held, and a killed job leaves nothing to clean up. `attach(problem, ...,
# learn=folder)` is the same with guesses; its folder has one writer, so give each group one of its own.
# %%
numbers, mean = range(number, SOLVES, num_groups), fem.form(u * ufl.dx)
with Collector(
    "cluster/data", problem, name="membrane", scalars={"load": load}, quantities={"mean": u * ufl.dx}
) as data:
    for index in numbers:
        load.value = 10.0 ** np.random.default_rng([7, index]).uniform(0.0, 2.0)  # of the index alone, not of the ranks
        u.x.array[:] = 0.0
        problem.solve()
        data.add()
world.Barrier()

# %% [markdown]
# Train where a GPU is, or beside the data as they grow: `lrsa-coupled train cluster/data --follow`. Each rank that
# evaluates an operator shares the GPUs of its node; there may be more ranks than GPUs, and none at all.
# %%
if world.rank == 0:
    store = DataStore(Path("cluster/data"))
    found = [(store.arrays(i).scalars[0], json.loads(store.read(i).quantities)["mean"]) for i in store.solved]
    print(f"{len(found)} samples of {num_groups} groups of {RANKS_PER_GROUP} rank in cluster/data")
    figure = Figure(figsize=(5.0, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.loglog(*np.array(found).T, "o")
    axes.set(xlabel="load", ylabel="integral of u", title=f"{len(found)} solves, {num_groups} groups")
    figure.savefig("cluster.png")

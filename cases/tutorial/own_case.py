# %% [markdown]
# # A case of your own
#
# A case is a file with the family of problems: how parameters are drawn, mesh, forms, what the operator sees, and what
# you would do without it. `lrsa-coupled new my` writes one, `my/case.py`; this chapter walks through it. Run it by
# `python own_case.py`, or under `mpirun -n 2`; it writes `own_case.png`.

# %%
import numpy as np
from matplotlib.figure import Figure
from mpi4py import MPI

from lrsa_coupled import load_case
from lrsa_coupled.catalog import templates
from lrsa_coupled.config import Config, ProblemConfig
from lrsa_coupled.coupling.residual import reference_norm
from lrsa_coupled.generation.check import check_case
from lrsa_coupled.generation.sample_arrays import SampleGatherer

comm = MPI.COMM_WORLD
case = load_case(str(templates()["nonlinear"]))  # of yours: load_case("my/case.py")

# %% [markdown]
# A sample is a draw from `rng` alone, so that all ranks, and the next run, have the same. The problem has non-zero
# Dirichlet values and a path of continuation: `share` of the exponent from 0, a linear problem, to 1.
# %%
parameters = case.sample(np.random.default_rng([0, 1]))  # sample 1 of seed 0
problem = case.problem(case.mesh(comm, parameters, 16), parameters)
atol = case.rtol * reference_norm(problem)

# %% [markdown]
# `methods()` are the baselines, each from zeros. Newton from zero fails here, continuation does not: it generates the
# data, and solves where a prediction leads nowhere. A failed solve is a value with advice, no exception.
# %%
for name, make in case.methods().items():
    problem.solution.x.array[:] = 0.0
    result = make(problem, atol).solve_once()
    if comm.rank == 0:
        print(f"{name}: {result.reason}, {result.iterations} iterations. {result.advice}")
    if name == case.default_method:
        solution = problem.solution.x.array.copy()
problem.solution.x.array[:] = solution

# %% [markdown]
# What the operator sees is at the nodes of one Lagrange space: `features(problem)` has a column for each input and a
# number for each scalar. `lrsa-coupled check my/case.py` looks at all of this before any data are made.
# %%
features = case.features(problem)
levels = [finding.level for finding in check_case(case, Config(problem=ProblemConfig(resolution=8)), comm, samples=2)]
if comm.rank == 0:
    print(f"{features.nodal.shape[1]} input and {len(features.scalars)} scalar; {levels.count('error')} errors")

# %% [markdown]
# Then `lrsa-coupled generate my/case.py --samples 500 --out my/data` makes data, `lrsa-coupled train my/data --out
# my/model --minutes 4` a model, and `lrsa-coupled bench my/case.py --model my/model --data my/data` compares. Read the
# benchmark so: `total` counts everything; `guess/solve` is the share of the time that the guess takes of the solve; a
# speed-up below 1 is a loss; `best baseline` is what you would use instead; `N*` solves pay data and training back. A
# method that has not solved all samples looks fast and is not: see the column `solved`.
# %%
arrays = SampleGatherer(case, problem)(problem)  # None above rank 0
if arrays is not None:
    figure = Figure(figsize=(5.0, 4.0), layout="constrained")
    axes = figure.subplots()
    drawn = axes.tripcolor(*arrays.points.T, arrays.outputs[:, 0], shading="gouraud")
    figure.colorbar(drawn, label=case.schema.outputs[0].label)
    axes.set(xlabel="x [L]", ylabel="y [L]", aspect="equal")
    figure.savefig("own_case.png")

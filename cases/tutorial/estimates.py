# %% [markdown]
# # Estimates with confidence
#
# The mean of a quantity over random parameters, and how sure it is. A pilot of a few samples, on the mesh and on
# coarser ones, finds the cheapest method for the error asked for: plain, multilevel or multifidelity Monte Carlo, or a
# Gaussian process. Every answer is corrected by finite element solves: a bad surrogate costs time, never a bias. Run it
# by `python estimates.py`, or under `mpirun -n 2`; it writes `estimate/` and `estimates.png`.

# %%
from pathlib import Path

from matplotlib.figure import Figure
from mpi4py import MPI

from lrsa_coupled import load_case
from lrsa_coupled.catalog import templates
from lrsa_coupled.config import Config, ProblemConfig
from lrsa_coupled.study.estimate import Request, estimate
from lrsa_coupled.study.result import table

comm = MPI.COMM_WORLD
case = load_case(str(templates()["linear"]))

# %% [markdown]
# What is asked of a solution stands in the case, as UFL forms: `Quantity("mean_pressure", "p", lambda problem:
# [problem.solution * ufl.dx])`. The request says which, and the half-width of the 95 % interval. The command line has
# the same: `lrsa-coupled estimate my/case.py --quantity mean_pressure --error 8e-3 --out estimate`.
# %%
request = Request(("mean_pressure",), error=8e-3, above=(0.05,))
config = Config(problem=ProblemConfig(resolution=16))
result = estimate(case, config, request, Path("estimate"), comm)

# %% [markdown]
# The table says which method was chosen, each statistic with its interval, how many plain solves that is worth, and
# every cost. A share such as the probability to be above a threshold has an interval of its own. A run that was
# killed goes on, and ends with the numbers of one that was not.
# %%
if comm.rank == 0:
    print(table(result))
    mean = result.quantities["mean_pressure"].mean
    figure = Figure(figsize=(6.0, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.errorbar([mean.value], [0], xerr=[[mean.value - mean.low], [mean.high - mean.value]], fmt="o", capsize=4)
    left.set(xlabel="mean pressure [p]", yticks=[], title="95 % interval")
    right.barh(list(result.expected), list(result.expected.values()))
    right.set(xlabel="expected cost [s]", title="methods, by the pilot")
    figure.savefig("estimates.png")

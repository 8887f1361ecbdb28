# %% [markdown]
# # How to read a benchmark
#
# Is a guess worth it for your problem? `lrsa-coupled bench` solves unseen samples by each method of a case, from the
# prediction, and from the nearest training sample; every cost is counted. This chapter reads its rows. Run it by
# `python benchmark.py`, or under `mpirun -n 2`; it writes `benchmark/` and `benchmark.png`.

# %%
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mpi4py import MPI

from lrsa_coupled.bench.compare import LEARNED
from lrsa_coupled.bench.rows import read_rows
from lrsa_coupled.catalog import templates
from lrsa_coupled.cli import main

comm, case, out = MPI.COMM_WORLD, str(templates()["nonlinear"]), Path("benchmark")
assert main(f"generate {case} --resolution 12 --samples 48 --out {out}/data --quiet".split()) == 0
assert main(f"train {out}/data --minutes 0.05 --out {out}/model --quiet".split()) == 0

# %% [markdown]
# The samples have a seed that neither training nor test data have. Each method ends at the same true residual, so that
# none looks fast for an easier tolerance. `--html page.html` makes a page of it, `--json` the rows that we read here.
# %%
words = f"bench {case} --model {out}/model --data {out}/data --samples 4 --resolution 12 --json {out}/rows.jsonl"
assert main([*words.split(), "--quiet"]) == 0
comm.Barrier()
results = read_rows(out / "rows.jsonl")
times = results.solved_times

# %% [markdown]
# First look at what is solved: a method that fails on hard samples looks fast on the rest, and is not. Then at the
# worst sample, not at the mean alone. Ratios are means of logarithms, over the samples that both have solved.
# %%
for name, rows in results.methods.items():
    shared = [index for index in times[name] if index in times[LEARNED]]
    ratios = np.array([times[name][index] / times[LEARNED][index] for index in shared])
    text = f"{np.exp(np.log(ratios).mean()):.2f} (least {ratios.min():.2f})" if shared else "-"
    if comm.rank == 0:
        print(f"{name}: {len(times[name])} of {len(rows)} solved; the learned guess is faster by {text}")

# %% [markdown]
# Then at the baseline that you would use: the best of all, not the one that a script happens to have. The nearest
# sample costs the data, but no training. Where it is as good as the operator, use `Learning(when="never")`. Where
# coarser meshes are at hand, add `--set bench.coarse_meshes=1`.
# %%
costs = results.header.costs[LEARNED]
assert costs.total is not None
means = {name: np.mean([*each.values()]) for name, each in times.items() if len(each) == results.num_samples}
best = min((name for name in means if LEARNED not in name), key=lambda name: means[name])
gain = means[best] - means[LEARNED]
paid = f"paid back after {costs.total / gain:.0f} solves" if gain > 0 else "never paid back: keep that method"
if comm.rank == 0:
    print(f"data {costs.data:.1f} s, training {costs.training:.1f} s; against {best}, the best of the others: {paid}")

# %% [markdown]
# Last at where the time goes. A prediction is paid in `transfer` and `inference`; on problems as small as this one
# they are much of a solve, on large ones a few per cent. So bench at the resolution that you will use.
# %%
if comm.rank == 0:
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axes, names = figure.subplots(), list(results.methods)
    left = np.zeros(len(names))
    for stage in ("transfer", "inference", "setup", "solve"):
        widths = [1e3 * np.mean([getattr(row.seconds, stage) for row in rows]) for rows in results.methods.values()]
        axes.barh(names, widths, left=left, label=stage)
        left += widths
    axes.set(xlabel="mean time of a sample [ms], also of those without solution")
    figure.legend(loc="outside upper center", ncols=4)
    figure.savefig("benchmark.png")

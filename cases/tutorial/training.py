# %% [markdown]
# # Data and training
#
# How many samples, how long a training, and what a model is worth: this chapter makes data of a case, trains twice,
# and reads what the trainings say. Run it by `python training.py`, or under `mpirun -n 2`; it writes `training/` and
# `training.png`.

# %%
import json
from pathlib import Path

from matplotlib.figure import Figure
from mpi4py import MPI

from lrsa_coupled.catalog import templates
from lrsa_coupled.cli import main
from lrsa_coupled.config import Config
from lrsa_coupled.training.evaluate import evaluate

comm, case, out = MPI.COMM_WORLD, str(templates()["nonlinear"]), Path("training")

# %% [markdown]
# `generate` solves samples by the default method of the case, to its tolerance; groups of ranks take them as they
# become free. A killed run goes on by the same command, a larger `--samples` adds to what is there. `lrsa-coupled info`
# says what a data set holds, and `verify` reads every byte of it.
# %%
assert main(f"generate {case} --resolution 12 --samples 48 --out {out}/data --quiet".split()) == 0

# %% [markdown]
# `train` needs a time and nothing else: sizes and rates follow from the data, and the learning rate comes down as the
# time ends. A part of the samples is left out of the training, to validate. The last line says what limits the model:
# too few samples, too few steps, or its size. These times are a test's; four minutes are a good first try.
# %%
MINUTES = {"short": 0.04, "long": 0.12}
for name, minutes in MINUTES.items():
    assert main(f"train {out}/data --minutes {minutes} --out {out}/{name} --quiet".split()) == 0
    comm.Barrier()


def errors(name: str) -> dict[int, float]:
    """Validation error [%] by the epoch after which it was measured."""
    lines = map(json.loads, (out / name / "metrics.jsonl").read_text().splitlines())
    return {line["epoch"]: 100 * line["valid_error"] for line in lines if line.get("valid_error") is not None}


# %% [markdown]
# Samples that decide about nothing are of a seed of their own; `lrsa-coupled evaluate` has the error on them. An error
# of 5 % is a good initial guess for Newton's method far from the solution, and of no use where it begins near. What a
# guess is worth in iterations and seconds, only a benchmark says: see `benchmark.py`.
# %%
assert main(f"generate {case} --resolution 12 --samples 8 --seed 1 --out {out}/test --quiet".split()) == 0
comm.Barrier()
if comm.rank == 0:
    summary, _ = evaluate(out / "long", out / "test", Config())
    print(f"long training: error on unseen samples {100 * summary['fields']['temperature']['l2']['mean']:.1f} %")

# %% [markdown]
# Where samples are the limit, `lrsa-coupled experiment few-samples` has the error, the gain and the price over their
# number, beside those of the nearest sample and of modes with a Gaussian process, which take no training.
# %%
if comm.rank == 0:
    figure = Figure(figsize=(6.0, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, minutes in MINUTES.items():
        found = errors(name)
        print(f"{name} training: validation error {min(found.values()):.1f} %")
        axes.semilogy([*found], [*found.values()], "o-", label=f"{60 * minutes:.0f} s")
    axes.set(xlabel="epoch", ylabel="validation error [%]")
    axes.legend(title="time of training")
    figure.savefig("training.png")

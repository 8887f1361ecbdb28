"""``make inference``: the Bayesian inference of a flow by delayed acceptance, a client of ``lrsa-coupled serve``.

It runs in an environment of its own, with tinyDA and umbridge, and knows the models by HTTP only. Reynolds number and
centre of the obstacle of a cavity are inferred from five noisy quantities. Subchains of the surrogate, an operator
fitted to the solves of an estimate, make the proposals of a chain of the finite element model; a chain of the latter
alone, with the same random walk, is compared. The posterior distribution of both is that of the finite element model.

Source: Christen & Fox (2005), J. Comput. Graph. Stat. 14; Lykkegaard et al. (2023), SIAM/ASA J. Uncertain. Quantif. 11.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any, final

import arviz
import numpy as np
import numpy.typing as npt
import tinyDA as tda  # noqa: N813
import umbridge
from scipy.stats import multivariate_normal, norm

Array = npt.NDArray[np.float64]

NAMES = ("log_reynolds", "centre_x", "centre_y")
LOW, HIGH = np.array([np.log(200.0), 0.3, 0.3]), np.array([np.log(2500.0), 0.7, 0.7])
"""Ends of the uniform prior; the chains walk in standard normal numbers that are mapped to it."""

TRUTH = np.array([np.log(800.0), 0.45, 0.55])
OTHERS = (0.1, 0.07, 0.8, 0.1, -0.1, 0.05, 0.0125)
"""What is known: semi-axes and angle of the obstacle, speed of the lid, the gap at its corners."""

NOISE = 0.1
"""Standard deviation of the noise, in those of the quantities over the prior."""

BURN_IN = 0.2


@final
class Model:
    """The quantities ``(5,)`` at a point of a chain; counts its evaluations."""

    def __init__(self, url: str, name: str) -> None:
        self._model, self.calls = umbridge.HTTPModel(url, name), 0

    def __call__(self, point: Array) -> Array:
        log_reynolds, *centre = prior_map(point)
        values = self._model([[float(np.exp(log_reynolds)), *map(float, centre), *OTHERS]])[0]
        self.calls += 1
        return np.array(values)


def prior_map(points: Array) -> Array:
    """Map standard normal numbers ``(..., 3)`` to the parameters of the prior."""
    mapped: Array = LOW + (HIGH - LOW) * norm.cdf(points)
    return mapped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both chains and compare them; 1 if their means differ by more than three standard errors."""
    parser = ArgumentParser(description="Bayesian inference of a flow by delayed acceptance.")
    parser.add_argument("url", help="of the server, such as http://localhost:4242")
    parser.add_argument("--steps", type=int, default=150, metavar="N", help="of the chain with delayed acceptance; 150")
    parser.add_argument("--plain", type=int, default=400, metavar="N", help="of the chain without; 400")
    parser.add_argument("--inner", type=int, default=30, metavar="N", help="steps of a subchain; 30")
    parser.add_argument("--scaling", type=float, default=0.1, metavar="S", help="of the random walk; 0.1")
    args = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    np.random.seed(0)  # noqa: NPY002 - tinyDA draws from the global generator
    fe, surrogate = Model(args.url, "fe"), Model(args.url, "surrogate")
    spread = np.std([surrogate(point) for point in rng.standard_normal((200, 3))], axis=0)
    data = fe(norm.ppf((TRUTH - LOW) / (HIGH - LOW))) + NOISE * spread * rng.standard_normal(len(spread))
    prior, noise = multivariate_normal(np.zeros(3), np.eye(3)), np.diag((NOISE * spread) ** 2)
    exact = tda.Posterior(prior, tda.GaussianLogLike(data, noise), fe)
    cheap = tda.Posterior(prior, tda.AdaptiveGaussianLogLike(data, noise), surrogate)
    walk = tda.GaussianRandomWalk(C=np.eye(3), scaling=args.scaling)
    runs = {
        "finite elements alone": (exact, args.plain),
        "delayed acceptance": ([cheap, exact], args.steps),
    }
    found = {name: _run(name, *run, walk=walk, inner=args.inner, model=fe) for name, run in runs.items()}
    (means, errors, rates) = zip(*found.values(), strict=True)
    apart = np.abs(means[1] - means[0]) / np.hypot(*errors)
    print(f"{rates[1] / rates[0]:.1f} times the effective samples a second, means {apart.max():.1f} errors apart")
    return int(apart.max() > 3.0)


def _run(name: str, posteriors: Any, steps: int, *, walk: Any, inner: int, model: Model) -> tuple[Array, Array, float]:
    """Print what a chain has found; return means ``(3,)``, their standard errors and effective samples a second."""
    calls, began = model.calls, time.perf_counter()
    is_delayed = isinstance(posteriors, list)
    chains = tda.sample(  # the surrogate's error is learned on the way
        posteriors, walk, steps, initial_parameters=np.zeros(3), subchain_length=inner,
        adaptive_error_model="state-independent" if is_delayed else None,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    links = chains["chain_fine_0" if is_delayed else "chain_0"]
    points = prior_map(np.array([link.parameters for link in links]))[int(BURN_IN * steps) :]
    worth = np.array([float(arviz.ess(column[None])) for column in points.T])
    means, errors = points.mean(axis=0), points.std(axis=0) / np.sqrt(worth)
    solves = model.calls - calls
    print(f"{name}: {solves} solves, {seconds:.1f} s, {worth.min():.0f} effective samples of {len(points)}")
    for label, mean, error, truth in zip(NAMES, means, errors, TRUTH, strict=True):
        print(f"  {label}: {mean:.4f} +- {error:.4f}, the truth is {truth:.4f}")
    return means, errors, float(worth.min()) / seconds


if __name__ == "__main__":
    sys.exit(main())

"""``python -m lrsa_coupled.cases.scripts.inference``: Bayesian inference of a flow through ``lrsa-coupled serve``.

A client of UM-Bridge: it knows the models by HTTP only and needs numpy. Reynolds number and centre of the obstacle of a
cavity are inferred from noisy quantities by delayed acceptance: a chain of the surrogate, which is fitted to the solves
of an estimate, makes the proposals of a chain of the finite element model. A chain of the latter alone, with the same
random walk, is compared. The posterior distribution of both is that of the finite element model.

Source: Christen & Fox (2005), J. Comput. Graph. Stat. 14; Lykkegaard et al. (2023), SIAM/ASA J. Uncertain. Quantif. 11.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
LogDensity = Callable[[Array], float]

MODEL = Path(__file__).parents[1] / "cavity"
QUANTITIES = ("kinetic_energy", "dissipation", "flow_rate", "force_x", "force_y")
INFERRED = (0, 1, 2)
"""Numbers of the parameters that are inferred: Reynolds number, centre."""

LOW, HIGH = np.array([np.log(200.0), 0.3, 0.3]), np.array([np.log(2500.0), 0.7, 0.7])
"""Ends of the uniform prior, of the logarithm of the Reynolds number."""

WALK = 0.15
"""Deviation of the random walk in units of the prior's width."""


@dataclass(frozen=True)
class Chain:
    """Points ``(N, d)``, steps that were accepted, evaluations of the exact model, wall time [s]."""

    points: Array
    accepted: int
    evaluations: int
    seconds: float


@final
class Client:
    """A server of UM-Bridge."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)

    def post(self, path: str, content: object) -> dict[str, Any]:
        """Ask; ValueError with the server's message where it refuses."""
        self._connection.request("POST", path, json.dumps(content))
        answer = json.loads(self._connection.getresponse().read())
        if "error" in answer:
            raise ValueError(answer["error"]["message"])
        return dict(answer)

    def evaluate(self, model: str, numbers: Array) -> Array:
        """Return the quantities."""
        return np.array(self.post("/Evaluate", {"name": model, "input": [numbers.tolist()], "config": {}})["output"][0])


def metropolis(exact: LogDensity, start: Array, *, steps: int, walk: float, rng: np.random.Generator) -> Chain:
    """Walk at random; the deviations are a share of the prior's width."""
    return delayed_acceptance(None, exact, start, steps=steps, inner=1, walk=walk, rng=rng)


def delayed_acceptance(cheap: LogDensity | None, exact: LogDensity, start: Array, *, steps: int, inner: int,
                       walk: float, rng: np.random.Generator) -> Chain:  # fmt: skip
    """Let ``inner`` steps of a random walk with the cheap density, if any, propose each step of the exact one."""
    began, now, value = time.perf_counter(), start, exact(start)
    low = 0.0 if cheap is None else cheap(start)
    points, accepted, evaluations = [], 0, 0
    for _ in range(steps):
        new, new_low = now, low
        for _ in range(inner):
            trial = new + walk * (HIGH - LOW)[: len(start)] * rng.standard_normal(len(start))
            trial_low = 0.0 if cheap is None else cheap(trial)
            if cheap is None or np.log(rng.uniform()) < trial_low - new_low:
                new, new_low = trial, trial_low
        if new is not now:
            new_value, evaluations = exact(new), evaluations + 1
            if np.log(rng.uniform()) < new_value - value - (new_low - low):
                now, value, low, accepted = new, new_value, new_low, accepted + 1
        points.append(now)
    return Chain(np.array(points), accepted, evaluations, time.perf_counter() - began)


def effective_samples(points: Array) -> float:
    """Return the independent samples that a chain is worth, the least over its coordinates.

    Source: Geyer (1992), Stat. Sci. 7: sums of pairs of autocovariances while they are positive.
    """
    found = []
    for column in (points - points.mean(axis=0)).T:
        count = len(column)
        covariances = np.correlate(column, column, "full")[count - 1 :] / count
        pairs = covariances[: 2 * (count // 2)].reshape(-1, 2).sum(axis=1)
        positive = pairs[: int(np.argmax(pairs <= 0.0)) or len(pairs)]
        found.append(count * covariances[0] / max(2.0 * positive.sum() - covariances[0], covariances[0] / count))
    return float(min(found))


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the estimate and the data, run both chains, print the table."""
    parser = ArgumentParser(prog="lrsa_coupled.cases.scripts.inference", description="Bayesian inference of a flow.")
    parser.add_argument("--resolution", type=int, default=32, metavar="R", help="of the finite element model; 32")
    parser.add_argument("--solves", type=int, default=100, metavar="N", help="to which the surrogate is fitted; 100")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="of the exact chains; 200")
    parser.add_argument("--inner", type=int, default=20, metavar="N", help="steps of the surrogate for each; 20")
    parser.add_argument("--noise", type=float, default=0.1, metavar="S", help="deviation, in those of the quantities")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the estimate here")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary) / "estimate"
        verb = [sys.executable, "-c", "import sys; from lrsa_coupled.cli import main; sys.exit(main())"]
        asked = ["cavity", "--resolution", str(args.resolution), "--quantity", *QUANTITIES]
        goal = ["--method", "mc", "--error", "1e9", "--pilot", str(args.solves), "--out", str(folder)]
        began = time.perf_counter()
        subprocess.run([*verb, "estimate", *asked, *goal], check=True, stdout=subprocess.DEVNULL)
        print(f"{args.solves} solves: {time.perf_counter() - began:.1f} s")
        serve = [*verb, "serve", *asked, "--port", "0", "--fit", str(folder), "--model", str(MODEL)]
        with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                found = re.search(r"127\.0\.0\.1:(\d+)", server.stdout.readline())
                if found is None:
                    raise ValueError("the server has not started, see its message above")
                _compare(Client(int(found[1])), folder, steps=args.steps, inner=args.inner, noise=args.noise)
            finally:
                server.send_signal(signal.SIGTERM)
    return 0


def _compare(client: Client, folder: Path, *, steps: int, inner: int, noise: float) -> None:
    from lrsa_coupled.catalog import load_case
    from lrsa_coupled.study.serve import real_numbers

    rng = np.random.default_rng(0)
    truth = np.array(real_numbers(load_case("cavity").sample(np.random.default_rng([7, 0]))))
    stored = [json.loads(line) for path in (folder / "solves").glob("*.jsonl") for line in path.open()]
    spread = np.array([[row["values"][name] for name in QUANTITIES] for row in stored if row["values"]]).std(axis=0)
    data = client.evaluate("fe", truth) + noise * spread * rng.standard_normal(len(spread))

    def density(model: str) -> LogDensity:
        def log_density(point: Array) -> float:
            if np.any(point < LOW) or np.any(point > HIGH):
                return -np.inf
            numbers = truth.copy()
            numbers[list(INFERRED)] = np.exp(point[0]), *point[1:]
            try:
                misfit = (client.evaluate(model, numbers) - data) / (noise * spread)
            except ValueError:  # a solve has failed
                return -np.inf
            return -0.5 * float(misfit @ misfit)

        return log_density

    start = np.array([np.log(truth[0]), *truth[1:3]])
    one = metropolis(density("fe"), start, steps=steps, walk=WALK, rng=rng)
    two = delayed_acceptance(density("surrogate"), density("fe"), start, steps=steps, inner=inner, walk=WALK, rng=rng)
    for name, chain in (("finite elements alone", one), ("delayed acceptance", two)):
        worth, burn = effective_samples(chain.points[steps // 10 :]), chain.points[steps // 10 :]
        means = ", ".join(
            f"{m:.4f} +- {s / np.sqrt(worth):.4f}" for m, s in zip(burn.mean(0), burn.std(0), strict=True)
        )
        print(f"{name}: {chain.evaluations} solves, {chain.seconds:.1f} s, {chain.accepted} of {steps} accepted")
        print(f"  {worth:.1f} effective samples, {worth / chain.seconds:.4f} a second; means {means}")


if __name__ == "__main__":
    sys.exit(main())

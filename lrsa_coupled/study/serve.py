"""A case as a server of UM-Bridge (Seelinger et al. 2023, J. Open Source Softw. 8): parameters in, quantities out.

Model ``fe`` solves on the mesh that counts, ``fe-N`` on one of resolution N; ``operator`` assembles the quantities of
what a learned operator predicts at the nodes of the mesh; ``surrogate`` takes milliseconds and has derivatives: it is
fitted to the solves of an estimate. All ranks work on one evaluation after the other. Requests come over HTTP, perhaps
from anybody: what is wrong with one is answered, with a status of 400, and ends nothing.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import queue
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, final

import numpy as np
from mpi4py import MPI

from lrsa_coupled.config import Config
from lrsa_coupled.coupling.quantities import Quantity, evaluate
from lrsa_coupled.guess.learned import LearnedGuess
from lrsa_coupled.interfaces import Case
from lrsa_coupled.mpi import StopSignals, collective_errors, share
from lrsa_coupled.reading import parse_json
from lrsa_coupled.study.cheap import CheapModel, fitted_to
from lrsa_coupled.study.solves import Solver

logger = logging.getLogger(__name__)

MOST_BYTES = 1 << 20
"""Bytes of a request that is read."""

Evaluate = Callable[[Any], dict[str, float]]
SURROGATE = "surrogate"


@dataclass
class _Job:
    """An evaluation or, row by row, a Jacobian that waits for the ranks, and what has come of it."""

    model: str
    numbers: list[float]
    jacobian: bool
    done: threading.Event = field(default_factory=threading.Event)
    output: list[float] | None = None
    error: str = ""


@final
class ModelServer:
    """The models of a case. Collective: making and ``run``.

    Args:
        case: The case.
        config: Its settings; ``problem.resolution`` is that of ``fe``.
        comm: The ranks, all of which share an evaluation.
        quantities: What is returned, in this order.
        coarser: Resolutions of further models.
        model: Folder of the operator, None without one.
        fit: Folder of an estimate, to whose solves a surrogate is fitted; None without one.
    """

    def __init__(self, case: Case, config: Config, comm: MPI.Intracomm, *, quantities: Sequence[Quantity],
                 coarser: Sequence[int] = (), model: Path | None = None, fit: Path | None = None) -> None:  # fmt: skip
        self.case, self.comm, self.quantities = case, comm, tuple(quantities)
        self.template = case.sample(np.random.default_rng([config.problem.test_seed, 0]))
        self.size = len(real_numbers(self.template))
        finest = config.problem.resolution or case.resolution
        meshes = {"fe": finest} | {f"fe-{resolution}": resolution for resolution in coarser}
        self.models: dict[str, Evaluate] = {
            name: partial(self._solved, Solver(case, config, comm, resolution)) for name, resolution in meshes.items()
        }
        if model is not None:
            with collective_errors(comm):
                guess = LearnedGuess.load(model, config.guess).bind(case)
            self.models["operator"] = partial(self._predicted, guess, finest)
        self.cheap: CheapModel | None = None
        if fit is not None:
            names = [quantity.name for quantity in quantities]
            with collective_errors(comm):
                operator = model if case.points is not None else None
                self.cheap = fitted_to(fit, case, names, model=operator, settings=config.guess)
            self.models[SURROGATE] = self._fitted
        self._jobs: queue.Queue[_Job] = queue.Queue()

    def run(self, port: int, *, address: str = "127.0.0.1", ready: Callable[[int], None] | None = None) -> None:
        """Serve until SIGTERM or SIGUSR1 comes; ``ready`` is called on rank 0 with the port, chosen where it is 0."""
        server: ThreadingHTTPServer | None = None
        before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # PETSc ends the process otherwise
        if self.comm.rank == 0:
            server = ThreadingHTTPServer((address, port), partial(_Handler, self))
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            if ready is not None:
                ready(server.server_address[1])
        try:
            with StopSignals() as stop:
                while self._next(stop):
                    pass
        finally:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL if before is None else before)
            if server is not None:
                server.shutdown()
                server.server_close()

    def submit(self, model: str, numbers: list[float], *, jacobian: bool = False) -> list[float]:
        """Return the outputs of a model, or its Jacobian row by row, from all ranks; from any thread of rank 0.

        ValueError says why there is no answer.
        """
        job = _Job(model, numbers, jacobian)
        self._jobs.put(job)
        job.done.wait()
        if job.output is None:
            raise ValueError(job.error)
        return job.output

    def _next(self, stop: StopSignals) -> bool:
        """Work on a request, if one comes soon; False after a signal."""
        job, asked = None, None

        def wait() -> tuple[str, list[float], bool] | str:
            nonlocal job
            try:
                job = self._jobs.get(timeout=0.1)
            except queue.Empty:
                return stop.name
            return job.model, job.numbers, job.jacobian

        asked = share(self.comm, wait)
        if isinstance(asked, str):
            return not asked
        output, error = None, ""
        try:
            with collective_errors(self.comm):
                output = self._worked(*asked)
        except Exception as caught:  # noqa: BLE001 - a request, of anybody, ends nothing
            error = f"{type(caught).__name__}: {caught}"
            logger.warning("%s: %s", asked[0], error)
        if job is not None:
            job.output, job.error = output, error
            job.done.set()
        return True

    def _worked(self, model: str, numbers: list[float], jacobian: bool) -> list[float]:
        if jacobian and self.cheap is not None:
            return [float(each) for each in self.cheap.jacobian(numbers, self.parameters).ravel()]
        values = self.models[model](self.parameters(numbers))
        return [values[quantity.name] for quantity in self.quantities]

    def parameters(self, numbers: Sequence[float]) -> Any:
        """Return parameters with these real numbers, in the order of the fields."""
        values, changed = list(numbers), {}
        for name, value in _real(self.template).items():
            count = np.size(value)
            shaped = np.reshape(values[:count], np.shape(value)).tolist()
            values, changed[name] = values[count:], _tuples(shaped)
        return dataclasses.replace(self.template, **changed)

    def _solved(self, solver: Solver, parameters: Any) -> dict[str, float]:
        values, reason = solver.solve(parameters, self.quantities)
        if values is None:
            raise ValueError(f"the solve has failed: {reason}")
        return values

    def _fitted(self, parameters: Any) -> dict[str, float]:
        assert self.cheap is not None
        (row,) = self.cheap([parameters])
        return {quantity.name: float(value) for quantity, value in zip(self.quantities, row, strict=True)}

    def _predicted(self, guess: LearnedGuess, resolution: int, parameters: Any) -> dict[str, float]:
        problem = self.case.problem(self.case.mesh(self.comm, parameters, resolution), parameters)
        put = guess.put(problem)
        if not put.accepted:
            raise ValueError(f"the prediction is of no use: {put.reason}")
        return evaluate(self.quantities, problem)


@final
class _Handler(BaseHTTPRequestHandler):
    """Answers requests, each in a thread of its own."""

    protocol_version = "HTTP/1.1"
    timeout = 60.0
    disable_nagle_algorithm = True  # the body of an answer does not wait for 40 ms behind its head

    def __init__(self, models: ModelServer, *arguments: Any) -> None:
        self.models = models
        super().__init__(*arguments)

    def do_GET(self) -> None:
        if self.path != "/Info":
            self._send(404, _error("NotFound", f"no such path {self.path[:100]!r}, expected /Info"))
            return
        self._send(200, {"protocolVersion": 1.0, "models": [*self.models.models]})

    def do_POST(self) -> None:
        try:
            self._send(200, self._answer(self._body()))
        except ValueError as error:
            self._send(400, _error("InvalidInput", str(error)))

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)

    def _body(self) -> dict[str, Any]:
        text = self.headers.get("Content-Length", "")
        if not text.isdigit() or int(text) > MOST_BYTES:
            self.close_connection = True
            raise ValueError(f"a request needs a Content-Length up to {MOST_BYTES}, got {text[:30]!r}")
        try:
            return parse_json(self.rfile.read(int(text)).decode("utf-8"), where="the request")
        except UnicodeDecodeError as error:
            raise ValueError(f"the request is not text: {error}") from error

    def _answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        name, models = asked.get("name"), self.models
        if not isinstance(name, str) or name not in models.models:
            raise ValueError(f"no model {str(name)[:60]!r}, there are {', '.join(models.models)}")
        if self.path == "/InputSizes":
            return {"inputSizes": [models.size]}
        if self.path == "/OutputSizes":
            return {"outputSizes": [len(models.quantities)]}
        if self.path == "/ModelInfo":
            derivatives = dict.fromkeys(("Gradient", "ApplyJacobian"), name == SURROGATE)
            return {"support": {"Evaluate": True, "ApplyHessian": False} | derivatives}
        if self.path == "/Evaluate":
            return {"output": [models.submit(name, _vector(asked, "input", models.size, inside=True))]}
        if self.path not in ("/Gradient", "/ApplyJacobian"):
            raise ValueError(f"no such path {self.path[:100]!r} for a POST")
        return {"output": self._derivative(name, asked)}

    def _derivative(self, name: str, asked: Mapping[str, Any]) -> list[float]:
        """Return the gradient of the outputs in a direction, or the outputs' change along one of the input."""
        models, number = self.models, len(self.models.quantities)
        if name != SURROGATE:
            raise ValueError(f"model {name} has no derivatives; '{SURROGATE}' has, see --fit")
        if asked.get("inWrt", 0) != 0 or asked.get("outWrt", 0) != 0:
            raise ValueError("inWrt and outWrt must be 0: there is one input and one output")
        backward = self.path == "/Gradient"
        key, size = ("sens", number) if backward else ("vec", models.size)
        direction = np.array(_vector(asked, key, size))
        flat = models.submit(name, _vector(asked, "input", models.size, inside=True), jacobian=True)
        jacobian = np.reshape(flat, (number, models.size))
        found: list[float] = (direction @ jacobian if backward else jacobian @ direction).tolist()
        return found

    def _send(self, status: int, content: Mapping[str, Any]) -> None:
        body = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # the client has left
            self.close_connection = True


def real_numbers(parameters: Any) -> list[float]:
    """Return the real numbers of parameters, in the order of the fields."""
    return [float(number) for value in _real(parameters).values() for number in np.ravel(value)]


def _real(parameters: Any) -> dict[str, Any]:
    values = {item.name: getattr(parameters, item.name) for item in dataclasses.fields(parameters)}
    return {name: value for name, value in values.items() if np.issubdtype(np.asarray(value).dtype, np.floating)}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


def _vector(asked: Mapping[str, Any], key: str, size: int, *, inside: bool = False) -> list[float]:
    """Return the numbers of a request, ``inside`` a list of one list; ValueError unless they are as many as wanted."""
    numbers = asked.get(key)
    if inside and isinstance(numbers, list):
        numbers = numbers[0] if len(numbers) == 1 else None
    wrong = f"{key} must be one list of {size} finite numbers"
    if not isinstance(numbers, list) or len(numbers) != size:
        raise ValueError(wrong)
    if any(isinstance(each, bool) or not isinstance(each, int | float) or not math.isfinite(each) for each in numbers):
        raise ValueError(wrong)
    return [float(each) for each in numbers]


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"type": kind, "message": message}}

"""A case served to clients of UM-Bridge: right answers, wrong requests of every kind, clients that leave."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

pytest.importorskip("dolfinx", reason="the models need DOLFINx")

from lrsa_coupled import cli
from lrsa_coupled.config import Config
from lrsa_coupled.coupling.quantities import choose
from lrsa_coupled.study.cheap import fitted_to
from lrsa_coupled.study.estimate import Request, estimate
from lrsa_coupled.study.serve import ModelServer, real_numbers
from tests.rods import RodCase, RodParameters, exact_mean

pytestmark = pytest.mark.two_ranks

COMM = MPI.COMM_WORLD
ROD = {"name": "fe", "input": [[0.1, -0.2]]}
EXACT = exact_mean(16) * np.exp(0.1 - 0.2 - 0.5 * (0.5**2 + 0.3**2))


def served(client: Callable[[int], None], fit: Path | None = None) -> None:
    """Run a server on all ranks, a client of it in a thread of rank 0, then end it by a signal."""
    case, errors = RodCase(), []
    quantities = choose(case.quantities, ["integral"], of="rods")
    server = ModelServer(case, Config(), COMM, quantities=quantities, coarser=[4], fit=fit)

    def run(port: int) -> None:
        try:
            client(port)
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    server.run(0, ready=lambda port: threading.Thread(target=run, args=(port,)).start())
    for error in errors:
        raise error


def ask(port: int, path: str, content: object, method: str = "POST") -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    connection.request(method, path, body)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def test_protocol() -> None:
    def client(port: int) -> None:
        assert ask(port, "/Info", b"", "GET") == (200, {"protocolVersion": 1.0, "models": ["fe", "fe-4"]})
        assert ask(port, "/InputSizes", {"name": "fe", "config": {}}) == (200, {"inputSizes": [2]})
        assert ask(port, "/OutputSizes", {"name": "fe"}) == (200, {"outputSizes": [1]})
        support = ask(port, "/ModelInfo", {"name": "fe"})[1]["support"]
        assert support["Evaluate"] and not support["Gradient"]
        status, answer = ask(port, "/Evaluate", ROD)
        assert status == 200 and answer["output"][0] == pytest.approx([EXACT])
        coarse = ask(port, "/Evaluate", ROD | {"name": "fe-4"})[1]["output"][0][0]
        assert coarse == pytest.approx(EXACT * (1 - 1 / 16) / (1 - 1 / 256))

    served(client)


def test_surrogate_and_its_derivatives(shared_path: Path) -> None:
    """Of the integral, exp(x + y) times a constant, all derivatives are the integral itself."""
    estimate(RodCase(), Config(), Request(error=0.02, method="mc", pilot=40), shared_path / "e", COMM)
    rod = ROD | {"name": "surrogate"}

    def client(port: int) -> None:
        support = ask(port, "/ModelInfo", {"name": "surrogate"})[1]["support"]
        assert support["Gradient"] and support["ApplyJacobian"] and not support["ApplyHessian"]
        assert ask(port, "/Evaluate", rod)[1]["output"][0] == pytest.approx([EXACT], rel=1e-2)
        status, answer = ask(port, "/Gradient", rod | {"outWrt": 0, "inWrt": 0, "sens": [2.0]})
        assert status == 200 and answer["output"] == pytest.approx([2.0 * EXACT] * 2, rel=5e-2)
        answer = ask(port, "/ApplyJacobian", rod | {"outWrt": 0, "inWrt": 0, "vec": [1.0, -1.0]})[1]
        assert answer["output"] == pytest.approx([0.0], abs=0.1 * EXACT)
        for path, wrong in (("/Gradient", {}), ("/Gradient", {"sens": [1.0, 2.0]}), ("/ApplyJacobian", {"vec": [1.0]})):
            assert ask(port, path, rod | wrong)[0] == 400
        assert ask(port, "/Gradient", rod | {"sens": [1.0], "inWrt": 1})[0] == 400
        status, answer = ask(port, "/Gradient", ROD | {"sens": [1.0]})
        assert status == 400 and "model fe has no derivatives" in answer["error"]["message"]

    served(client, shared_path / "e")
    with pytest.raises(ValueError, match="have no 'other', but integral"):
        fitted_to(shared_path / "e", RodCase(), ["other"], model=None, settings=Config().guess)


def test_client_of_umbridge() -> None:
    umbridge = pytest.importorskip("umbridge", reason="the extra 'uq' is not installed")

    def client(port: int) -> None:
        model = umbridge.HTTPModel(f"http://127.0.0.1:{port}", "fe")
        assert model.get_input_sizes() == [2] and model.get_output_sizes() == [1]
        assert model([[0.1, -0.2]])[0] == pytest.approx([EXACT])
        with pytest.raises(Exception, match="one list of 2 finite numbers"):
            model([[0.1]])

    served(client)


def test_wrong_requests_are_answered() -> None:
    """Fuzzed, too; the server gives the right answer afterwards."""
    rng = random.Random(0)
    wrong = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"name": "fe", "input": 1e999}', b"1" * 5000]
    inputs = ([], [[]], [[1.0]], [[1.0, "x"]], [[1.0, None]], [[True, 1.0]], [[1e400, 1.0]], {"a": 1}, [1.0, 2.0], "x")
    wrong += [json.dumps(ROD | {"input": each}).encode() for each in inputs]
    wrong += [json.dumps({"name": each, "input": [[0.0, 0.0]]}).encode() for each in ("no", None, 3, ["fe"])]
    whole = json.dumps(ROD).encode()
    for _ in range(60):
        place = rng.randrange(len(whole))
        wrong.append(whole[:place] + bytes([rng.randrange(256)]) + whole[place + rng.randrange(4) :])

    def client(port: int) -> None:
        refused = 0
        for each in wrong:
            status, answer = ask(port, "/Evaluate", each)
            refused += status == 400
            assert status == 200 or (status == 400 and answer["error"]["message"])
        assert refused > 50
        assert ask(port, "/Nothing", ROD)[0] == 400 and ask(port, "/Nothing", b"", "GET")[0] == 404
        for header in ("Content-Length: 99999999999", "Content-Length: -1", "X: y"):
            with socket.create_connection(("127.0.0.1", port)) as raw:
                raw.sendall(f"POST /Evaluate HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n".encode())
                assert b" 400 " in raw.recv(100)
        for _ in range(5):  # clients that leave, before the end of their request and before the answer
            with socket.create_connection(("127.0.0.1", port)) as raw:
                raw.sendall(b"POST /Evaluate HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n{")
            with socket.create_connection(("127.0.0.1", port)) as raw:
                head = f"POST /Evaluate HTTP/1.1\r\nHost: a\r\nContent-Length: {len(whole)}\r\n\r\n"
                raw.sendall(head.encode() + whole)
        time.sleep(0.05)
        assert ask(port, "/Evaluate", ROD)[1]["output"][0] == pytest.approx([EXACT])

    served(client)


def test_parameters() -> None:
    """Real numbers in the order of the fields; what is none of them is that of the first sample."""
    from lrsa_coupled.cases.cavity.case import CavityCase

    case = CavityCase()
    server = ModelServer(case, Config(), COMM, quantities=case.quantities)
    parameters = case.sample(np.random.default_rng(5))
    assert server.parameters(real_numbers(parameters)) == parameters
    assert real_numbers(RodParameters(1.0, 2.0)) == [1.0, 2.0]


def test_command_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "darcy", "--port", "70000"]) == 2
    assert cli.main(["serve", "darcy", "--quantity", "pressure"]) == 2
    if COMM.rank == 0:
        text = capsys.readouterr().err
        assert "--port must be between 0 and 65535" in text and "'darcy' has no quantity 'pressure'" in text

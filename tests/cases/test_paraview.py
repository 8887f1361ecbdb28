"""What ``solve`` and ``export`` write, as VTK reads it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mpi4py.MPI", reason="needs MPI")
pytest.importorskip("dolfinx", reason="needs DOLFINx")
pytest.importorskip("pyvista", reason="needs pyvista")

import pyvista
from mpi4py import MPI
from dolfinx import fem, mesh as dmesh

from lrsa_coupled import Field, Schema, catalog, cli
from lrsa_coupled.data.export import Exported, write_vtkhdf
from lrsa_coupled.generation.sample_arrays import SampleGatherer
from lrsa_coupled.interfaces import Features, Unknown

Cell = dmesh.CellType
MESHES = {
    "interval": lambda: dmesh.create_unit_interval(MPI.COMM_SELF, 3),
    "triangle": lambda: dmesh.create_unit_square(MPI.COMM_SELF, 3, 2),
    "quadrilateral": lambda: dmesh.create_unit_square(MPI.COMM_SELF, 3, 2, Cell.quadrilateral),
    "tetrahedron": lambda: dmesh.create_unit_cube(MPI.COMM_SELF, 1, 2, 2),
    "hexahedron": lambda: dmesh.create_unit_cube(MPI.COMM_SELF, 1, 2, 2, Cell.hexahedron),
}
LEFT_OUT = {("quadrilateral", 3), ("hexahedron", 3)}


class Polynomial:
    """A field of total degree ``degree`` on a space."""

    def __init__(self, mesh: dmesh.Mesh, family: str, degree: int) -> None:
        self.schema = Schema("polynomial", mesh.geometry.dim, (), (), (Field("u", unit="m / s"),))
        self.degree, space = degree, fem.functionspace(mesh, (family, degree))
        u = fem.Function(space)
        u.interpolate(self)
        self.problem = Unknown(mesh=mesh, solution=u, bcs=[], node_space=space)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (1.0 + x[0] - 0.5 * x[1] + 0.3 * x[2]) ** self.degree + x[1] ** self.degree

    def features(self, problem: Unknown) -> Features:
        return Features(np.zeros((problem.node_space.dofmap.index_map.size_local, 0)), np.zeros(0))


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("continuous", [True, False], ids=["continuous", "discontinuous"])
def test_all_nodes_are_written(name: str, degree: int, continuous: bool, tmp_path: Path) -> None:
    mesh = MESHES[name]()
    family = "P" if continuous else "DQ" if name in ("quadrilateral", "hexahedron") else "DP"
    field = Polynomial(mesh, family, degree)
    arrays = SampleGatherer(field, field.problem)(field.problem)
    left = write_vtkhdf(tmp_path / "a.vtkhdf", Exported(arrays, field.schema))
    grid = pyvista.read(tmp_path / "a.vtkhdf")
    values = grid["u [m per s]"]
    assert values == pytest.approx(field(np.asarray(grid.points).T), abs=1e-6)
    assert (left > 0) == ((name, degree) in LEFT_OUT) and grid.n_points + left == len(arrays.points)
    if mesh.geometry.dim > 1 and degree < 3:
        inside = np.zeros((20, 3))
        inside[:, : mesh.geometry.dim] = np.random.default_rng(1).uniform(0.05, 0.95, (20, mesh.geometry.dim))
        probed = pyvista.PolyData(inside).sample(grid)
        assert np.all(probed["vtkValidPointMask"])
        assert probed["u [m per s]"] == pytest.approx(field(inside.T), abs=2e-3)


def test_what_has_the_name_of_another_is_told_apart(tmp_path: Path) -> None:
    field = Polynomial(MESHES["triangle"](), "P", 1)
    arrays = SampleGatherer(field, field.problem)(field.problem)
    schema = dataclasses.replace(field.schema, inputs=field.schema.outputs)
    arrays = dataclasses.replace(arrays, inputs=2.0 * arrays.outputs)
    write_vtkhdf(tmp_path / "a.vtkhdf", Exported(arrays, schema, None, {"u [m per s]": 3.0}))
    grid = pyvista.read(tmp_path / "a.vtkhdf")
    assert grid["u [m per s], input"] == pytest.approx(2.0 * grid["u [m per s]"])
    assert grid.field_data["u [m per s], parameter"][0] == 3.0


def test_solve_can_be_repeated_and_its_sample_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case, data, model = str(catalog.templates()["nonlinear"]), str(tmp_path / "data"), str(tmp_path / "model")
    small = ["--resolution", "6", "--quiet"]
    assert cli.main(["generate", case, "--samples", "8", "--out", data, *small]) == 0
    assert cli.main(["train", data, "--out", model, "--set", "training.epochs=1", "--quiet"]) == 0
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli.main(["solve", case, "--index", "2", "--model", model, "--out", str(one), *small]) == 0
    first = json.loads((one / "result.json").read_text())
    assert first["request"]["seed"] == 3 and first["request"]["index"] == 2 and first["request"]["model"] == model
    again = ["--parameters", str(one / "result.json"), "--model", model, "--out", str(two), "--quiet"]
    assert cli.main(["solve", case, *again]) == 0
    second = json.loads((two / "result.json").read_text())
    assert (first["residual"], first["iterations"]) == (second["residual"], second["iterations"])
    for name in ("parameters", "seed", "index", "resolution"):
        assert first["request"][name] == second["request"][name]
    assert first["quantities"] == second["quantities"] and all(first["quantities"].values())

    grid = pyvista.read(one / "sample.vtkhdf")
    guess, solution = grid["temperature, initial guess [T]"], grid["temperature [T]"]
    assert grid.n_points == 13**2 and grid["source [T per L^2]"].max() > 0.0
    assert grid["temperature, difference [T]"] == pytest.approx(guess - solution)
    error = np.linalg.norm(guess - solution) / np.linalg.norm(solution)
    assert first["prediction_error"] == {"temperature": pytest.approx(error, rel=1e-5)}
    assert first["initial_guess"] == ("continuation" if first["used_fallback"] else "learned")
    assert grid.field_data["index"][0] == 2 and grid.field_data["seed"][0] == 3
    assert grid.field_data["hot [T]"][0] == pytest.approx(first["request"]["parameters"]["hot"])
    capsys.readouterr()

    assert cli.main(["export", data, "--index", "5", "--model", model, "--out", str(tmp_path / "vtk")]) == 0
    grid = pyvista.read(capsys.readouterr().out.strip())
    assert grid.n_points == 13**2 and np.ptp(grid["temperature, difference [T]"]) > 0.0
    assert grid.field_data["index"][0] == 5 and str(grid.field_data["case"][0]) == "conduction"

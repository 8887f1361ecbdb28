"""PNG pictures: fields (the solution, what the operator predicts, the difference), and the methods compared."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from lrsa_coupled.bench.compare import LEARNED
from lrsa_coupled.bench.plots import methods_figure
from lrsa_coupled.bench.report import heading
from lrsa_coupled.bench.rows import Results
from lrsa_coupled.files import write_atomically

if TYPE_CHECKING:
    from lrsa_coupled.training.evaluate import Worst


@dataclass(frozen=True)
class Example:
    """Fields of one sample.

    Args:
        points: Coordinates of the nodes ``(num_nodes, d)`` [m], d 2 or 3.
        cells: Nodes of the cells, vertices first ``(num_cells, num_cell_nodes)``.
        truth: Converged field ``(num_nodes, components)``.
        guess: Learned guess ``(num_nodes, components)``.
        relative_error: Of the guess, mass-weighted L2.
    """

    label: str
    points: npt.NDArray[np.floating]
    cells: npt.NDArray[np.integer]
    truth: npt.NDArray[np.floating]
    guess: npt.NDArray[np.floating]
    relative_error: float
    source: str = LEARNED


def fields_figure(example: Example) -> Figure:
    """Draw magnitudes of truth, guess and error side by side; in three dimensions near the middle of the last axis."""
    rows, triangulation = _layout(example)
    truth, guess = _magnitude(example.truth[rows]), _magnitude(example.guess[rows])
    error = np.linalg.norm(example.guess[rows] - example.truth[rows], axis=1)
    figure = Figure(figsize=(13.0, 4.2), layout="constrained", facecolor="white")
    axes = figure.subplots(1, 3)
    limits = np.quantile(truth, [0.0, 0.97])  # the few fast nodes at a moving wall would hide the rest
    panels = [
        ("converged", truth, limits, "viridis"),
        (f"{example.source}, relative error {100 * example.relative_error:.1f} %", guess, limits, "viridis"),
        ("absolute error (own scale)", error, np.quantile(error, [0.0, 0.995]), "magma"),
    ]
    for axis, (title, values, (low, high), colours) in zip(axes, panels, strict=True):
        image = axis.tripcolor(triangulation, values, shading="gouraud", cmap=colours, vmin=low, vmax=high)
        figure.colorbar(image, ax=axis, shrink=0.85, pad=0.02, extend="max", label=example.label)
        axis.set(title=title, xlabel="x", ylabel="y", aspect="equal")
    return figure


def comparison_pictures(results: Results, example: Example | None, folder: Path) -> list[Path]:
    """Write ``fields.png`` (truth, learned guess, error) and ``methods.png`` (iterations, time). Call on one rank."""
    paths = [] if example is None else [save_figure(fields_figure(example), folder / "fields.png")]
    return [*paths, save_figure(methods_figure(results, heading(results)), folder / "methods.png")]


def worst_pictures(worst: Sequence[Worst], folder: Path) -> list[Path]:
    """Write ``worst_<field>.png`` for the samples of the largest error. Call on one rank."""
    paths = []
    for item in worst:
        label = f"{item.field.label}, sample {item.index}"
        example = Example(label, item.points, item.cells, item.exact, item.predicted, item.error, source="prediction")
        paths.append(save_figure(fields_figure(example), folder / f"worst_{item.field.name}.png"))
    return paths


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG file by atomic rename and return its path. Call on one rank."""
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(content, dpi=130, format="png")
    write_atomically({path: content.getvalue()})
    return path


def _layout(example: Example) -> tuple[npt.NDArray[np.intp], Triangulation]:
    """Return the nodes to draw and triangles between them."""
    points = example.points
    if points.shape[1] == 2:
        return np.arange(len(points)), Triangulation(points[:, 0], points[:, 1], _triangles(example.cells))
    height = points[:, 2]
    count = min(len(points), 2 * int(len(points) ** (2 / 3)))
    distance = np.abs(height - 0.5 * (height.min() + height.max()))
    rows = np.argsort(distance, kind="stable")[:count]
    # Two nodes above each other have no triangle.
    rows = rows[np.sort(np.unique(points[rows, :2].round(9), axis=0, return_index=True)[1])]
    return rows, Triangulation(points[rows, 0], points[rows, 1])


def _triangles(cells: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """Split cells of six nodes in four (nodes 3, 4, 5 lie opposite vertices 0, 1, 2); of others take the vertices."""
    if cells.shape[1] != 6:
        return cells[:, :3]
    return cells[:, [[0, 5, 4], [5, 1, 3], [4, 3, 2], [3, 4, 5]]].reshape(-1, 3)


def _magnitude(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return values[:, 0] if values.shape[1] == 1 else np.linalg.norm(values, axis=1)

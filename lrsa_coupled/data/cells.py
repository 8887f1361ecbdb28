"""Quadrilaterals and hexahedra cut into simplices, for losses and errors that see gradients.

Shapes: E cells, V vertices of a cell, d dimension of space.
"""

from __future__ import annotations

from itertools import accumulate, permutations

import numpy as np
import numpy.typing as npt


def are_simplices(num_vertices: int, dim: int) -> bool:
    """Whether cells of so many vertices are simplices, those of a surface or curve in space included."""
    return num_vertices <= dim + 1


def simplices(cells_EV: npt.NDArray[np.int32], dim: int) -> npt.NDArray[np.int32]:
    """Cut cells of ``2^d`` vertices, numbered like corners of a cube, the first axis fastest, into ``d!`` simplices.

    Those of a cell follow one another; other cells are returned as they are. The cut of a cell does not depend on its
    neighbours: simplices of two hexahedra need not match on their common face.

    Source: Kuhn (1960), Some combinatorial lemmas in topology.
    """
    if dim < 2 or cells_EV.shape[1] != 2**dim:
        return cells_EV
    corners = [list(accumulate((1 << axis for axis in order), initial=0)) for order in permutations(range(dim))]
    return cells_EV[:, corners].reshape(-1, dim + 1)

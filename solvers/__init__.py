"""Solvers on PETSc and SLEPc, for any communicator; none of them imports torch."""

from mpi4py import MPI  # before DOLFINx, which does not find the MPI library of PyPI by itself

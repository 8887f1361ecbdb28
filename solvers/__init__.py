"""Solvers on PETSc and SLEPc, for any communicator; none of them imports torch."""

"""Learned low-rank operators inside classical finite element solvers."""

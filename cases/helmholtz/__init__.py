"""Heterogeneous Helmholtz."""

"""Darcy flow through a random medium."""

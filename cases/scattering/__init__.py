"""Scattering of plane waves by a penetrable body."""

"""These tests are of complex PETSc: ``make test-complex`` runs them in its own environment."""

from __future__ import annotations

import pytest

pytest.importorskip("petsc4py", reason="needs PETSc")

from lrsa_coupled.coupling.scalars import IS_COMPLEX

collect_ignore_glob = [] if IS_COMPLEX else ["test_*.py"]

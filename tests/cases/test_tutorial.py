"""The chapters of the tutorial run, and what they print is as good as they say."""

from __future__ import annotations

import re
import runpy

import pytest

from tests.helpers import ROOT, needs_dolfinx

pytestmark = needs_dolfinx


def test_gradients(capsys: pytest.CaptureFixture[str]) -> None:
    """The identified conductivity explains the measurements to their noise; the prior alone has an error of 100 %."""
    runpy.run_path(str(ROOT / "cases/tutorial/gradients.py"), run_name="__main__")
    numbers = [float(each) for each in re.findall(r"\d+\.?\d*", capsys.readouterr().out)]
    solves, _, by_differences, misfit, error = numbers
    assert solves <= 90 and by_differences == 26 * solves
    assert 0.5 < misfit < 1.0 and error < 20.0

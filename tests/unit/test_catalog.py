"""Cases by name and by path."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrsa_coupled import catalog
from lrsa_coupled.interfaces import Case

METHODS = ("sample", "mesh", "problem", "features", "solver", "methods")
OWN = "from lrsa_coupled import schema\nfrom lrsa_coupled.interfaces import Case\n\n" + "".join(
    f"class {name}(Case):\n    schema = schema.Schema('own', 2, (), (), (schema.Field('u'),))\n"
    "    default_method = 'only'\n    resolution, rtol = 4, 1e-8\n"
    + "".join(f"    def {m}(self, *a): return {{'only': None}}\n" for m in METHODS)
    for name in ("Own",)
)


def test_names() -> None:
    assert "cavity" in catalog.case_names()
    assert (catalog.case_folder("cavity") / "case.py").is_file()


@pytest.mark.parametrize("file", [False, True])
def test_own_case(tmp_path: Path, file: bool) -> None:
    (tmp_path / "case.py").write_text(OWN)
    path = tmp_path / "case.py" if file else tmp_path
    case = catalog.load_case(str(path))
    assert isinstance(case, Case) and case.name == "own"
    assert catalog.case_folder(str(path)) == tmp_path
    assert catalog.case_settings(tmp_path) == ({}, {})
    assert catalog.shipped_model(tmp_path) is None


UNFINISHED = "from lrsa_coupled import Case\n\nclass Own(Case):\n    pass\n"


@pytest.mark.parametrize(("content", "found"), [
    ("", "none"), (OWN + OWN.replace("class Own", "class Other"), "Own, Other"),
    (UNFINISHED, "Own lacks features, .*, sample"),
])  # fmt: skip
def test_not_one_class(tmp_path: Path, content: str, found: str) -> None:
    (tmp_path / "case.py").write_text(content)
    with pytest.raises(ValueError, match=rf"exactly one class.*found: {found}"):
        catalog.load_case(str(tmp_path))


def test_unknown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown case 'cavty'.*did you mean 'cavity'"):
        catalog.load_case("cavty")
    with pytest.raises(ValueError, match=r"has no case\.py"):
        catalog.load_case(str(tmp_path))


def test_presets_are_split_off(tmp_path: Path) -> None:
    (tmp_path / "case.py").write_text(OWN)
    (tmp_path / "config.toml").write_text("[training]\nepochs = 3\n[presets.smoke.generate]\nsamples = 4\n")
    assert catalog.case_settings(tmp_path) == ({"training": {"epochs": 3}}, {"smoke": {"generate": {"samples": 4}}})
    (tmp_path / "config.toml").write_text("[")
    with pytest.raises(ValueError, match="not a valid TOML file"):
        catalog.case_settings(tmp_path)


def test_wrappers_have_names_settings_and_models_of_their_own(tmp_path: Path) -> None:
    assert catalog.case_folder("helmholtz:modes") == catalog.case_folder("helmholtz")
    assert catalog.shipped_model("helmholtz:modes") == catalog.case_folder("helmholtz") / "basis"
    assert catalog.shipped_guess("helmholtz:modes") is None and catalog.shipped_guess("cavity") is not None
    assert catalog.shipped_operators("helmholtz") == [catalog.shipped_model("helmholtz:modes")]
    assert catalog.wrapped_names("helmholtz") == ["helmholtz:modes"]
    assert catalog.is_shipped("helmholtz:modes") and not catalog.is_shipped(f"{tmp_path}:modes")
    with pytest.raises(ValueError, match=r"unknown wrapper 'mode' of case 'helmholtz'.*did you mean 'modes'"):
        catalog.load_case("helmholtz:mode")
    (tmp_path / "case.py").write_text(OWN)
    assert catalog.wrapped_names(str(tmp_path)) == []
    (tmp_path / "config.toml").write_text("[data]\nseed = 1\nmemory = 2\n[modes]\ndata = { memory = 3 }\n")
    assert catalog.case_settings(tmp_path)[0] == {"data": {"seed": 1, "memory": 2}}
    assert catalog.case_settings(f"{tmp_path}:modes")[0] == {"data": {"seed": 1, "memory": 3}}
    with pytest.raises(ValueError, match="modes are of a case with a spectrum"):
        catalog.load_case(f"{tmp_path / 'case.py'}:modes")


def test_the_default_method_must_be_a_method(tmp_path: Path) -> None:
    (tmp_path / "case.py").write_text(OWN.replace("'only'\n", "'best'\n"))
    with pytest.raises(ValueError, match="default_method of 'own' must be one of only, got 'best'"):
        catalog.load_case(str(tmp_path))


def test_attributes_that_lack_are_named(tmp_path: Path) -> None:
    (tmp_path / "case.py").write_text(OWN.replace("resolution, rtol = 4, 1e-8", "pass"))
    with pytest.raises(ValueError, match=r"Own lacks resolution, rtol: set them in the class"):
        catalog.load_case(tmp_path)

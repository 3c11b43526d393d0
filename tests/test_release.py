"""The wheel and the sdist: what is in them, and that the wheel solves a puzzle outside the checkout.

`make release-check` tries more, in fresh environments (tests/release.py).
"""

import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import release
import yaml

import trm
from trm.recipe import recipe_names

ROOT = release.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    return release.build(tmp_path_factory.mktemp("built"))


VENDOR = "trm/page/vendor/"  # there only after `make page`: the browser's runtime, for the wheel


def package() -> set[str]:
    """Files of the package as they are written, without what Python, compiler and `make page` leave there."""
    made = {"__pycache__", ".nbi", ".nbc", ".pyc"}
    files = (path for path in (ROOT / "trm").rglob("*") if path.is_file())
    names = {p.relative_to(ROOT).as_posix() for p in files if not made & {*p.parts, p.suffix}}
    return {name for name in names if not name.startswith(VENDOR)}


def test_the_wheel_holds_the_package_and_nothing_else(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    inside = {name for name in names if not re.match(r"trm-[\d.]+\.dist-info/", name)}
    assert {name for name in inside if not name.startswith(VENDOR)} == package()
    assert {f"trm/recipes/{name}.yaml" for name in recipe_names()} <= inside
    for weights in ("mini", "sudoku-9x9", "sudoku-16x16", "maze-30x30"):
        assert f"trm/weights/{weights}/model.safetensors" in inside
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_holds_what_the_wheel_is_built_from_and_nothing_else(built):
    with tarfile.open(built[1]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    inside = {name for name in names if not name.startswith("trm/")}
    beside = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "pyproject.toml", "PKG-INFO"}
    assert inside - {".gitignore"} == beside
    assert names - inside == package()


def test_the_wheel_solves_outside_the_checkout(built, tmp_path):
    """Installed alone; what it needs is taken from this environment."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "beside.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    release.install(environment, "--no-deps", "--no-index", str(built[0]))
    where = release.run(environment, "python", "-c", "import trm; print(trm.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(packages)
    assert "solved, and the rules confirm it" in release.run(
        environment, "trm", "solve", release.SUDOKU, cwd=tmp_path
    )


def test_every_extra_is_tried_before_a_release():
    assert set(release.EXTRAS) == set(PROJECT["optional-dependencies"]) - {"docs", "dev"}


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert trm.__version__ == PROJECT["version"] == citation["version"]
    assert citation["license"] == PROJECT["license"]


def test_versions_of_python_that_are_named_are_tested():
    named = [each.rsplit(" ", 1)[1] for each in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", each)]
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == named


def test_templates_are_well_formed():
    for path in (ROOT / ".github").rglob("*.yml"):
        assert yaml.safe_load(path.read_text(encoding="utf-8")), path


def test_make_demo_ends_with_three_commands_that_work():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    demo = re.search(r"^demo:.*?(?=^\S)", makefile, flags=re.DOTALL | re.MULTILINE)[0]
    assert all(line.startswith("\t@") for line in demo.splitlines()[1:] if line.strip())
    commands = re.findall(r"@echo '  \$\(BIN\)/trm ([^']*)'", demo)
    assert len(commands) == 3
    from trm import cli

    for command in commands:
        words = command.split()
        if "--help" in words:
            with pytest.raises(SystemExit) as end:
                cli._parse(words)
            assert not end.value.code
        else:
            assert callable(cli._parse(words))

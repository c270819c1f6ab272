import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[1]


def test_only_one_name_is_installed(tmp_path):
    packages = set(find_packages(ROOT, include=["alignvis", "alignvis.*"]))
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in (ROOT / "alignvis").rglob("*.py")}
    assert packages == folders  # a folder without __init__.py would not be shipped
    clean = tmp_path / "clean"  # setuptools leaves a build folder behind, and would ship what lay in an old one
    shutil.copytree(ROOT / "alignvis", clean / "alignvis", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "cli.py"):
        shutil.copy(ROOT / name, clean)
    shutil.copytree(ROOT / "tests", clean / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, clean]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"alignvis"}
    shipped = {name for name in names if name.startswith("alignvis/")}
    assert shipped == {path.relative_to(ROOT).as_posix() for path in (ROOT / "alignvis").rglob("*.py")}

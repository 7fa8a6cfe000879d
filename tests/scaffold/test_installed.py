"""Promises about a package that pip has installed, and about its notebook."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from toolrl.scaffold import KINDS, make_package

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment, which finds the packages of this one."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    # Python 3.11 brings a setuptools that is too old; this environment's is found in its place.
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"], check=True)
    query = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site_packages = subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    paths = [sysconfig.get_path("purelib"), str(ROOT), str(ROOT / "envs")]
    Path(site_packages, "dependencies.pth").write_text("\n".join(paths))
    return python


@pytest.mark.parametrize("kind", KINDS)
def test_an_installed_package_is_found_by_every_command(python: Path, tmp_path: Path, kind: str) -> None:
    names, _ = make_package(f"sample-{kind}", kind, tmp_path / "made")
    pip = [
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    for arguments in (
        [*pip, str(tmp_path / "made")],
        ["toolrl", "check", names.env_id, "--tasks", "2"],
        ["toolrl", "eval", names.env_id, "--policy", "oracle", "--tasks", "2"],
    ):
        done = subprocess.run([python, "-m", *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_its_notebook_runs(tmp_path: Path, kind: str) -> None:
    make_package(f"sample-{kind}", kind, tmp_path)
    notebook = nbformat.read(tmp_path / "notebooks" / "explore.ipynb", as_version=4)
    folder = {"metadata": {"path": str(tmp_path / "notebooks")}}
    client = NotebookClient(notebook, timeout=280, kernel_name="python3", resources=folder)
    client.execute(env={**os.environ, "PYTHONPATH": str(tmp_path / "src"), "IPYTHONDIR": str(tmp_path / "ipython")})

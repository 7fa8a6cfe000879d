"""Checks a wheel (`make build`): it holds every tracked file of both packages, and works where it is installed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = {"toolrl": "", "envs/toolrl_envs": "envs/"}  # with the prefix that the wheel leaves out

# Data files, recipes, templates and weights are read from where the wheel was installed.
PROGRAM = """
import sys, toolrl, toolrl_envs
from toolrl.tiny import PATH
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.scaffold import make_package
from toolrl.training.run import parse_arguments

assert toolrl.__file__.startswith(sys.prefix), toolrl.__file__
assert str(PATH).startswith(sys.prefix), PATH
for env_id in ("toolrl/CodeTests-v0", "toolrl/OpenQA-v0", "toolrl/Terminal-v0"):
    toolrl.make(env_id, size=1).close()
load_model("tiny"), load_tokenizer("tiny")
parse_arguments(["--config", "tiny"])
make_package("my-shop", "terminal")
"""


def main(wheel: Path) -> None:
    tracked = {
        name.removeprefix(prefix)
        for folder, prefix in SOURCES.items()
        for name in subprocess.run(
            ["git", "ls-files", folder], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        ).stdout.splitlines()
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == tracked, f"missing: {sorted(tracked - packed)}; untracked: {sorted(packed - tracked)}"
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder, "bin", "python"))
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", str(wheel)]
        subprocess.run(install, check=True)
        query = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        site_packages = subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        # The dependencies are this environment's. A path in a .pth file does not bring that folder's own .pth files
        # along, so the editable toolrl stays out.
        Path(site_packages, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        subprocess.run([python, "-I", "-W", "error:::toolrl", "-c", PROGRAM], cwd=folder, check=True)
    print(f"{wheel.name}: {len(packed)} files, {wheel.stat().st_size / 1e6:.1f} MB, installed and imported")
    try_core(wheel)


def try_core(wheel: Path) -> None:
    """Install the wheel as `pip install toolrl` does, without extras, and use it as a new user would."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        binaries, constraints = Path(folder, "bin"), ROOT / "constraints.txt"
        install = [str(binaries / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        start = time.monotonic()
        subprocess.run([*install, "-c", str(constraints), str(wheel)], check=True)
        seconds = time.monotonic() - start
        listed = subprocess.run(
            [binaries / "python", "-m", "pip", "list", "--disable-pip-version-check"],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout.splitlines()[2:]
        size = sum(path.stat().st_size for path in Path(folder, "lib").rglob("*") if path.is_file()) / 1e6
        print(f"without extras: {len(listed)} packages, {size:.0f} MB, installed in {seconds:.0f} s", flush=True)
        commands: list[list[str]] = [
            ["init", "my-shop"],
            ["check", "my-shop/src/my_shop/env.py"],
            ["audit", "my-shop/src/my_shop/env.py"],
            ["eval", "my-shop/src/my_shop/env.py", "--policy", "oracle", "--tasks", "5"],
        ]
        for arguments in commands:
            subprocess.run([str(binaries / "toolrl"), *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([*install, "--no-deps", str(Path(folder, "my-shop"))], check=True)
        listing = subprocess.run([binaries / "toolrl", "envs", "my_shop"], stdout=subprocess.PIPE, check=True).stdout
        assert listing.startswith(b"my_shop/MyShop-v0  my-shop "), listing


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())

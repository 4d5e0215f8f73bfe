"""What the tests have in common. They run from an installed wheel, never from the sources beside them.

`VELO_TEST_BTRFS` names the folder that they work in (any other works too), `VELO_TEST_PG` the PostgreSQLs
(`15=/…/bin 18=/…/bin`), of which the newest is taken.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Iterator, List

import pytest

import velo


def newest_postgres() -> str:
    pairs = (pair.split("=", 1) for pair in os.environ.get("VELO_TEST_PG", "").split())
    found = sorted((int(major), folder) for major, folder in pairs)
    return found[-1][1] if found else ""


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    assert Path(velo.__file__).resolve().is_relative_to(Path(sys.prefix).resolve()), "not the installed wheel"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of this run's own, in the environment of all that it starts. Nothing of it stays."""
    base = os.environ.get("VELO_TEST_BTRFS")
    home = Path(base or tmp_path_factory.mktemp("velo")) / f"py-{uuid.uuid4().hex[:8]}"
    os.environ["VELO_HOME"] = str(home)
    if postgres := newest_postgres():
        os.environ["VELO_PG_BIN"] = postgres
    yield home
    for project in velo.Project.list():
        velo.Project.open(project.name).delete(force=True)
    assert within(10, lambda: not living(home)), living(home)
    # The files of what was killed go with the home.
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def project(home: Path) -> velo.Project:
    # So that what lives in the home was left there by a test.
    return velo.Project.create("api", main_stopped=True)


def living(home: Path) -> List[str]:
    """The servers and keepers that live in the home."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                folder, line = os.readlink(process / "cwd"), (process / "cmdline").read_bytes()
            except OSError:
                continue
            if folder.startswith(f"{home}/"):
                found.append(f"server {process.name} {line[:60]!r}")
    found += [f"keeper {socket}" for socket in home.glob("keepers/*/s")]
    return found


def within(seconds: float, happens) -> bool:
    """Whether it happens within that time."""
    end = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def run_pytest(folder: Path, *args: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args], cwd=folder, capture_output=True, text=True,
        timeout=300, **more
    )

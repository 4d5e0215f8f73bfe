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

#: What a suite of pytest's is made of, which has so many tests unless it is told otherwise.
TESTS = 500 if os.environ.get("VELO_TEST_LONG") == "1" else 100

CONFTEST = """
import psycopg, pytest

@pytest.fixture(scope="session")
def velo_seed(velo_project):
    def build(branch):
        with psycopg.connect(branch.url) as db:
            db.execute("CREATE TABLE orders (id int PRIMARY KEY, paid bool)")
            db.execute("CREATE TABLE builds AS SELECT pg_backend_pid()")
    return velo_project.seed(build=build, label="orders")
"""

SUITE = """
import psycopg, pytest

@pytest.mark.parametrize("n", range({tests}))
def test_order(velo_branch, n):
    with psycopg.connect(velo_branch.url) as db:
        # Whatever another test left would be in the way.
        db.execute("INSERT INTO orders VALUES (1, false)")
        db.execute("UPDATE orders SET paid = true")
        assert db.execute("SELECT count(*), bool_and(paid) FROM orders").fetchone() == (1, True)
        assert db.execute("SELECT count(*) FROM builds").fetchone() == (1,)
"""


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


@pytest.fixture
def suite(home: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder with a suite; the projects that its runs make go with it."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_orders.py").write_text(SUITE.format(tests=TESTS))
    yield tmp_path
    for project in velo.Project.list():
        if project.name.startswith(tmp_path.name.lower().replace("_", "-")[:10]):
            velo.Project.open(project.name).delete(force=True)


def kept_of(project: velo.Project) -> List[velo.BranchInfo]:
    """The branches that were kept. The keeper of a run that has just ended may still have some that it made ready."""
    return [branch for branch in project.branches() if branch.name != "main" and not branch.ephemeral]


def passed(said: subprocess.CompletedProcess, number: int) -> None:
    assert f"{number} passed" in said.stdout and said.returncode == 0, said.stdout + said.stderr

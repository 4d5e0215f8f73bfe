"""The fixtures of pytest, in runs of their own: alone and with workers, and beside whatever else is installed."""

import os
import re
import subprocess
import sys

import pytest

import velo
from conftest import CONFTEST, SUITE, TESTS, living, passed, run_pytest, within
from velo import _failed, pytest_plugin


def test_each_test_has_its_own(suite, home):
    said = run_pytest(suite, "-q")
    passed(said, TESTS)
    assert re.search(rf"velo: {TESTS} branches on \w+; each was waited for [\d.]+ ms", said.stdout)
    assert within(5, lambda: not living(home)), living(home)


def test_workers_share_one_pool(suite, home):
    passed(run_pytest(suite, "-q", "-n", "4"), TESTS)
    assert within(5, lambda: not living(home)), living(home)
    (project,) = [p for p in velo.Project.list() if p.name != "api"]
    (seed,) = velo.Project.open(project.name).seeds()
    # It stays between runs.
    passed(run_pytest(suite, "-q", "-n", "2"), TESTS)
    assert [s.id for s in velo.Project.open(project.name).seeds()] == [seed.id]


def test_processes_inside_a_test(suite, home):
    (suite / "test_orders.py").write_text(
        """
import multiprocessing, psycopg, pytest

def insert(url, n):
    with psycopg.connect(url) as db:
        db.execute("INSERT INTO orders VALUES (%s, true)", [n])

@pytest.mark.parametrize("how", ["fork", "spawn"])
@pytest.mark.parametrize("n", range(5))
def test_children(velo_branch, how, n):
    context = multiprocessing.get_context(how)
    children = [context.Process(target=insert, args=(velo_branch.url, n)) for n in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    with psycopg.connect(velo_branch.url) as db:
        assert db.execute("SELECT count(*) FROM orders").fetchone() == (3,)
"""
    )
    for workers in ([], ["-n", "2"]):
        passed(run_pytest(suite, "-q", *workers), 10)
    assert within(5, lambda: not living(home)), living(home)


def test_wider_fixtures_share_and_a_factory_gives_many(suite):
    (suite / "test_orders.py").write_text(
        """
import psycopg

class TestShared:
    def test_one(self, velo_branch_class):
        with psycopg.connect(velo_branch_class.url) as db:
            db.execute("INSERT INTO orders VALUES (1, true)")

    def test_two(self, velo_branch_class, velo_branch_module, velo_branch_session):
        with psycopg.connect(velo_branch_class.url) as db:
            assert db.execute("SELECT count(*) FROM orders").fetchone() == (1,)
        with psycopg.connect(velo_branch_module.url) as db:
            assert db.execute("SELECT count(*) FROM orders").fetchone() == (0,)

def test_many(velo_branch_factory, velo_url, velo_branch):
    urls = {velo_branch_factory().url for _ in range(3)} | {velo_url}
    assert len(urls) == 4 and velo_url == velo_branch.url
"""
    )
    passed(run_pytest(suite, "-q"), 3)


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "workers"])
def test_what_keeps_all_from_running_is_said_once(suite, workers):
    environment = {**os.environ, "VELO_PG_BIN": "/nowhere"}
    said = run_pytest(suite, "-q", *workers, env=environment)
    assert said.returncode not in (0, 1), said.stdout
    assert said.stdout.count("/nowhere holds no PostgreSQL") == 1, said.stdout + said.stderr
    assert "hint: name the folder" in said.stdout
    assert "Traceback" not in said.stdout + said.stderr
    # Who asks for no branch does not need one, nor who is skipped.
    (suite / "test_orders.py").write_text(
        """
import pytest

def test_plain(): pass

@pytest.mark.skipif(True, reason="no PostgreSQL on this machine")
def test_skipped(velo_branch): pass
"""
    )
    said = run_pytest(suite, "-q", *workers, env=environment)
    assert "1 passed, 1 skipped" in said.stdout and said.returncode == 0, said.stdout + said.stderr


def test_a_suite_may_share_a_branch_in_its_own_way(suite):
    (suite / "conftest.py").write_text(
        CONFTEST
        + """
@pytest.fixture(scope="module")
def velo_branch_module(velo_seed):
    with velo_seed.branch() as branch:
        yield branch
"""
    )
    (suite / "test_orders.py").write_text("def test_one(velo_branch_module): assert velo_branch_module.url\n")
    passed(run_pytest(suite, "-q"), 1)


def test_a_suite_with_a_project_of_its_own_has_no_other(suite, project):
    own = """
@pytest.fixture(scope="session")
def velo_project():
    import velo
    return velo.Project.open("api")
"""
    (suite / "conftest.py").write_text(CONFTEST + own)
    (suite / "test_orders.py").write_text(SUITE.format(tests=2))
    passed(run_pytest(suite, "-q"), 2)
    assert [p.name for p in velo.Project.list()] == ["api"]


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "workers"])
def test_whoever_finds_it_first_says_it(suite, workers):
    # As plugins do that ask for their fixtures by a mark.
    (suite / "test_orders.py").write_text(
        """
import pytest

@pytest.mark.parametrize("n", range(5))
def test_order(request, n):
    request.getfixturevalue("velo_url")
"""
    )
    said = run_pytest(suite, "-q", *workers, env={**os.environ, "VELO_PG_BIN": "/nowhere"})
    assert said.returncode != 0 and "/nowhere holds no PostgreSQL" in said.stdout, said.stdout
    assert "5 error" not in said.stdout and "5 failed" not in said.stdout, said.stdout


OLD = """
import sys, pytest
del pytest.StashKey
pytest.__version__ = "6.2.5"
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def test_a_pytest_that_is_too_old_is_told_so(suite):
    (suite / "test_orders.py").write_text("def test_plain(): pass")
    line = [sys.executable, "-c", OLD]
    said = subprocess.run(line, cwd=suite, capture_output=True, text=True)
    assert said.returncode == 4 and "velo-py needs pytest 7 or later, and this is 6.2.5" in said.stderr, said
    (suite / "conftest.py").unlink()
    passed(subprocess.run([*line, "-p", "no:velo"], cwd=suite, capture_output=True, text=True), 1)


def test_no_hook_is_of_a_kind_that_old_pluggies_do_not_know():
    hooks = [hook for one in (pytest_plugin.Suite, _failed.FailedTests) for hook in vars(one).values()]
    marked = [hook.pytest_impl for hook in hooks if hasattr(hook, "pytest_impl")]
    assert len(marked) > 5 and not [mark for mark in marked if mark.get("wrapper")]


@pytest.mark.parametrize("fails", ["velo_project", "velo_seed"])
def test_a_run_whose_warnings_are_errors_ends_of_the_same(suite, fails):
    (suite / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (suite / "conftest.py").write_text(
        f"""
import pytest

@pytest.fixture(scope="session")
def {fails}():
    raise KeyError("migration 7")
"""
    )
    (suite / "test_orders.py").write_text("def test_order(velo_branch): pass")
    said = run_pytest(suite, "-q")
    assert said.returncode == 1 and f"velo: {fails} failed" in said.stdout, said.stdout + said.stderr
    assert "Teardown" not in said.stdout + said.stderr, said.stdout + said.stderr


def test_workers_need_no_installed_package(suite, tmp_path_factory):
    """Where the package is imported from a folder that nobody else's Python looks into."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "velo").symlink_to(os.path.dirname(velo.__file__))
    (suite / "conftest.py").write_text(f"import sys; sys.path.insert(0, {str(folder)!r})\n" + CONFTEST)
    (suite / "test_orders.py").write_text(SUITE.format(tests=4))
    # Without the folder where it is installed, but for what the tests themselves need.
    passed(run_pytest(suite, "-q", "-n", "2"), 4)


FIRST_OF_ALL = """
import pathlib, sys
sys.path.insert(0, {folder!r})
"""


def test_a_package_beside_velo_that_shadows_pythons_own_keeps_no_run_from_beginning(suite, tmp_path_factory):
    """Behind the standard library nobody imports it, as what was a backport once."""
    folder, site = tmp_path_factory.mktemp("beside"), tmp_path_factory.mktemp("site")
    (folder / "velo").symlink_to(os.path.dirname(velo.__file__))
    for where in (folder, suite):
        (where / "pathlib.py").write_text("from collections import Sequence")
    # Each Python of the run has that velo, and the right pathlib already.
    (site / "sitecustomize.py").write_text(FIRST_OF_ALL.format(folder=str(folder)))
    (suite / "test_orders.py").write_text(
        SUITE.format(tests=2) + f"""
def test_it_is_that_one():
    import velo
    assert velo.__file__.startswith({str(folder)!r})
"""
    )
    passed(run_pytest(suite, "-q", "-n", "1", env={**os.environ, "PYTHONPATH": str(site)}), 3)


def test_unittest_has_it_too(suite, project):
    (suite / "test_orders.py").write_text(
        """
import psycopg, velo.unittest

class Orders(velo.unittest.BranchTestCase):
    @classmethod
    def velo_project(cls):
        return velo.Project.open("api")

    def test_one(self):
        with psycopg.connect(self.branch.url) as db:
            db.execute("CREATE TABLE only_here ()")

    test_two = test_one
"""
    )
    said = subprocess.run(
        [sys.executable, "-m", "unittest", "-v", "test_orders"], cwd=suite, capture_output=True, text=True
    )
    assert said.returncode == 0 and "Ran 2 tests" in said.stderr, said.stderr


def test_unittests_own_project_runs_no_server_afterwards(suite, home):
    (suite / "test_orders.py").write_text(
        """
import psycopg, velo.unittest

class Orders(velo.unittest.BranchTestCase):
    def test_one(self):
        with psycopg.connect(self.branch.url) as db:
            db.execute("CREATE TABLE only_here ()")
"""
    )
    try:
        for _ in range(2):
            said = subprocess.run(
                [sys.executable, "-m", "unittest", "-v", "test_orders"], cwd=suite, capture_output=True, text=True
            )
            assert said.returncode == 0 and "Ran 1 test" in said.stderr, said.stderr
            assert within(5, lambda: not living(home)), living(home)
        # Whoever starts it finds it running afterwards.
        main = velo.Project.open("tests").main()
        main.start()
        subprocess.run([sys.executable, "-m", "unittest", "-q", "test_orders"], cwd=suite, check=True)
        assert main.info().state == "running"
    finally:
        velo.Project.open("tests").delete(force=True)

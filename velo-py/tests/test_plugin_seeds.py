"""The seed that tests begin with and the settings that they ask for, in pytest's runs."""

import os
import re
import subprocess
import sys

import pytest

import velo
from conftest import CONFTEST, SUITE, passed, run_pytest, within


def test_who_waits_for_the_seed_of_another_process_is_told(suite, home):
    go, said = suite / "go", suite / "said"
    (suite / "conftest.py").write_text(
        f"""
import os, time, pytest

@pytest.fixture(scope="session")
def velo_seed(velo_project):
    def build(branch):
        end = time.monotonic() + 60
        while not os.path.exists({str(go)!r}) and time.monotonic() < end:
            time.sleep(0.01)
    return velo_project.seed(build=build, label="orders")
"""
    )
    (suite / "test_orders.py").write_text("def test_one(velo_branch): pass")
    line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--dist=each", "--tx=2*popen"]
    told = re.compile(r"velo: waiting for the seed \w+ \(orders\), which another process has been building for \d+ s")
    with open(said, "w") as file, subprocess.Popen(line, cwd=suite, stdout=file, stderr=file) as process:
        try:
            # While it waits, and not when all is over.
            assert within(60, lambda: told.search(said.read_text())), said.read_text()
        finally:
            go.touch()
        assert process.wait(60) == 0, said.read_text()
    assert len(told.findall(said.read_text())) == 1


def test_a_seed_is_of_the_values_that_its_build_was_given(suite):
    (suite / "conftest.py").write_text(
        """
import functools, psycopg, pytest

def load(branch, n):
    with psycopg.connect(branch.url) as db:
        db.execute(f"CREATE TABLE orders AS SELECT {n} AS n")

@pytest.fixture(scope="session", params=[1, 2])
def velo_seed(velo_project, request):
    return velo_project.seed(build=lambda branch: load(branch, request.param))

@pytest.fixture(scope="session", params=[5, 6])
def partial_seed(velo_project, request):
    return velo_project.seed(build=functools.partial(load, n=request.param)), request.param
"""
    )
    (suite / "test_orders.py").write_text(
        """
import psycopg

def count(branch):
    with psycopg.connect(branch.url) as db:
        return db.execute("SELECT n FROM orders").fetchone()[0]

def test_param(velo_branch, request):
    assert count(velo_branch) == request.node.callspec.params["velo_seed"]

def test_partial(partial_seed):
    seed, n = partial_seed
    with seed.branch() as branch:
        assert count(branch) == n
"""
    )
    passed(run_pytest(suite, "-q"), 4)


def test_a_seed_is_of_the_class_that_its_fixture_was_parametrized_by(suite):
    (suite / "conftest.py").write_text(
        """
import psycopg, pytest

class Small:
    n = 1

class Big:
    n = 2

class Object:
    pass

def load(branch, what):
    with psycopg.connect(branch.url) as db:
        db.execute(f"CREATE TABLE orders AS SELECT {what.n} AS n")

@pytest.fixture(scope="session", params=[Small, Big])
def velo_seed(velo_project, request):
    return velo_project.seed(build=lambda branch: load(branch, request.param))

@pytest.fixture(scope="session", params=[Object()])
def object_seed(velo_project, request):
    return velo_project.seed(build=lambda branch: load(branch, request.param))
"""
    )
    (suite / "test_orders.py").write_text(
        """
import psycopg

def test_param(velo_branch, request):
    with psycopg.connect(velo_branch.url) as db:
        wanted = request.node.callspec.params["velo_seed"].n
        assert db.execute("SELECT n FROM orders").fetchone() == (wanted,)
"""
    )
    passed(run_pytest(suite, "-q"), 2)
    (suite / "test_orders.py").write_text("def test_param(object_seed): pass")
    said = run_pytest(suite, "-q")
    assert "1 error" in said.stdout and "give `texts`" in said.stdout, said.stdout


def test_what_is_saved_while_tests_are_collected_has_a_seed_of_its_own(suite):
    wants = """
import psycopg

def test_one(velo_branch):
    with psycopg.connect(velo_branch.url) as db:
        assert db.execute("SELECT to_regclass(%s) IS NOT NULL", ["{table}"]).fetchone() == (True,)
"""
    # Somebody saves another text behind the conftest.py that is imported already.
    conftest, other = suite / "conftest.py", CONFTEST.replace("orders", "parts")
    saves = f"import pathlib\npathlib.Path({str(conftest)!r}).write_text({other!r})\n"
    (suite / "test_orders.py").write_text(saves + wants.format(table="orders"))
    passed(run_pytest(suite, "-q"), 1)
    assert conftest.read_text() == other
    (suite / "test_orders.py").write_text(wants.format(table="parts"))
    passed(run_pytest(suite, "-q"), 1)


def test_folders_have_seeds_of_their_own(suite):
    inner = suite / "inner"
    inner.mkdir()
    (inner / "conftest.py").write_text(CONFTEST.replace("orders", "parts"))
    (inner / "test_parts.py").write_text(SUITE.format(tests=2).replace("orders", "parts"))
    (suite / "test_orders.py").write_text(SUITE.format(tests=2))
    passed(run_pytest(suite, "-q"), 4)
    # pytest makes what is a session's once: it is not handed to a folder that has another seed.
    (suite / "test_orders.py").write_text("def test_orders(velo_branch_session): pass")
    (inner / "test_parts.py").write_text("def test_parts(velo_branch_session): pass")
    said = run_pytest(suite, "-q")
    assert "1 failed, 1 passed" in said.stdout and "another folder's velo_seed" in said.stdout, said.stdout


def test_a_seed_that_is_none_is_told_once(suite):
    (suite / "conftest.py").write_text(
        "import pytest\n@pytest.fixture(scope='session')\ndef velo_seed(velo_project): velo_project.seed(build=print, code='one')\n"
    )
    (suite / "test_orders.py").write_text(SUITE.format(tests=3))
    said = run_pytest(suite, "-q")
    assert said.returncode not in (0, 1), said.stdout + said.stderr
    text = said.stdout + said.stderr
    assert text.count("velo_seed gives None") == 1 and "Traceback" not in text, text


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "workers"])
def test_a_seed_that_cannot_be_built_ends_the_run_and_is_told_once(suite, workers):
    (suite / "conftest.py").write_text(
        """
import pytest

@pytest.fixture(scope="session")
def velo_seed(velo_project):
    def migrate(branch):
        raise KeyError("migration 7")
    return velo_project.seed(build=migrate)
"""
    )
    (suite / "test_orders.py").write_text(SUITE.format(tests=20))
    said = run_pytest(suite, "-q", *workers)
    assert said.returncode == (2 if workers else 1), said.stdout + said.stderr
    assert said.stdout.count("KeyError: 'migration 7'") == 1 and "in migrate" in said.stdout, said.stdout
    assert not re.search(r"\d (passed|failed|error)", said.stdout), said.stdout
    assert "INTERNALERROR" not in said.stdout + said.stderr, said.stdout + said.stderr
    # A suite that gives up a seed for a reason of its own is none that cannot be built.
    conftest = (suite / "conftest.py").read_text().replace('raise KeyError("migration 7")', 'pytest.skip("not today")')
    (suite / "conftest.py").write_text(conftest)
    said = run_pytest(suite, "-q", *workers)
    assert said.returncode == 0 and "20 skipped" in said.stdout, said.stdout + said.stderr


def test_files_are_those_of_the_suite_wherever_it_is_started(suite, home):
    tables = suite / "migrations"
    tables.mkdir()
    (tables / "1_orders.sql").write_text("CREATE TABLE orders (id int PRIMARY KEY, paid bool)")
    (tables / "2_builds.sql").write_text("CREATE TABLE builds AS SELECT pg_backend_pid()")
    (suite / "conftest.py").write_text(
        """
import pytest

@pytest.fixture(scope="session")
def velo_seed(velo_project):
    return velo_project.seed_sql("migrations")
"""
    )
    (suite / "inner").mkdir()
    (suite / "test_orders.py").rename(suite / "inner" / "test_orders.py")
    (suite / "inner" / "test_orders.py").write_text(SUITE.format(tests=2))
    passed(run_pytest(suite, "-q"), 2)
    passed(run_pytest(suite / "inner", "-q"), 2)
    (project,) = [p for p in velo.Project.list() if p.name != "api"]
    assert len(velo.Project.open(project.name).seeds()) == 1


def test_options_are_checked(suite):
    said = run_pytest(suite, "-q", "--velo-keep=all")
    assert said.returncode == 4 and "it is failed or none" in said.stderr
    (suite / "pytest.ini").write_text("[pytest]\nvelo_pool = 2\nvelo_storage = copy\n")
    (suite / "test_orders.py").write_text(SUITE.format(tests=3))
    assert "branches on copy" in run_pytest(suite, "-q").stdout
    for option, why in [
        ("--velo-pool=abc", "it is a number of branches"),
        ("--velo-pool=-1", "it is a number of branches"),
        ("--velo-pg=99999999999", "it is a major version"),
        ("--velo-storage=reflink", "was made with copy"),
    ]:
        said = run_pytest(suite, "-q", option)
        assert said.returncode == 4 and why in said.stdout + said.stderr, said.stdout + said.stderr
        assert "INTERNALERROR" not in said.stdout and "passed" not in said.stdout, said.stdout
    # Another PostgreSQL is another project's.
    other = min(os.environ.get("VELO_TEST_PG", "").split() or [f"0={os.environ.get('VELO_PG_BIN', '')}"])
    passed(run_pytest(suite, "-q", f"--velo-pg={other.split('=', 1)[1]}"), 3)
    assert len([p for p in velo.Project.list() if p.name != "api"]) == 2


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "workers"])
def test_another_storage_than_the_projects_is_refused_before_the_first_test(suite, workers):
    (suite / "test_orders.py").write_text(SUITE.format(tests=3))
    passed(run_pytest(suite, "-q", "--velo-storage=copy"), 3)
    said = run_pytest(suite, "-q", "--velo-storage=reflink", *workers)
    assert said.returncode not in (0, 1, 3), said.stdout + said.stderr
    assert said.stdout.count("storage is reflink, and the project ") == 1, said.stdout + said.stderr
    assert "velo project delete" in said.stdout and "passed" not in said.stdout, said.stdout
    assert "INTERNALERROR" not in said.stdout + said.stderr, said.stdout + said.stderr
    # As it is where a fixture is asked for in a test alone.
    (suite / "test_orders.py").write_text("def test_order(request): request.getfixturevalue('velo_url')")
    said = run_pytest(suite, "-q", "--velo-storage=reflink", *workers)
    assert said.returncode != 0 and "was made with copy" in said.stdout, said.stdout + said.stderr
    assert "INTERNALERROR" not in said.stdout + said.stderr, said.stdout + said.stderr


@pytest.mark.parametrize("runner", [["pytest", "-q"], ["unittest", "-q", "test_orders"]], ids=["pytest", "unittest"])
def test_what_velos_settings_ask_for_is_had_or_refused(suite, home, runner):
    """A matrix by variables would pass on one PostgreSQL otherwise, whatever it asks for."""
    is_unittest = runner[0] == "unittest"
    (suite / "test_orders.py").write_text(
        """
import os, psycopg, velo.unittest

class Orders(velo.unittest.BranchTestCase):
    def test_one(self):
        with psycopg.connect(self.branch.url) as db:
            (version,) = db.execute("SHOW server_version_num").fetchone()
        assert int(version) // 10000 == int(os.environ["WANTED"])
"""
        if is_unittest
        else """
import os, psycopg

def test_one(velo_branch):
    with psycopg.connect(velo_branch.url) as db:
        (version,) = db.execute("SHOW server_version_num").fetchone()
    assert int(version) // 10000 == int(os.environ["WANTED"])
"""
    )

    def run(**more):
        environment = {**os.environ, **more}
        return subprocess.run(
            [sys.executable, "-m", *runner], cwd=suite, capture_output=True, text=True, timeout=300, env=environment
        )

    postgres = sorted(pair.split("=", 1) for pair in os.environ.get("VELO_TEST_PG", "").split())
    if not postgres:
        pytest.skip("VELO_TEST_PG names no PostgreSQL")
    (other, other_bin), (newest, _) = postgres[0], postgres[-1]
    projects = {p.name for p in velo.Project.list()}
    try:
        for more in [{"WANTED": newest}, {"WANTED": other, "VELO_PG_VERSION": other, "VELO_PG_BIN": other_bin}]:
            said = run(**more)
            assert said.returncode == 0, said.stdout + said.stderr
        assert len(velo.Project.list()) == len(projects) + (1 if other == newest else 2)
        for variable, value in [
            ("VELO_RUNTIME", "docker"), ("VELO_IMAGE", "postgres:15"), ("VELO_STORAGE", "zfs"),
        ]:
            said = run(**{"WANTED": newest, variable: value})
            text = said.stdout + said.stderr
            assert said.returncode != 0 and re.search(r" is \S+, and the project \S+ was made with ", text), text
    finally:
        for project in velo.Project.list():
            if project.name.startswith("tests") and project.name not in projects:
                velo.Project.open(project.name).delete(force=True)

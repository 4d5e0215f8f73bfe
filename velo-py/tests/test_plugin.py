"""The fixtures of pytest, in runs of their own: alone and with workers, broken off and killed."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import psycopg
import pytest

import velo
from conftest import living, run_pytest, within
from velo import _failed, pytest_plugin

LONG = os.environ.get("VELO_TEST_LONG") == "1"
TESTS = 500 if LONG else 100

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


@pytest.fixture
def suite(home, tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_orders.py").write_text(SUITE.format(tests=TESTS))
    yield tmp_path
    for project in velo.Project.list():
        if project.name.startswith(tmp_path.name.lower().replace("_", "-")[:10]):
            velo.Project.open(project.name).delete(force=True)


def kept_of(project):
    """The branches that were kept. The keeper of a run that has just ended may still have some that it made ready."""
    return [branch for branch in project.branches() if branch.name != "main" and not branch.ephemeral]


def passed(said, number):
    assert f"{number} passed" in said.stdout and said.returncode == 0, said.stdout + said.stderr


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


def test_a_run_that_has_ended_left_no_files(suite, home):
    (suite / "test_orders.py").write_text(
        SUITE.format(tests=3)
        + """
def test_all_that_is_to_be_ready_is(velo_seed):
    import time
    pool, end = velo_seed.pool(), time.monotonic() + 60
    while pool.info().ready < 3 or pool.info().starting:
        assert time.monotonic() < end
        time.sleep(0.01)
"""
    )
    # The first one makes the project and its seed; what it left would go when the second begins.
    passed(run_pytest(suite, "-q", "--velo-pool=3"), 4)
    before = set(os.listdir(home / "volumes"))
    passed(run_pytest(suite, "-q", "--velo-pool=3"), 4)
    assert set(os.listdir(home / "volumes")) - before == set()


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


def test_a_failed_tests_branch_stays(suite, home):
    (suite / "test_orders.py").write_text(
        SUITE.format(tests=3)
        + """
def test_wrong(velo_branch):
    with psycopg.connect(velo_branch.url) as db:
        db.execute("INSERT INTO orders VALUES (42, false)")
    assert False
"""
    )
    for workers in ([], ["-n", "2"]):
        said = run_pytest(suite, "-q", "--velo-keep=failed", *workers)
        assert "1 failed, 3 passed" in said.stdout
        url = re.search(r"psql '(.+)'", said.stdout)[1]
        with psycopg.connect(url) as db:
            assert db.execute("SELECT id FROM orders").fetchone() == (42,)
        name = re.search(r"velo branch delete (.+)", said.stdout)[1]
        project, branch = name.split("/", 1)
        kept = velo.Project.open(project).branch(branch)
        assert kept.info().expires_at is not None
        # The next failure of the same test replaces it.
        if workers:
            assert len(kept_of(velo.Project.open(project))) == 1
            kept.delete(force=True)
    assert "psql" not in run_pytest(suite, "-q", "--velo-keep=none").stdout
    assert "psql" not in run_pytest(suite, "-q").stdout, "this is no terminal"
    assert within(5, lambda: not living(home)), living(home)


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "workers"])
def test_in_a_terminal_it_stays_unasked(suite, workers):
    (suite / "test_orders.py").write_text("def test_wrong(velo_branch): assert False")
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers]
    ours, its = pty.openpty()
    with subprocess.Popen(line, cwd=suite, stdin=subprocess.DEVNULL, stdout=its, stderr=its):
        os.close(its)
        said = b""
        try:
            while more := os.read(ours, 65536):
                said += more
        except OSError:
            pass  # nobody has the other end any more
        finally:
            os.close(ours)
    (url,) = set(re.findall(r"psql '(.+?)'", said.decode()))
    psycopg.connect(url).close()


def test_what_is_said_to_stay_does(suite, home):
    """Also where a test has two, and where many tests have one label."""
    (suite / "test_orders.py").write_text(
        """
import pytest

def test_two(velo_branch_factory):
    velo_branch_factory(), velo_branch_factory()
    assert False

@pytest.mark.parametrize("op", ["+", "-", "*", "<", ">="])
def test_operator(velo_branch, op):
    assert False
"""
    )
    for workers in ([], ["-n", "2"]):
        said = run_pytest(suite, "-q", "--velo-keep=failed", *workers)
        assert "6 failed" in said.stdout
        urls = re.findall(r"psql '(.+)'", said.stdout)
        assert len(set(urls)) == 7, said.stdout
        for url in urls:
            psycopg.connect(url).close()
    (project,) = [p for p in velo.Project.list() if p.name != "api"]
    project = velo.Project.open(project.name)
    kept = kept_of(project)
    assert len(kept) == 7, kept
    # What somebody has made of one stays with it.
    mine = velo.Branch.create(project, "mine", from_=kept[0].name)
    run_pytest(suite, "-q", "--velo-keep=failed")
    names = [b.name for b in project.branches()]
    assert "mine" in names and kept[0].name in names
    mine.delete()
    for branch in kept_of(project):
        project.branch(branch.name).delete(force=True)


# As pytest-rerunfailures does.
TRIES = """
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    for left in (2, 1, 0):
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if not left or not any(report.failed for report in reports):
            break
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    return True
"""


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "workers"])
def test_a_test_that_is_tried_again_leaves_what_its_last_try_had(suite, workers):
    (suite / "conftest.py").write_text(CONFTEST + TRIES)
    (suite / "test_orders.py").write_text(
        """
TRIES = []

def test_third_time(velo_branch, velo_branch_module):
    TRIES.append(velo_branch.url)
    assert len(TRIES) == 3

def test_never(velo_branch_factory):
    velo_branch_factory(), velo_branch_factory()
    assert False
"""
    )
    said = run_pytest(suite, "-q", "--velo-keep=failed", *workers)
    assert "1 failed, 1 passed" in said.stdout, said.stdout
    urls = set(re.findall(r"psql '(.+)'", said.stdout))
    assert len(urls) == 2, said.stdout
    for url in urls:
        psycopg.connect(url).close()
    (project,) = [p for p in velo.Project.list() if p.name != "api"]
    kept = [branch.name for branch in kept_of(velo.Project.open(project.name))]
    assert len(kept) == 2 and all("never" in name for name in kept), kept


@pytest.mark.parametrize("args, number", [([], 2), (["-n", "2"], 2), (["-x"], 1)], ids=["alone", "workers", "first"])
def test_a_branch_that_tests_share_stays_where_one_of_them_failed(suite, args, number):
    (suite / "test_orders.py").write_text(
        """
import psycopg

class TestShared:
    def test_one(self, velo_branch_class, velo_branch_module):
        with psycopg.connect(velo_branch_class.url) as db:
            db.execute("INSERT INTO orders VALUES (42, false)")

    def test_two(self, request):
        with psycopg.connect(request.getfixturevalue("velo_branch_class").url) as db:
            db.execute("INSERT INTO orders VALUES (43, false)")
        assert False

def test_three(velo_branch_session):
    assert False

def test_four(velo_branch_module):
    pass

def test_five(velo_branch):
    pass
"""
    )
    said = run_pytest(suite, "-q", "--velo-keep=failed", *args)
    assert f"{number} failed" in said.stdout, said.stdout
    kept = dict(re.findall(r"velo: .+ \((velo_branch_\w+)\): its database stays.*\n  psql '(.+)'", said.stdout))
    assert sorted(kept) == ["velo_branch_class", "velo_branch_session"][:number], said.stdout
    with psycopg.connect(kept["velo_branch_class"]) as db:
        assert db.execute("SELECT id FROM orders WHERE id = 43").fetchone() == (43,)
    (project,) = [p for p in velo.Project.list() if p.name != "api"]
    assert len(kept_of(velo.Project.open(project.name))) == number
    assert "psql" not in run_pytest(suite, "-q", "--velo-keep=none", *args).stdout


@pytest.mark.parametrize("args", [["--tb=no"], ["--show-capture=no"], ["--tb=line", "-n", "2"]], ids=" ".join)
def test_what_stays_is_told_however_little_a_report_has(suite, args):
    (suite / "test_orders.py").write_text("def test_wrong(velo_branch): assert False")
    said = run_pytest(suite, "-q", "--velo-keep=failed", *args)
    (url,) = re.findall(r"velo: test_orders.py::test_wrong: its database stays.*\n  psql '(.+)'", said.stdout)
    psycopg.connect(url).close()


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


def test_it_is_broken_off_in_the_middle(suite, home):
    (suite / "test_orders.py").write_text(SUITE.format(tests=10) + "\n        assert n < 5\n")
    for workers in ([], ["-n", "2"]):
        said = run_pytest(suite, "-q", "-x", *workers)
        assert said.returncode == 1 if not workers else said.returncode in (1, 2), said.stdout
        assert within(5, lambda: not living(home)), living(home)


@contextmanager
def started(suite, *args):
    """A run of which some tests have passed."""
    line = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *args]
    with subprocess.Popen(line, cwd=suite, stdout=subprocess.PIPE, text=True) as process:
        try:
            seen = 0
            while seen < 10:
                seen += "PASSED" in (process.stdout.readline() or pytest.fail("no test passed"))
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("workers", [[], ["-n", "4"]], ids=["alone", "workers"])
def test_a_killed_run_leaves_nothing(suite, home, workers):
    with started(suite, *workers) as process:
        process.kill()
        begun = time.monotonic()
        assert within(30, lambda: not living(home)), living(home)
        took = time.monotonic() - begun
    print(f"nothing left after {took * 1000:.0f} ms")
    passed(run_pytest(suite, "-q", *workers), TESTS)


def test_a_killed_worker_leaves_nothing(suite, home):
    with started(suite, "-n", "4") as process:
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as children:
            workers = [pid for pid in children.read().split() if is_worker(pid)]
        os.kill(int(workers[0]), signal.SIGKILL)
        out = process.stdout.read()
        process.wait(120)
    # xdist starts another one, and says which test went with the first.
    # That may have passed a moment before.
    assert "crashed" in out and re.search(rf"({TESTS - 1}|{TESTS}) passed", out), out[-2000:]
    assert within(5, lambda: not living(home)), living(home)


def is_worker(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as line:
        return b"sys.stdin.readline" in line.read()


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


def test_a_seed_that_is_none_is_told_once(suite):
    (suite / "conftest.py").write_text(
        "import pytest\n@pytest.fixture(scope='session')\ndef velo_seed(velo_project): velo_project.seed(build=print, code='one')\n"
    )
    (suite / "test_orders.py").write_text(SUITE.format(tests=3))
    said = run_pytest(suite, "-q")
    assert said.returncode not in (0, 1), said.stdout + said.stderr
    text = said.stdout + said.stderr
    assert text.count("velo_seed gives None") == 1 and "Traceback" not in text, text


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


def test_a_branch_that_the_test_keeps_by_name_stays(suite):
    (suite / "test_orders.py").write_text(
        """
def test_wrong(velo_branch):
    velo_branch.keep("mine")
    assert False
"""
    )
    said = run_pytest(suite, "-q", "--velo-keep=failed")
    assert "its database stays, as the test wanted: postgres" in said.stdout, said.stdout
    assert "for an hour" not in said.stdout, said.stdout
    (project,) = [velo.Project.open(p.name) for p in velo.Project.list() if p.name != "api"]
    (kept,) = kept_of(project)
    assert (kept.name, kept.expires_at) == ("mine", None)


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

"""What stays of the tests that failed, in pytest's runs, alone and with workers."""

import os
import pty
import re
import subprocess
import sys

import psycopg
import pytest

import velo
from conftest import CONFTEST, SUITE, kept_of, living, run_pytest, within


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

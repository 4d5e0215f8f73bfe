"""What is left of pytest's runs that have ended, that were broken off, and of which something was killed."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from conftest import SUITE, TESTS, living, passed, run_pytest, within


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

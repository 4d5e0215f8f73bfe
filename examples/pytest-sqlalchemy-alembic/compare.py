#!/usr/bin/env python3
"""Runs the same 200 tests by pytest-postgresql and by Velo, in turn, and prints how long each whole run took.

    pip install -r compare/requirements.txt
    VELO_PG_BIN=/usr/lib/postgresql/18/bin python compare.py [ROUNDS]

As a user that is not root, for pg_ctl. Both sides run the PostgreSQL of VELO_PG_BIN. "First" is Velo's run in a project
that was just deleted, so that PostgreSQL is set up and the migrations run in it, as pytest-postgresql does in each run.
Processor time is that of all processes of a run, servers too, and scatters less on a machine that is busy.
"""

import ctypes
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import velo

HERE = Path(__file__).parent
POSTGRES = os.environ["VELO_PG_BIN"]
POSTGRESQL = ["-p", "no:velo", f"--postgresql-exec={POSTGRES}/pg_ctl", "compare/test_many.py"]
VELO = ["-p", "no:pytest_postgresql", "tests/test_many.py"]
WORKERS = ["-n", "2"]
RUNS = {
    "pytest-postgresql": POSTGRESQL,
    "Velo, first": VELO,
    "Velo": VELO,
    "pytest-postgresql -n 2": POSTGRESQL + WORKERS,
    "Velo -n 2": VELO + WORKERS,
}


def delete_project() -> None:
    for project in velo.Project.list():
        if project.name.startswith(HERE.resolve().name):
            velo.Project.open(project.name).delete(force=True)


def processor_time() -> float:
    """Of all that has ended; servers that outlived their parents are ours, and are waited for."""
    try:
        while True:
            os.wait()
    except ChildProcessError:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime


def run(arguments: list[str]) -> tuple[float, float]:
    """How long it took, and how much processor time."""
    before, begun = processor_time(), time.monotonic()
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=HERE,
        capture_output=True,
        text=True,
    )
    took = time.monotonic() - begun
    if "200 passed" not in said.stdout:
        sys.exit(said.stdout + said.stderr)
    return took, processor_time() - before


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in RUNS}
    # PR_SET_CHILD_SUBREAPER
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    for _ in range(rounds):
        for name, arguments in RUNS.items():
            if name.endswith("first"):
                delete_project()
            runs[name].append(run(arguments))
            print("%s: %.1f s, processor %.1f s" % (name, *runs[name][-1]), file=sys.stderr, flush=True)
    storage = next((p.storage for p in velo.Project.list() if p.name.startswith(HERE.resolve().name)), "")
    delete_project()
    versions = ", ".join(f"{name} {version(name)}" for name in ("velo-py", "pytest-postgresql", "pytest", "sqlalchemy"))
    postgres = subprocess.run([f"{POSTGRES}/postgres", "--version"], capture_output=True, text=True).stdout.strip()
    print(f"{date.today()}; {os.cpu_count()} cores, load {os.getloadavg()[2]:.1f}; {postgres}; Velo on {storage}")
    print(f"Python {platform.python_version()}, {versions}\n")
    print(f"| seconds, of {rounds} runs each in turn | median | least to most | processor, median |\n|---|---|---|---|")
    for name, of in runs.items():
        took, used = zip(*of)
        spread = f"{min(took):.1f} to {max(took):.1f}"
        print(f"| {name} | {statistics.median(took):.1f} | {spread} | {statistics.median(used):.1f} |")


if __name__ == "__main__":
    main()

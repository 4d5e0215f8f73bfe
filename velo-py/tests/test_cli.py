"""The command that comes with the wheel."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import velo

VELO = str(Path(sys.executable).with_name("velo"))


def test_it_is_the_command(project):
    for command in ([VELO], [sys.executable, "-m", "velo"]):
        said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert said.stdout == f"velo {velo.__version__}\n"
    said = subprocess.run([VELO, "branch", "url", "api/main"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == project.main().url
    said = subprocess.run([VELO, "branch", "get", "api/nope"], capture_output=True, text=True)
    assert said.returncode == 1 and said.stderr.startswith("error: ")


def test_run_hands_on_signals_and_leaves_nothing(project):
    line = [VELO, "run", "api", "--", "sh", "-c", "echo ready; exec sleep 600"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert [b.shown for b in project.branches()] == ["main"]


MAKES = """
import velo
try:
    project = velo.Project.create("own", config=velo.Config(storage="copy", pg_version=18))
except velo.PostgresMissingError as error:
    print("missing:", error.hint)
else:
    print("made:", project.info().postgres)
    project.delete(force=True)
"""


def test_the_extra_brings_a_postgresql(home):
    """Where there is no other of its major: neither in the usual folders of the system, nor in the cache."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("VELO_", "PG"))}
    # Where servers may pass that run as another user.
    own = home.with_name(f"{home.name}-extra")
    environment |= {"VELO_HOME": str(own / "home"), "VELO_CACHE": str(own / "cache"), "PATH": "/usr/bin:/bin"}
    # Debian 12 has no such major.
    own.mkdir(mode=0o755)
    try:
        said = subprocess.run([sys.executable, "-c", MAKES], env=environment, capture_output=True, text=True)
        if sys.version_info >= (3, 12):
            assert said.stdout.startswith("made: "), said.stdout + said.stderr
            assert [folder.name for folder in (own / "cache" / "pg").iterdir() if folder.is_dir()]
        else:
            assert "velo pg install" in said.stdout, said.stdout + said.stderr
    finally:
        shutil.rmtree(own)

"""The command that comes with the wheel."""

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

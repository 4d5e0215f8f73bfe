"""What people read: the types, the texts, and the table of what is where."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import velo
from velo import aio

HERE = Path(__file__).parent.parent
CORE = HERE.parent / "velo-core" / "src"

FACES = [velo.Project, velo.Branch, velo.Snapshot, velo.Seed, velo.Pool]


def public(thing):
    return {name: member for name, member in inspect.getmembers(thing) if not name.startswith("_")}


def test_every_public_name_says_what_it_is():
    silent = [name for name in velo.__all__ if name != "__version__" and not inspect.getdoc(getattr(velo, name))]
    for face in [*FACES, *(getattr(aio, face.__name__) for face in FACES)]:
        silent += [f"{face.__name__}.{name}" for name, member in public(face).items() if not inspect.getdoc(member)]
    assert silent == []


def test_the_faces_are_alike():
    for face in FACES:
        assert public(face).keys() == public(getattr(aio, face.__name__)).keys()


def table():
    rows = {}
    for line in (HERE / "parity.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0] not in ("Rust", "") and not cells[0].startswith("-"):
            rows[cells[0]] = cells[1]
    return rows


def test_the_table_has_all_of_rusts():
    """Each public function of the handles in velo-core's sources."""
    files = {
        "Project": ["project.rs", "seed.rs", "seed/sql.rs"],
        "ProjectBuilder": ["project/builder.rs"],
        "Branch": ["branch.rs", *(f"branch/{f.name}" for f in (CORE / "branch").glob("*.rs"))],
        "Snapshot": ["snapshot.rs"],
        "Seed": ["seed.rs", "pool.rs"],
        "Pool": ["pool.rs"],
        "BranchSpec": ["spec.rs"],
        "SeedKey": ["seed/key.rs"],
        "ConfigBuilder": ["config/builder.rs"],
    }
    missing = []
    for name, of in files.items():
        for file in of:
            text = (CORE / file).read_text(encoding="utf-8")
            for block in re.findall(rf"^impl {name} {{\n(.*?)^}}", text, re.M | re.S):
                block = re.sub(r"#\[doc\(hidden\)\]\s+pub (async )?fn", "", block)
                for function in re.findall(r"^    pub (?:async )?fn (\w+)", block, re.M):
                    if f"{name}::{function}" not in table():
                        missing.append(f"{name}::{function}")
    assert missing == []


def test_the_table_is_true_of_python():
    wrong = []
    for rust, python in table().items():
        if python.startswith("no: "):
            continue
        for name in re.findall(r"[A-Za-z_.]+(?:\([a-z_=]*\))?", python):
            path, _, argument = name.partition("(")
            thing = velo
            for part in path.split("."):
                thing = getattr(thing, part, None)
            argument = argument.rstrip(")=")
            if thing is None:
                wrong.append(f"{rust}: {name}")
            elif argument and argument not in inspect.signature(thing).parameters:
                wrong.append(f"{rust}: {name} has no {argument}")
    assert wrong == []


@pytest.mark.parametrize("tool", [["mypy.stubtest", "velo._velo"], ["mypy", "--strict", "-p", "velo"]])
def test_types(tool, tmp_path):
    said = subprocess.run([sys.executable, "-m", *tool], cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr

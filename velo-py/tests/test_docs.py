"""What people read: the types, the texts, and the table of what is where."""

import importlib.metadata
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
    silent += [f"Config.{name}" for name, member in public(velo.Config).items() if not inspect.getdoc(member)]
    assert silent == []
    for setting in ("home", "zfs_dataset", "max_memory", "keep_free", "start_timeout", "pg_bin"):
        assert setting in inspect.getdoc(velo.Config)


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
    faces = ["Project", "ProjectBuilder", "Branch", "Snapshot", "Seed", "Pool", "BranchSpec", "SeedKey", "ConfigBuilder"]
    found = set()
    for file in CORE.rglob("*.rs"):
        if "blocking" in file.relative_to(CORE).parts[0]:
            continue  # the same once more
        text = file.read_text(encoding="utf-8")
        for name, block in re.findall(r"^impl (\w+) {\n(.*?)^}", text, re.M | re.S):
            block = re.sub(r"#\[doc\(hidden\)\]\s+pub (async )?fn", "", block)
            if name in faces:
                found |= {f"{name}::{function}" for function in re.findall(r"^    pub (?:async )?fn (\w+)", block, re.M)}
    assert all(any(name.startswith(f"{face}::") for name in found) for face in faces)
    missing = sorted(found - table().keys())
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


def test_every_kind_has_its_class():
    (kinds,) = re.findall(r"^pub enum ErrorKind {\n(.*?)^}", (CORE / "error.rs").read_text(encoding="utf-8"), re.M | re.S)
    classes = {name for name, one in public(velo).items() if isinstance(one, type) and issubclass(one, velo.VeloError)}
    assert classes == {"VeloError"} | {f"{kind}Error" for kind in re.findall(r"^    (\w+),$", kinds, re.M)}
    assert classes <= set(velo.__all__)


@pytest.mark.parametrize("name", ["LICENSE-APACHE", "LICENSE-MIT"])
def test_the_wheel_has_the_licences(name):
    (file,) = [file for file in importlib.metadata.files("velo-py") or () if file.name == name]
    assert file.read_text() == (HERE.parent / name).read_text(encoding="utf-8")


def test_python_without_a_gil_is_refused():
    fakes = "import sysconfig; sysconfig.get_config_var = lambda name: int(name == 'Py_GIL_DISABLED'); import velo"
    said = subprocess.run([sys.executable, "-c", fakes], capture_output=True, text=True)
    assert said.returncode == 1 and "ImportError: velo-py does not support the free-threaded build" in said.stderr


@pytest.mark.parametrize("tool", [["mypy.stubtest", "velo._velo"], ["mypy", "--strict", "-p", "velo"]])
def test_types(tool, tmp_path):
    said = subprocess.run([sys.executable, "-m", *tool], cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr

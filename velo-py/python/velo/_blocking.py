"""The blocking face of Velo."""

from __future__ import annotations

import os
from datetime import datetime
from types import TracebackType
from typing import Callable, Iterable, List, Mapping, Optional, Type, Union, cast

from . import _velo
from ._code import code_of, imported_before
from ._info import (
    BranchInfo,
    Connection,
    PoolInfo,
    ProjectInfo,
    RestorePoint,
    Seconds,
    SeedInfo,
    SnapshotInfo,
    Timings,
    Usage,
    maybe_seconds,
    maybe_text,
    seconds,
)
from ._seeds import Files, Path, Paths, done, pattern_of
from ._velo import Config

Source = Union[str, "Branch", "Snapshot", "Seed"]
"""What something starts from: a name (``main``, ``main@before``), or a handle."""


def raw_source(source: Optional[Source]) -> Union[None, str, _velo.Branch, _velo.Snapshot, _velo.Seed]:
    return source if source is None or isinstance(source, str) else source._raw


class Project:
    """A repository: branches and snapshots of one PostgreSQL cluster.

    >>> project = Project.open_or_create("api")         # doctest: +SKIP
    >>> with Branch.create(project) as branch:          # doctest: +SKIP
    ...     psycopg.connect(branch.url)
    """

    #: The folder of seeds' files that are named by a relative path: a suite's root, else the working directory.
    _base = ""

    def __init__(self, raw: _velo.Project) -> None:
        self._raw = raw

    @classmethod
    def open(cls, name: str, *, config: Optional[Config] = None) -> Project:
        """Opens the project `name`, or raises `NotFoundError`."""
        return cls(_velo.Project.get("open", name, config).wait())

    @classmethod
    def create(
        cls,
        name: str,
        *,
        config: Optional[Config] = None,
        role: Optional[str] = None,
        database: Optional[str] = None,
        locale: Optional[str] = None,
        main_stopped: bool = False,
        wal_retention: Optional[Seconds] = None,
    ) -> Project:
        """Creates the project `name`: an empty PostgreSQL cluster, whose branch ``main`` runs unless `main_stopped`.

        `role` is the superuser that URLs name and `database` their database (both ``postgres`` unless told), `locale`
        the one that ``initdb --locale`` is given (``C.UTF-8``). `wal_retention` is how long the WAL of its lasting
        branches is kept, to branch from any moment of it. Raises `AlreadyExistsError`, `PostgresMissingError`, ….
        """
        kept = maybe_seconds(wal_retention)
        return cls(_velo.Project.get("create", name, config, role, database, locale, main_stopped, kept).wait())

    @classmethod
    def open_or_create(
        cls,
        name: str,
        *,
        config: Optional[Config] = None,
        role: Optional[str] = None,
        database: Optional[str] = None,
        locale: Optional[str] = None,
        main_stopped: bool = False,
        wal_retention: Optional[Seconds] = None,
    ) -> Project:
        """Opens the project, or creates it where there is none. Of several processes at once one creates it."""
        founding = role, database, locale, main_stopped, maybe_seconds(wal_retention)
        return cls(_velo.Project.get("open_or_create", name, config, *founding).wait())

    @staticmethod
    def list(*, config: Optional[Config] = None) -> List[ProjectInfo]:
        """Every project of the home, oldest first."""
        return [ProjectInfo._of(raw) for raw in _velo.Project.list(config).wait()]

    @property
    def id(self) -> str:
        """Its identity."""
        return self._raw.id

    @property
    def name(self) -> str:
        """Its name."""
        return self._raw.name

    def info(self) -> ProjectInfo:
        """What is known of it."""
        return ProjectInfo._of(self._raw.info())

    def main(self) -> Branch:
        """Its branch ``main``, the root of the tree."""
        return Branch(self._raw.main().wait())

    def branch(self, name: str) -> Branch:
        """The branch of this name, or raises `NotFoundError`."""
        return Branch(self._raw.branch(name).wait())

    def branches(self) -> List[BranchInfo]:
        """Every branch, oldest first, ephemeral ones among them."""
        return [BranchInfo._of(raw) for raw in self._raw.branches().wait()]

    def snapshot(self, name: str) -> Snapshot:
        """The snapshot ``branch@name``, or of ``main`` by its name alone."""
        return Snapshot(self._raw.snapshot(name).wait())

    def snapshots(self) -> List[SnapshotInfo]:
        """Every snapshot, oldest first."""
        return [SnapshotInfo._of(raw) for raw in self._raw.snapshots().wait()]

    def seed(
        self,
        *,
        build: Callable[[Branch], object],
        files: Paths = (),
        texts: Iterable[str] = (),
        code: Optional[str] = None,
        label: Optional[str] = None,
        from_: Optional[Source] = None,
    ) -> Seed:
        """Data that is prepared once: the seed that is known by a hash of `files`, `texts` and `code`.

        Where there is none, `build` makes it: it is given a branch of ``main``, which is empty unless somebody has
        worked in it, or one of `from_`, and whatever it leaves there is the seed. It is called once for each key,
        whichever process asks first; the others wait, or take over where it fails or dies.

        `files` are paths, folders or patterns (``migrations/**``, ``migrations/**/*.sql``), of which what Python compiled
        does not count. Where one of them changes, or another comes, while the seed is built, `SeedError` is raised.

        `code` is unless told the whole file that `build` is defined in, with the plain values that it was made with (as a
        closure has them), and the names and files of classes and functions among them. A file that was changed after this
        process began makes a seed of this process's own, and so does a module among `files`: what is imported may be
        older. A path counts as it is, not what is at it: one in a temporary folder makes a seed of its own in each run.
        What objects hold does not count, nor what a module's globals hold that `build` reads: name that in `texts`. A
        fixture's parameter (``request.param``) that is no plain value raises `TypeError` where there are no `texts`.

        The versions of PostgreSQL and of its extensions count by themselves. What `build` raises is raised here, and
        nothing half made is left.
        """
        texts, counted = [*texts], Files(files, self._base)
        building = self._raw.seed(
            counted.patterns,
            [*counted.places, *imported_before(counted.patterns), *texts],
            code_of(build, texts) if code is None else code,
            label,
            raw_source(from_),
        )
        found = building.next().wait()
        if isinstance(found, _velo.Seed):
            return Seed(found)
        well = False
        try:
            done(build(Branch(found)))
            counted.are_still_all()
            well = True
        finally:
            seed = building.built(well).wait()
        # Where it was not built well, what was raised is on its way.
        return Seed(cast(_velo.Seed, seed))

    def seed_sql(self, files: Path) -> Seed:
        """The seed that SQL files make, run in the order of their names: a file, a folder, or a pattern."""
        return Seed(self._raw.seed_sql(pattern_of(os.fspath(files), self._base)).wait())

    def seeds(self) -> List[Seed]:
        """Every seed, oldest first, those that are being built among them."""
        return [Seed(raw) for raw in self._raw.seeds().wait()]

    def prune_seeds(self, unused_for: Seconds) -> List[SeedInfo]:
        """Deletes the seeds that nobody has asked for in so long, but those with branches. What was deleted."""
        return [SeedInfo._of(raw) for raw in self._raw.prune_seeds(seconds(unused_for)).wait()]

    def set_wal_retention(self, time: Optional[Seconds]) -> List[str]:
        """Says how long the WAL of its lasting branches is kept; None is not at all, from now on.

        Returns the branches whose servers do as they did until they are restarted.
        """
        return self._raw.set_wal_retention(maybe_seconds(time)).wait()

    def finish_deletions(self) -> None:
        """Waits until the files of what was closed and deleted are gone."""
        self._raw.finish_deletions().wait()

    def delete(self, *, force: bool = False) -> None:
        """Deletes it with all that belongs to it; with `force` also what is more than ``main``."""
        self._raw.delete(force).wait()

    def __repr__(self) -> str:
        return f"<Project {self.name}>"


class Branch:
    """A complete, isolated PostgreSQL whose data is a clone of its parent's.

    An ephemeral branch goes when it is closed, when its last handle is gone, and with this process however that ends.
    As a context manager it is closed at the end; a branch with a name stays.
    """

    def __init__(self, raw: _velo.Branch) -> None:
        self._raw = raw

    @classmethod
    def create(
        cls,
        project: Project,
        name: Optional[str] = None,
        *,
        from_: Optional[Source] = None,
        label: Optional[str] = None,
        settings: Optional[Mapping[str, str]] = None,
        memory: Optional[int] = None,
        cpus: Optional[float] = None,
        shm_size: Optional[int] = None,
        quota: Optional[int] = None,
        ttl: Optional[Seconds] = None,
        start: bool = True,
        at: Union[None, str, datetime] = None,
        at_lsn: Optional[str] = None,
        at_name: Optional[str] = None,
        at_xid: Optional[int] = None,
        exclusive: bool = False,
    ) -> Branch:
        """Creates a branch of ``main``, or of `from_`; returns when it answers.

        With a `name` it stays until it is deleted, with PostgreSQL's full durability; without one it is ephemeral, and
        gives up durability for speed. `label` is what lists call an ephemeral one, `settings` are PostgreSQL's.
        `memory`, `shm_size` and `quota` are bytes, `cpus` processors; they are for runtimes and storages that can hold
        to them. `ttl` deletes a branch with a name when the time is over, ``start=False`` starts no server for it.

        Where the project keeps WAL, one of these has it begin with a moment that is over: `at` (a datetime, or a text
        like ``5 minutes ago``), `at_lsn` (a position in the WAL), `at_name` (a restore point), `at_xid` (when that
        transaction had just been committed). What was committed exactly at that time, or by that transaction, is in
        it, and with `exclusive` it is not.
        """
        call = _velo.Branch.create(
            project._raw,
            name,
            label,
            raw_source(from_),
            None if settings is None else dict(settings),
            memory,
            None if cpus is None else round(cpus * 1000),
            shm_size,
            quota,
            maybe_seconds(ttl),
            start,
            maybe_text(at),
            at_lsn,
            at_name,
            at_xid,
            exclusive,
        )
        return cls(call.wait())

    @property
    def id(self) -> str:
        """Its identity, which it never loses."""
        return self._raw.id

    @property
    def name(self) -> Optional[str]:
        """Its name; an ephemeral branch has none."""
        return self._raw.name

    @property
    def full_name(self) -> str:
        """``project/name``, or ``project/~label.id``."""
        return self._raw.full_name

    @property
    def ephemeral(self) -> bool:
        """Whether it ends with its holder."""
        return self._raw.ephemeral

    @property
    def project(self) -> Project:
        """The project that it belongs to."""
        return Project(self._raw.project)

    @property
    def url(self) -> str:
        """The URL for clients. It stays the same as long as the branch exists, and holds the password."""
        return self._raw.url

    @property
    def socket_url(self) -> str:
        """The same over the Unix socket."""
        return self._raw.socket_url

    @property
    def socket_dir(self) -> str:
        """The folder of its Unix socket."""
        return str(self._raw.socket_dir)

    @property
    def connection(self) -> Connection:
        """The parts of the URL."""
        return Connection(*self._raw.connection)

    @property
    def log_file(self) -> str:
        """Where its server logs."""
        return str(self._raw.log_file)

    @property
    def timings(self) -> Timings:
        """How long the last operation with this handle took, by steps."""
        return Timings._of(self._raw.timings)

    def info(self) -> BranchInfo:
        """What is known of it now."""
        return BranchInfo._of(self._raw.info().wait())

    def usage(self) -> Usage:
        """How much space it takes."""
        return Usage(**self._raw.usage().wait())

    def outgoing(self) -> List[str]:
        """What a session in it could still reach out with, such as foreign servers."""
        return self._raw.outgoing().wait()

    def snapshot(self, name: str) -> Snapshot:
        """Takes a snapshot of its present state, while it runs or not."""
        return Snapshot(self._raw.snapshot(name).wait())

    def restore_point(self, name: str) -> RestorePoint:
        """Gives the present moment a name, for `at_name` of `Branch.create`. Of several the last one counts."""
        return RestorePoint(**self._raw.restore_point(name).wait())

    def start(self) -> None:
        """Starts its server, if it does not run."""
        self._raw.start().wait()

    def stop(self) -> None:
        """Stops its server cleanly, if it runs."""
        self._raw.stop().wait()

    def restart(self) -> None:
        """Stops its server and starts it."""
        self._raw.restart().wait()

    def reset(self, snapshot: Optional[str] = None, *, origin: bool = False) -> None:
        """Gives it its parent's present state, under the same URL.

        Or that of a `snapshot` (``main@before``, or the name alone of one of its own), or with `origin` the state that
        it began with. Whatever comes between, it has the whole old or the whole new data.
        """
        self._raw.reset(snapshot, origin).wait()

    def keep(self, name: Optional[str] = None, *, ttl: Optional[Seconds] = None) -> None:
        """Has an ephemeral branch stay, under `name` or one made of its label; until `ttl` is over, if there is one."""
        self._raw.keep(name, maybe_seconds(ttl)).wait()

    def protect(self, protected: bool = True) -> None:
        """Has it neither deleted nor reset by anybody; its time is never up."""
        self._raw.protect(protected).wait()

    def set_ttl(self, ttl: Optional[Seconds]) -> None:
        """Has it deleted when this time is over, counted from now; None is never."""
        self._raw.set_ttl(maybe_seconds(ttl)).wait()

    def close(self) -> None:
        """Ends an ephemeral branch, and returns when its server is gone. Any other only loses this handle."""
        self._raw.close().wait()

    def delete(self, *, force: bool = False) -> None:
        """Deletes it; with `force` although it runs, and with all that was made from it."""
        self._raw.delete(force).wait()

    def __enter__(self) -> Branch:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Branch {self.full_name}>"


class Snapshot:
    """A named, immutable state that branches start from."""

    def __init__(self, raw: _velo.Snapshot) -> None:
        self._raw = raw

    @property
    def id(self) -> str:
        """Its identity."""
        return self._raw.id

    @property
    def name(self) -> str:
        """Its name, unique among the branch's."""
        return self._raw.name

    @property
    def project(self) -> Project:
        """The project that it belongs to."""
        return Project(self._raw.project)

    def info(self) -> SnapshotInfo:
        """What is known of it."""
        return SnapshotInfo._of(self._raw.info())

    def usage(self) -> Usage:
        """How much space it takes."""
        return Usage(**self._raw.usage().wait())

    def delete(self) -> None:
        """Deletes it."""
        self._raw.delete().wait()

    def __repr__(self) -> str:
        return f"<Snapshot {self.name}>"


class Seed:
    """Data that was prepared once, for branches to start from. See `Project.seed`."""

    def __init__(self, raw: _velo.Seed) -> None:
        self._raw = raw

    @property
    def id(self) -> str:
        """Its identity."""
        return self._raw.id

    @property
    def key(self) -> str:
        """The hash that it is known by, in hexadecimal."""
        return self._raw.key

    @property
    def project(self) -> Project:
        """The project that it belongs to."""
        return Project(self._raw.project)

    def info(self) -> SeedInfo:
        """What was known of it when the handle was made."""
        return SeedInfo._of(self._raw.info())

    def branch(self) -> Branch:
        """An ephemeral branch of it, started now."""
        return Branch(self._raw.branch().wait())

    def pool(self) -> Pool:
        """Branches of it that are started ahead of time: the same ones for all processes of a test run."""
        return Pool(self._raw.pool())

    def usage(self) -> Usage:
        """How much space it takes."""
        return Usage(**self._raw.usage().wait())

    def delete(self) -> None:
        """Deletes it, unless branches were made from it."""
        self._raw.delete().wait()

    def __repr__(self) -> str:
        return f"<Seed {self.info().shown}>"


class Pool:
    """Branches of a seed that are started ahead of time. What comes back is discarded, and never given to the next."""

    def __init__(self, raw: _velo.Pool) -> None:
        self._raw = raw

    def acquire(self, label: Optional[str] = None) -> Branch:
        """A branch that is ready, and nobody else's; where none is, one that is started now."""
        return Branch(self._raw.acquire(label).wait())

    def keep_ready(self, least: int, most: int) -> None:
        """Has so many branches ready at most, and `least` of them from now on."""
        self._raw.keep_ready(least, most).wait()

    def info(self) -> PoolInfo:
        """What is known of it now."""
        return PoolInfo(**self._raw.info().wait())

"""What is known of projects, branches, snapshots, seeds and pools."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, List, Mapping, Optional, Tuple, Union

Seconds = Union[float, timedelta]
"""A time: a number of seconds, or a timedelta."""


def seconds(time: Seconds) -> float:
    return time.total_seconds() if isinstance(time, timedelta) else float(time)


def maybe_seconds(time: Optional[Seconds]) -> Optional[float]:
    return None if time is None else seconds(time)


def maybe_text(at: Union[None, str, datetime]) -> Optional[str]:
    """A moment as text. One without a zone has none there either: it is this machine's, where that is clear."""
    return at.isoformat() if isinstance(at, datetime) else at


def _moment(milliseconds: int) -> datetime:
    """What is beyond the last year that Python knows is its end."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class Cut:
    """The moment of its source that a clone holds."""

    method: str
    """How it was made consistent: ``stopped``, ``crashed``, ``checkpoint``, ``wal`` or ``backup``."""
    lsn: str
    """Everything up to here is in it."""
    next_xid: int
    """The next transaction id at its checkpoint (with its epoch above 32 bits)."""
    oldest_active_xid: int
    """The oldest transaction id that was still running then; 0 if none was."""
    timeline: int
    at: datetime
    """When it was made, in UTC."""
    system_identifier: int
    """The cluster's identity."""
    major: int
    """The major version of PostgreSQL."""
    in_recovery: bool
    """Whether the source was in recovery."""


def _cut(raw: Optional[Mapping[str, Any]]) -> Optional[Cut]:
    return None if raw is None else Cut(**{**raw, "at": _moment(raw["at"])})


@dataclass(frozen=True)
class Reached:
    """The moment that a branch was recovered to."""

    lsn: str
    """Everything in its parent's WAL up to here is in it."""
    timeline: int
    """The timeline of that position."""
    committed_at: Optional[datetime]
    """When the last transaction in it was committed, in UTC; None if none was since the snapshot before it."""
    last_xid: Optional[int]
    """The number of that transaction."""
    replayed: int
    """The bytes of WAL that were replayed."""
    since: datetime
    """When the snapshot was taken that recovery began with, in UTC."""


def _reached(raw: Optional[Mapping[str, Any]]) -> Optional[Reached]:
    if raw is None:
        return None
    micros = raw["committed_at"]
    begin = datetime(1970, 1, 1, tzinfo=timezone.utc)
    at = None if micros is None else begin + timedelta(microseconds=micros)
    return Reached(**{**raw, "committed_at": at, "since": _moment(raw["since"])})


@dataclass(frozen=True)
class RestorePoint:
    """A moment of a branch that has a name."""

    name: str
    lsn: str
    """Everything before it is in a branch that begins with it."""


@dataclass(frozen=True)
class SourceInfo:
    """What the data of a project's ``main`` was brought from."""

    method: str
    """How it came: ``basebackup``, ``dump``, ``files`` or ``sql``."""
    from_: str
    """Words that name the server, without a password; or a path."""
    brought_at: datetime
    """When it was last brought, in UTC."""
    transforms: List[str]
    """The files that were run on it, in their order."""
    masking: Optional[str]
    """The file that it was masked by."""
    notes: List[str]
    """What is not as it was in the source, in words."""


def _source(raw: Optional[Mapping[str, Any]]) -> Optional[SourceInfo]:
    return None if raw is None else SourceInfo(**{**raw, "brought_at": _moment(raw["brought_at"])})


@dataclass(frozen=True)
class ProjectInfo:
    """What is known of a project."""

    id: str
    name: str
    storage: str
    """The storage that its branches really use; never ``auto``."""
    runtime: str
    postgres: str
    """The version of PostgreSQL that its servers run."""
    role: str
    """The role that URLs name."""
    database: str
    """The database that URLs name."""
    wal_retention: Optional[timedelta]
    """How long the WAL of its lasting branches is kept; None is not at all."""
    source: Optional[SourceInfo]
    """What its ``main`` was brought from; None is an empty cluster."""
    created_at: datetime

    @classmethod
    def _of(cls, raw: Mapping[str, Any]) -> ProjectInfo:
        kept = raw["wal_retention"]
        kept = None if kept is None else timedelta(seconds=kept)
        source, created_at = _source(raw["source"]), _moment(raw["created_at"])
        return cls(**{**raw, "wal_retention": kept, "source": source, "created_at": created_at})


@dataclass(frozen=True)
class BranchInfo:
    """What is known of a branch."""

    id: str
    project: str
    name: Optional[str]
    """An ephemeral branch has none."""
    shown: str
    """What people call it: the name, or for an ephemeral branch ``~label.id``."""
    parent: Optional[str]
    """The id of the branch that it hangs from in the tree; ``main`` has none."""
    parent_shown: Optional[str]
    from_snapshot: Optional[str]
    """The snapshot that it was made from, if it was made from one."""
    ephemeral: bool
    """Whether it ends with its holder."""
    state: str
    """``creating``, ``running``, ``restarting``, ``stopped``, ``resetting``, ``deleting`` or ``unknown``."""
    storage: str
    runtime: str
    port: int
    pid: Optional[int]
    """The server's process id, while it runs."""
    created_at: datetime
    cut: Optional[Cut]
    """The moment of its parent that it began with."""
    reached: Optional[Reached]
    """The moment of its parent that was asked for, if one was."""
    expires_at: Optional[datetime]
    """When its time is up; None is never."""
    kept_by: List[str]
    """What keeps it although its time is up."""
    protected: bool
    problem: Optional[str]
    """Why it does not do what it ought to, or why nobody can tell what it does, and what helps."""

    @classmethod
    def _of(cls, raw: Mapping[str, Any]) -> BranchInfo:
        ends = raw["expires_at"]
        return cls(
            **{
                **raw,
                "created_at": _moment(raw["created_at"]),
                "cut": _cut(raw["cut"]),
                "reached": _reached(raw["reached"]),
                "expires_at": None if ends is None else _moment(ends),
            }
        )


@dataclass(frozen=True)
class SnapshotInfo:
    """What is known of a snapshot."""

    id: str
    project: str
    branch: str
    """The branch that it was taken of."""
    name: str
    scheduled: bool
    """Whether a schedule took it (``velo snapshot schedule``), so that a retention may remove it."""
    cut: Optional[Cut]
    """The moment that it holds."""
    created_at: datetime

    @classmethod
    def _of(cls, raw: Mapping[str, Any]) -> SnapshotInfo:
        return cls(**{**raw, "cut": _cut(raw["cut"]), "created_at": _moment(raw["created_at"])})


@dataclass(frozen=True)
class SeedInfo:
    """What is known of a seed."""

    id: str
    project: str
    key: str
    """The hash that it is known by, in hexadecimal."""
    label: Optional[str]
    shown: str
    """What people call it: its label and the begin of its key."""
    ready: bool
    """Whether it is whole; else somebody is building it."""
    created_at: datetime
    used_at: datetime
    """When somebody last asked for it, to ten minutes."""
    branches: int
    """How many branches were made from it that are there."""

    @classmethod
    def _of(cls, raw: Mapping[str, Any]) -> SeedInfo:
        times = {name: _moment(raw[name]) for name in ("created_at", "used_at")}
        return cls(**{**raw, **times})


@dataclass(frozen=True)
class PoolInfo:
    """What is known of a pool."""

    ready: int
    """How many branches wait to be taken."""
    starting: int
    """How many are being started."""
    wanted: int
    """How many are kept ready, as demand is now."""
    limit: int
    """The most that are kept ready."""


@dataclass(frozen=True)
class Usage:
    """How much space something takes, in bytes."""

    referenced: int
    """What its files occupy, shared or not."""
    exclusive: int
    """What would become free if only this went."""
    available: int
    """What is free on the file system or in the pool."""


@dataclass(frozen=True)
class Timings:
    """How long an operation and its steps took. Steps may overlap, so they need not add up to the total."""

    total: timedelta
    steps: List[Tuple[str, timedelta]]

    @classmethod
    def _of(cls, raw: Mapping[str, Any]) -> Timings:
        steps = [(name, timedelta(seconds=took)) for name, took in raw["steps"]]
        return cls(timedelta(seconds=raw["total"]), steps)


@dataclass(frozen=True)
class Connection:
    """The parts of a branch's URL, for clients that take them one by one."""

    host: str
    port: int
    user: str
    password: str
    database: str

    def __repr__(self) -> str:
        return f"Connection(host={self.host!r}, port={self.port}, user={self.user!r}, database={self.database!r})"

"""What suites of every kind have in common."""

from __future__ import annotations

from typing import Optional

from . import Config, Project, _velo


def project_of(name: str, config: Optional[Config] = None) -> Project:
    """The project that a suite has, made if it is not there.

    A new one's `main` is stopped: seeds are cloned from its files, and tests should leave nothing running. One that is
    there stays as it is, and is refused where it was made with other settings: tests would pass on what nobody asked for.
    """
    _velo.tell_waits()
    project = Project.open_or_create(name, config=config, main_stopped=True)
    project._raw.refuse_other_settings()
    return project

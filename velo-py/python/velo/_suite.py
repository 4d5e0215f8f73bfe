"""What suites of every kind have in common."""

from __future__ import annotations

from typing import Optional

from . import Config, NotFoundError, Project


def project_of(name: str, config: Optional[Config] = None) -> Project:
    """The project that a suite has, made if it is not there.

    Whoever makes it stops its server: seeds are cloned from its files, and tests should leave nothing running. One that is
    there stays as it is.
    """
    try:
        return Project.open(name, config=config)
    except NotFoundError:
        project = Project.open_or_create(name, config=config)
        project.main().stop()
        return project

"""A branch for each test of plain unittest: `BranchTestCase`."""

from __future__ import annotations

import unittest
from typing import ClassVar, Optional

from . import Branch, Config, Pool, Project, Seed
from ._suite import project_of


class BranchTestCase(unittest.TestCase):
    """A test case each of whose tests has a PostgreSQL of its own, `self.branch`.

    A class says with `seed` what it begins with:

        class Orders(velo.unittest.BranchTestCase):
            @classmethod
            def velo_seed(cls):
                return cls.velo_project().seed_sql("migrations/")

            def test_paid(self):
                with psycopg.connect(self.branch.url) as db: ...
    """

    branch: Branch
    _pool: ClassVar[Optional[Pool]] = None

    @classmethod
    def velo_project(cls) -> Project:
        """The project, of which no server stays: ``tests`` unless this is overridden, and ``tests-pg15`` where Velo's
        settings name a PostgreSQL."""
        version = Config().pg_version
        return project_of("tests" if version is None else f"tests-pg{version}")

    @classmethod
    def velo_seed(cls) -> Seed:
        """What branches begin with; unless it is overridden, an empty database."""
        return cls.velo_project().seed(build=lambda branch: None, label="empty")

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls._pool = cls.velo_seed().pool()

    @classmethod
    def tearDownClass(cls) -> None:
        cls._pool = None
        super().tearDownClass()

    def setUp(self) -> None:
        super().setUp()
        assert self._pool is not None, "a setUpClass that is overridden calls super().setUpClass()"
        self.branch = self._pool.acquire(self.id())
        self.addCleanup(self.branch.close)

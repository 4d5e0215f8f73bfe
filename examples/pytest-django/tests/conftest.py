from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import django
import pytest
from django.core.management import call_command
from django.db import connection
from django.test import TestCase, TransactionTestCase
from pytest_django import DjangoDbBlocker
from velo import Branch, Project, Seed

ROOT = Path(__file__).parent.parent


def use(branch: Branch) -> None:
    """Has Django connect to this branch from now on, in every thread."""
    connection.close()
    to = branch.connection
    connection.settings_dict.update(
        HOST=to.host, PORT=to.port, USER=to.user, PASSWORD=to.password, NAME=to.database
    )


@pytest.fixture(scope="session")
def velo_seed(velo_project: Project, django_db_blocker: DjangoDbBlocker) -> Seed:
    """Every branch begins with all migrations, which run once and not again until they, or Django, change."""

    def migrate(branch: Branch) -> None:
        with django_db_blocker.unblock():
            use(branch)
            call_command("migrate", verbosity=0)
            connection.close()

    return velo_project.seed(
        files=ROOT.glob("*/migrations"), texts=[django.get_version()], build=migrate, label="shop"
    )


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment: None, velo_branch_session: Branch) -> Iterator[None]:
    """Instead of a test database: one branch, which tests share in transactions that are rolled back."""
    use(velo_branch_session)
    yield
    connection.close()


@pytest.fixture
def own_branch(
    django_db_setup: None, velo_branch_session: Branch, velo_branch: Branch, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Branch]:
    """A branch of this test's own. It goes with the test, so nothing in it is flushed."""
    monkeypatch.setattr(TransactionTestCase, "_fixture_teardown", lambda self: None)
    use(velo_branch)
    yield velo_branch
    use(velo_branch_session)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that really commit take `own_branch` before pytest-django begins with them."""
    for item in items:
        if isinstance(item, pytest.Function) and commits(item):
            item.fixturenames.insert(0, "own_branch")


def commits(item: pytest.Function) -> bool:
    if item.cls and issubclass(item.cls, TransactionTestCase):
        return not issubclass(item.cls, TestCase)
    marker = item.get_closest_marker("django_db")
    asked = {"transactional_db", "live_server", "django_db_reset_sequences"}.intersection(item.fixturenames)
    return bool(asked or marker and (marker.kwargs.get("transaction") or marker.kwargs.get("reset_sequences")))

"""A branch for each test: what pytest loads, with nothing to import or to configure.

A suite says how its data is made, once:

    @pytest.fixture(scope="session")
    def velo_seed(velo_project):
        return velo_project.seed(files=["migrations/**"], build=lambda branch: migrate(branch.url))

and a test that asks for `velo_branch` has a PostgreSQL of its own that begins with it.
"""

from __future__ import annotations

import hashlib
import os
import re
import statistics
import sys
import threading
import time
import traceback
from typing import Any, Callable, Dict, Generator, Iterator, List, Optional

import pytest

from . import Branch, Config, Pool, Project, Seed, VeloError, _velo
from ._suite import project_of

SHARED = tuple(f"velo_branch_{scope}" for scope in ("class", "module", "package", "session"))
# What keeps a suite from having its project. Out of a worker of xdist pytest's own would come as a crash.
OBSTACLES = (VeloError, pytest.UsageError)
#: After how many seconds a seed that nobody has used goes.
UNUSED = 7 * 24 * 3600.0
# What fails there fails for all tests.
FIRST = ("velo_project", "velo_seed")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("velo", "a PostgreSQL for each test")
    for name, metavar, what in [
        ("keep", "WHICH", "which tests' branches stay for an hour: failed (the default in a terminal) or none"),
        ("storage", "KIND", "the storage of a new project: auto, zfs, btrfs, reflink or copy"),
        ("pg", "WHICH", "the PostgreSQL of a new project: a major version, or the folder of its programs"),
        ("pool", "N", "how many branches are kept ready from the beginning; as demand is unless told"),
    ]:
        group.addoption(f"--velo-{name}", dest=f"velo_{name}", metavar=metavar, help=what)
        parser.addini(f"velo_{name}", what)


def pytest_configure(config: pytest.Config) -> None:
    # Every run imports this, also those of people who do not use it: an older one gets to here, and is told.
    if int(pytest.__version__.partition(".")[0]) < 7:
        raise pytest.UsageError(
            f"velo-py needs pytest 7 or later, and this is {pytest.__version__}: install a later one, or do without by -p no:velo"
        )
    # Later pytest has taken standard error, and keeps it until a test has failed.
    _velo.tell_waits()
    suite = Suite(config)
    config.pluginmanager.register(suite, "velo-suite")
    config.pluginmanager.register(suite.failed, "velo-failed")


def wants_project(item: pytest.Item) -> bool:
    """Whether a test needs the project that this plugin makes: a suite may have one of its own."""
    fixtures: Any = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {}).get("velo_project")
    return bool(fixtures and fixtures[-1].func.__module__ == __name__)


def is_skipped(item: pytest.Item) -> bool:
    """Whether a mark skips a test, where this pytest says so."""
    try:
        from _pytest.skipping import evaluate_skip_marks

        return evaluate_skip_marks(item) is not None
    except (Exception, pytest.fail.Exception):
        # Of a condition that is wrong the test itself tells.
        return False


def told(error: Exception, fixture: Any) -> str:
    """An error as what ends the run: of one that is nobody's own, where it came from, from the fixture's code on."""
    if isinstance(error, OBSTACLES):
        hint = getattr(error, "hint", None)
        return f"velo: {error}" + (f"\nhint: {hint}" if hint else "")
    code, begin = getattr(fixture.func, "__code__", None), error.__traceback__
    while begin is not None and begin.tb_frame.f_code is not code:
        begin = begin.tb_next
    lines = traceback.format_exception(type(error), error, begin or error.__traceback__)
    return f"velo: {fixture.argname} failed\n{''.join(lines)}"


def suite_of(config: pytest.Config) -> Suite:
    suite = config.pluginmanager.get_plugin("velo-suite")
    assert isinstance(suite, Suite)
    return suite


class Suite:
    """What the tests of one process have in common."""

    def __init__(self, config: pytest.Config) -> None:
        from ._failed import FailedTests

        self.config = config
        self.failed = FailedTests(config, self._keep())
        self.least = self._least()
        self.pg = self._pg()
        self._project: Optional[Project] = None
        self._pools: Dict[str, Pool] = {}
        self.waits: List[float] = []
        self.storages: List[str] = []
        self.obstacle: Optional[str] = None
        self.seeds: Dict[str, str] = {}

    def option(self, name: str) -> Optional[str]:
        told = self.config.getoption(f"velo_{name}")
        return told if told is not None else (self.config.getini(f"velo_{name}") or None)

    def _keep(self) -> bool:
        which = self.option("keep")
        if which not in (None, "failed", "none"):
            raise pytest.UsageError(f"--velo-keep={which}: it is failed or none")
        if which is None:
            # A worker of xdist has no terminal; what started it may.
            worker = getattr(self.config, "workerinput", None)
            return bool(worker["velo_keep"]) if worker else sys.stdout.isatty()
        return which == "failed"

    def _least(self) -> Optional[int]:
        told = self.option("pool")
        if told is not None and not told.isdecimal():
            raise pytest.UsageError(f"--velo-pool={told}: it is a number of branches")
        return None if told is None else int(told)

    def _pg(self) -> Dict[str, Any]:
        which = self.option("pg")
        if which is None:
            return {}
        if not which.isdecimal():
            return {"pg_bin": which}
        if not 1 <= len(which) <= 3:
            raise pytest.UsageError(f"--velo-pg={which}: it is a major version like 17, or a folder")
        return {"pg_version": int(which)}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["velo_keep"] = self.failed.keep

    def project(self) -> Project:
        """The project of this suite: that of its root folder, so that two checkouts have two, and so has each PostgreSQL
        that somebody names, by an option or in Velo's settings."""
        if self._project is None:
            self._project = self._opened()
        return self._project

    def _opened(self) -> Project:
        root = self.config.rootpath
        config = Config(storage=self.option("storage"), **self.pg)
        named = list(self.pg.values()) or [which for which in [config.pg_version] if which is not None]
        whose = os.fsencode(root) + "".join(f"\0{which}" for which in named).encode()
        path = hashlib.sha256(whose).hexdigest()[:8]
        word = re.sub(r"[^a-z0-9]+", "-", root.name.lower()).strip("-")[:40]
        project = project_of(f"{word or 'tests'}-{path}", config)
        # Wherever pytest was started.
        project._base = str(root)
        return project

    def pool(self, seed: Seed) -> Pool:
        pool = self._pools.get(seed.key)
        if pool is None:
            pool = seed.pool()
            if self.least is not None:
                pool.keep_ready(self.least, max(self.least, pool.info().limit))
            self._pools[seed.key] = pool
            self.storages.append(seed.project.info().storage)
        return pool

    def acquire(self, seed: Seed, label: str) -> Branch:
        begun = time.perf_counter()
        branch = self.pool(seed).acquire(label)
        self.waits.append(time.perf_counter() - begun)
        self.seeds[branch.id] = seed.key
        return branch

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """What keeps all tests from running is said once, before the first of them."""
        wanted = (item for item in session.items if wants_project(item) and not is_skipped(item))
        if self.config.option.collectonly or not any(wanted):
            return
        try:
            self.project()
        except OBSTACLES as error:
            self.give_up(told(error, None), pytest.ExitCode.USAGE_ERROR)

    def give_up(self, message: str, code: pytest.ExitCode) -> None:
        """Ends the run: whatever asks for a branch would fail of the same."""
        if not hasattr(self.config, "workerinput"):
            pytest.exit(message, returncode=code)
        self.obstacle = message

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Optional[bool]:
        # What a worker of xdist says before its first test is taken for a fault of its own.
        if self.obstacle is None or not wants_project(item):
            return None
        item.session.shouldfail = self.obstacle
        return True

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None, Any, None]:
        """What only the first test shows, as that the seed cannot be built, ends the run with it."""
        outcome = yield
        error = outcome.excinfo[1] if outcome.excinfo else None
        if fixturedef.argname == "velo_seed" and not error and outcome.get_result() is None:
            error = pytest.UsageError("velo_seed gives None: write `return velo_project.seed(...)`")
        if not isinstance(error, Exception) or isinstance(error, pytest.exit.Exception):
            return
        if fixturedef.argname not in FIRST or self.config.getoption("usepdb", False):
            return
        is_usage = isinstance(error, pytest.UsageError) or (
            fixturedef.argname == "velo_project" and isinstance(error, VeloError)
        )
        code = pytest.ExitCode.USAGE_ERROR if is_usage else pytest.ExitCode.TESTS_FAILED
        try:
            self.give_up(told(error, fixturedef), code)
            request.session.shouldfail = self.obstacle
        except pytest.exit.Exception as ends:
            # A later pluggy warns of what such a hook raises, and one before 1.1 knows nothing else.
            if not hasattr(outcome, "force_exception"):
                raise
            outcome.force_exception(ends)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
        outcome = yield
        report = outcome.get_result()
        # A worker's test that met it tells nothing that the end of the run does not tell.
        if self.obstacle is not None and report.failed and call.when != "teardown":
            path, line, _ = item.location
            report.outcome, report.longrepr = "skipped", (path, line or 0, "Skipped: the run cannot go on")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """pytest makes a fixture of a session once, whatever seed it had then: with another one's data no test begins."""
        request: Any = getattr(item, "_request", None)
        names = getattr(item, "fixturenames", ())
        shared = [name for name in SHARED if name in names]
        if request is None or not shared or "velo_seed" not in names:
            return
        for name in shared:
            branch = request.getfixturevalue(name)
            # A fixture of the suite's own of that name gives what the suite likes.
            seed = self.seeds.get(getattr(branch, "id", ""))
            if seed is not None and seed != request.getfixturevalue("velo_seed").key:
                pytest.fail(
                    f"{name} was made with another folder's velo_seed: take one of a narrower scope here", pytrace=False
                )

    # pytest itself ends the fixtures of a session before that.
    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        output = getattr(self.config, "workeroutput", None)
        if output is not None:
            output["velo"] = (self.waits, self.storages)
        self._pools.clear()
        # What takes longer, whoever opens the home next removes.
        ends = threading.Thread(target=self._finish, daemon=True)
        ends.start()
        ends.join(10)

    def _finish(self) -> None:
        """Waits until the files are gone of what was closed, and of what was ready and nobody took."""
        try:
            if self._project is not None:
                # Each change to the code that builds makes another seed. Of several workers one does it.
                if getattr(self.config, "workerinput", {}).get("workerid", "gw0") == "gw0":
                    self._project.prune_seeds(UNUSED)
                self._project.finish_deletions()
        except VeloError:
            pass

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        waits, storages = getattr(node, "workeroutput", {}).get("velo", ((), ()))
        self.waits.extend(waits)
        self.storages.extend(storages)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.waits:
            return
        median, worst = (f"{what(self.waits) * 1000:.1f} ms" for what in (statistics.median, max))
        storages = ", ".join(sorted(set(self.storages)))
        terminalreporter.write_line(
            f"velo: {len(self.waits)} branches on {storages}; each was waited for {median} (median), {worst} at most"
        )


@pytest.fixture(scope="session")
def velo_project(request: pytest.FixtureRequest) -> Project:
    """The project of this suite."""
    return suite_of(request.config).project()


@pytest.fixture(scope="session")
def velo_seed(velo_project: Project) -> Seed:
    """What branches begin with. A suite overrides it with its own; this one is an empty database."""
    return velo_project.seed(build=_nothing, label="empty")


def _nothing(branch: Branch) -> None:
    pass


@pytest.fixture
def velo_branch_factory(request: pytest.FixtureRequest, velo_seed: Seed) -> Iterator[Callable[..., Branch]]:
    """A function that gives as many branches as a test needs: each call another one."""
    suite, item = suite_of(request.config), request.node
    made: List[Branch] = []

    def acquire(label: Optional[str] = None) -> Branch:
        branch = suite.acquire(velo_seed, label or item.nodeid)
        made.append(branch)
        suite.failed.made(item, branch)
        return branch

    yield acquire
    for branch in made:
        branch.close()


@pytest.fixture
def velo_branch(velo_branch_factory: Callable[..., Branch]) -> Branch:
    """A PostgreSQL of this test's own."""
    return velo_branch_factory()


@pytest.fixture
def velo_url(velo_branch: Branch) -> str:
    """The URL of this test's own PostgreSQL."""
    return velo_branch.url


def _shared(scope: Any) -> Any:
    name = f"velo_branch_{scope}"

    def shared(request: pytest.FixtureRequest, velo_seed: Seed) -> Iterator[Branch]:
        suite, whose = suite_of(request.config), request.node.nodeid or "session"
        branch = suite.acquire(velo_seed, whose)
        suite.failed.shares(name)
        yield branch
        suite.failed.shares_no_longer(name, whose, branch)
        branch.close()

    shared.__doc__ = f"A PostgreSQL that the tests of one {scope} share."
    return pytest.fixture(scope=scope, name=name)(shared)


velo_branch_class = _shared("class")
velo_branch_module = _shared("module")
velo_branch_package = _shared("package")
velo_branch_session = _shared("session")

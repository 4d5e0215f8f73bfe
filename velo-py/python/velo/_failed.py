"""What stays of the tests that failed, in pytest."""

from __future__ import annotations

from typing import Any, Dict, Generator, List, NamedTuple, Optional, Set, Tuple

import pytest

from . import Branch, VeloError, _velo

KEPT = "an hour"


class Kept(NamedTuple):
    """What is told of a branch, and its name if it stays."""

    branch: Branch
    name: Optional[str]
    text: str


BRANCHES = pytest.StashKey[List[Branch]]()
EARLIER = pytest.StashKey[List[Kept]]()


def kept(branch: Branch) -> Kept:
    """Has the branch of a failed test stay for a while, and says how it is reached and ended."""
    if not branch.ephemeral:
        # The test has kept it itself, and nobody else ends it.
        return Kept(branch, None, f"its database stays, as the test wanted: {branch.url}\n  psql '{branch.url}'")
    try:
        stays = _velo.keep_failed(branch._raw, 3600.0).wait()
    except VeloError as error:
        return Kept(branch, None, f"its database does not stay: {error}")
    if not stays:
        others = f"others do already (velo branch list {branch.project.name})"
        return Kept(branch, None, f"its database does not stay: {others}")
    text = (
        f"its database stays for {KEPT}, and then until Velo is next used: {branch.url}\n"
        f"  psql '{branch.url}'\n  velo branch delete {branch.full_name}"
    )
    return Kept(branch, branch.name, text)


def goes(stays: Kept) -> None:
    """Deletes what was kept, if it stays."""
    try:
        if stays.name is not None:
            stays.branch.project.branch(stays.name).delete()
    except VeloError:
        # Somebody works with it, or has ended it; else it goes when its time is up.
        pass


class FailedTests:
    """Keeps the branches of failed tests, those that they share among them, and tells of them at the end of the run."""

    def __init__(self, config: pytest.Config, keep: bool) -> None:
        self.config = config
        self.keep = keep
        #: What is told at the end, by what it is of.
        self.told: Dict[str, List[str]] = {}
        #: The branches that tests share now, by the names of their fixtures: which tests failed with them.
        self._shared: Dict[str, Set[str]] = {}
        #: The same of those whose scope has ended, and where they are told of: a test that nothing comes behind ends it
        #: each time that it is tried.
        self._ended: List[Tuple[Set[str], str, Kept]] = []

    def made(self, item: pytest.Item, branch: Branch) -> None:
        item.stash.setdefault(BRANCHES, []).append(branch)

    def shares(self, fixture: str) -> None:
        self._shared[fixture] = set()

    def shares_no_longer(self, fixture: str, whose: str, branch: Branch) -> None:
        """Before that branch is closed."""
        failed = self._shared.pop(fixture, None)
        if failed:
            name, stays = f"{whose} ({fixture})", kept(branch)
            self.told[name] = [stays.text]
            self._ended.append((failed, name, stays))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A test that some plugin tries again has failed only where its last try has."""
        item.stash[BRANCHES] = []
        self.told.pop(item.nodeid, None)
        for failed in self._shared.values():
            failed.discard(item.nodeid)
        for stays in item.stash.get(EARLIER, ()):
            goes(stays)
        item.stash[EARLIER] = []
        for ended in list(self._ended):
            failed, name, stays = ended
            failed.discard(item.nodeid)
            if not failed:
                self._ended.remove(ended)
                self.told.pop(name, None)
                goes(stays)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
        outcome = yield
        report = outcome.get_result()
        if not self.keep or call.when == "teardown" or not report.failed:
            return
        stay = [kept(branch) for branch in item.stash.get(BRANCHES, ())]
        item.stash[EARLIER] = stay
        report.sections.extend(("velo", one.text) for one in stay)
        self.told[item.nodeid] = [one.text for one in stay if one.name is not None]
        # Those among them that it asked for while it ran.
        names = getattr(getattr(item, "_request", item), "fixturenames", ())
        for fixture, failed in self._shared.items():
            if fixture in names:
                failed.add(item.nodeid)

    # The branches of a session go where pytest itself ends it.
    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        output = getattr(self.config, "workeroutput", None)
        if output is not None:
            output["velo_failed"] = self.told

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        for whose, texts in getattr(node, "workeroutput", {}).get("velo_failed", {}).items():
            self.told.setdefault(whose, []).extend(texts)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for whose, texts in self.told.items():
            for text in texts:
                terminalreporter.write_line(f"velo: {whose}: {text}")

"""The blocking face."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psycopg
import pytest

import velo
from conftest import within


def rows(branch: velo.Branch, table: str = "t") -> int:
    with psycopg.connect(branch.url) as db:
        return db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def write(branch: velo.Branch, table: str = "t") -> None:
    with psycopg.connect(branch.url) as db:
        db.execute(f"CREATE TABLE IF NOT EXISTS {table} (n int)")
        db.execute(f"INSERT INTO {table} VALUES (1)")


def test_a_branch_lives_as_long_as_it_is_open(project):
    with velo.Branch.create(project, label="tests/a b") as branch:
        assert branch.ephemeral and branch.name is None and branch.full_name.startswith("api/~tests-a-b.")
        write(branch)
        assert rows(branch) == 1
        info = branch.info()
        assert (info.state, info.parent_shown) == ("running", "main")
        assert datetime.now(timezone.utc) - info.created_at < timedelta(minutes=5)
        assert info.cut.major >= 14 and info.cut.at.tzinfo is timezone.utc
        assert branch.timings.total > timedelta(0) and "clone" in dict(branch.timings.steps)
        to = branch.connection
        assert to.password not in repr(to)
        psycopg.connect(host=to.host, port=to.port, user=to.user, password=to.password, dbname=to.database).close()
        assert branch.usage().available > 0
        pid = info.pid
    assert not os.path.exists(f"/proc/{pid}")


def test_a_branch_goes_with_its_last_handle(project):
    branch = velo.Branch.create(project)
    pid = branch.info().pid
    del branch
    gc.collect()
    end = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_lasting_branch_is_changed_and_reset(project):
    branch = velo.Branch.create(project, "dev", settings={"work_mem": "5MB"})
    try:
        url = branch.url
        write(branch)
        before = branch.snapshot("before")
        assert (before.name, before.info().branch) == ("before", "dev")
        assert before.usage().referenced > 0
        write(branch)
        branch.reset("before")
        assert (rows(branch), branch.url) == (1, url)
        with psycopg.connect(url) as db:
            assert db.execute("SHOW work_mem").fetchone() == ("5MB",)
        branch.stop()
        assert branch.info().state == "stopped"
        branch.start()
        branch.restart()
        branch.protect()
        with pytest.raises(velo.ConflictError):
            branch.delete(force=True)
        branch.protect(False)
        branch.set_ttl(timedelta(hours=1))
        assert branch.info().expires_at > datetime.now(timezone.utc)
        branch.set_ttl(None)
        assert branch.outgoing() == []
        with velo.Branch.create(project, from_=before) as other:
            assert rows(other) == 1
        assert [s.name for s in project.snapshots()] == ["before"]
        assert project.snapshot("dev@before").id == before.id
        before.delete()
        branch.reset(origin=True)
    finally:
        branch.delete(force=True)
    assert [b.name for b in project.branches()] == ["main"]


def test_an_ephemeral_branch_can_stay(project):
    branch = velo.Branch.create(project, label="stays")
    write(branch)
    branch.keep("kept-one", ttl=3600)
    assert not branch.ephemeral
    assert rows(project.branch("kept-one")) == 1
    branch.delete(force=True)


def test_a_branch_of_a_moment(home):
    kept = velo.Project.create("kept", wal_retention=timedelta(days=7))
    try:
        assert kept.info().wal_retention == timedelta(days=7)
        assert kept.info().source is None  # it began empty
        main = kept.main()
        write(main)
        point = main.restore_point("one row")
        assert point.name == "one row" and "/" in point.lsn
        with psycopg.connect(main.url) as db:
            [xid] = db.execute("INSERT INTO t VALUES (2) RETURNING pg_current_xact_id()").fetchone()
        with psycopg.connect(main.url) as db:
            [then] = db.execute("SELECT clock_timestamp()").fetchone()
            db.execute("INSERT INTO t VALUES (3)")
        with velo.Branch.create(kept, at_name="one row") as branch:
            assert rows(branch) == 1
            reached = branch.info().reached
            assert (reached.lsn, reached.timeline) == (point.lsn, 1) and reached.replayed > 0
            assert reached.committed_at.tzinfo is timezone.utc and reached.committed_at < then
            assert reached.since.tzinfo is timezone.utc and reached.since <= reached.committed_at
        # A datetime with a zone, one without, which is this machine's, and text.
        for at, there in [(then, 2), (then.astimezone().replace(tzinfo=None), 2), ("now", 3)]:
            with velo.Branch.create(kept, at=at) as branch:
                assert rows(branch) == there, at
        for exclusive, there in [(False, 2), (True, 1)]:
            with velo.Branch.create(kept, at_xid=int(xid), exclusive=exclusive) as branch:
                assert rows(branch) == there
        with velo.Branch.create(kept, at_lsn=point.lsn) as branch:
            assert rows(branch) == 1
        with pytest.raises(velo.NotFoundError, match="outside of what is kept"):
            velo.Branch.create(kept, at=then - timedelta(hours=1))
        for wrong in [{"at": "yesterday"}, {"at": then, "at_xid": 700}, {"exclusive": True}, {"at_lsn": "x"}]:
            with pytest.raises(velo.InvalidInputError):
                velo.Branch.create(kept, **wrong)
        assert [b.name for b in kept.branches()] == ["main"]
        assert kept.set_wal_retention(None) == ["main"]
        assert velo.Project.open("kept").info().wal_retention is None
    finally:
        kept.delete(force=True)


def test_errors_say_what_and_what_to_do(project):
    with pytest.raises(velo.NotFoundError) as raised:
        velo.Project.open("nope")
    error = raised.value
    assert isinstance(error, velo.VeloError)
    assert (error.kind, error.hint) == ("not_found", "create it: velo project create nope")
    assert "home" in error.context
    with pytest.raises(velo.InvalidInputError):
        velo.Branch.create(project, "no such name")
    with pytest.raises(velo.AlreadyExistsError):
        velo.Project.create("api")
    with pytest.raises(velo.InvalidInputError):
        velo.Config(storage="floppy")
    with pytest.raises(ValueError, match="there is no setting colour"):
        velo.Config(colour="red")
    assert issubclass(velo.TimeoutError, TimeoutError)


def hint_is_in_traceback(error):
    """Python has notes from 3.11 on."""
    said = "".join(traceback.format_exception(type(error), error, None))
    return sys.version_info < (3, 11) or f"\nhint: {error.hint}\n" in said


def test_a_traceback_has_the_hint(project):
    with pytest.raises(velo.NotFoundError) as raised:
        velo.Project.open("nope")
    assert raised.value.hint and hint_is_in_traceback(raised.value)
    assert raised.value.hint not in str(raised.value)


def test_classes_of_errors_are_the_packages_own():
    classes = {c for c in vars(velo).values() if isinstance(c, type) and issubclass(c, velo.VeloError)}
    for one in classes - {velo.VeloError}:
        assert one.__name__.endswith("Error") and one.__module__ == "velo" and one.__doc__


def test_a_cause_is_the_exceptions_cause(home):
    with pytest.raises(velo.VeloError) as raised:
        velo.Config(file=home / "is-not-there.toml")
    assert isinstance(raised.value.__cause__, OSError)


def test_a_seed_is_built_once(project):
    class Calls:
        """What an object holds makes no other seed; a list would, whatever is in it."""

        names = []

    def build(branch):
        Calls.names.append(branch.full_name)
        write(branch)

    first = project.seed(build=build, texts=["once"], label="orders")
    assert project.seed(build=build, texts=["once"]).id == first.id
    assert len(Calls.names) == 1
    assert project.seed(build=build, texts=["another"]).id != first.id
    assert first.info().ready and first.info().shown.startswith("orders-")
    with first.branch() as branch:
        assert rows(branch) == 1
    assert {seed.id for seed in project.seeds()} >= {first.id}
    assert first.usage().referenced > 0
    first.delete()
    pruned = project.prune_seeds(0)
    assert pruned and all(info.ready for info in pruned)


def test_what_the_build_raises_is_raised_and_nothing_stays(project):
    class Mine(Exception):
        pass

    def build(branch):
        write(branch)
        raise Mine

    before = [seed.id for seed in project.seeds()]
    with pytest.raises(Mine):
        project.seed(build=build)
    assert [seed.id for seed in project.seeds()] == before
    assert [b.shown for b in project.branches()] == ["main"]


def test_a_seed_counts_the_files_and_the_code_that_make_it(project, tmp_path):
    (tmp_path / "one.sql").write_text("CREATE TABLE one ()")
    seed = project.seed_sql(tmp_path)
    (tmp_path / "two.sql").write_text("CREATE TABLE two ()")
    assert project.seed_sql(tmp_path).id != seed.id
    nothing = lambda branch: None
    by_files = project.seed(build=nothing, files=[tmp_path / "*.sql"])
    (tmp_path / "two.sql").write_text("CREATE TABLE other ()")
    assert project.seed(build=nothing, files=[tmp_path / "*.sql"]).id != by_files.id
    assert project.seed(build=nothing, code="1").id != project.seed(build=nothing, code="2").id
    made = eval("lambda branch: None")
    assert project.seed(build=made).id == project.seed(build=made).id
    project.prune_seeds(0)


@pytest.mark.parametrize("pattern", ["", "**", "**/*", "v*/**"])
def test_a_seed_counts_a_folder_without_what_python_compiled(project, tmp_path, pattern):
    def key():
        return project.seed(build=lambda branch: None, files=[f"{tmp_path}/{pattern}"]).key

    inner = tmp_path / "versions"
    inner.mkdir()
    (inner / "one.py").write_text("1")
    first = key()
    if pattern != "v*/**":
        (inner / "__pycache__").mkdir()
        (inner / "__pycache__" / "one.cpython-311.pyc").write_text("compiled")
        assert key() == first
    (inner / "one.py").rename(inner / "two.py")
    moved = key()
    (inner / "two.py").write_text("2")
    assert len({first, moved, key()}) == 3
    project.prune_seeds(0)


@pytest.mark.parametrize("pattern", ["", "**", "**/*", "*.sql", "v*/**"])
def test_a_file_that_comes_while_a_seed_is_built_is_noticed(project, tmp_path, monkeypatch, pattern):
    inner = tmp_path / "versions"
    inner.mkdir()
    (tmp_path / "one.sql").write_text("1")
    (inner / "one.sql").write_text("1")
    calls = []

    def build(branch):
        calls.append(branch.id)
        # What Python compiles meanwhile is none of it.
        (tmp_path / "__pycache__").mkdir(exist_ok=True)
        (tmp_path / "__pycache__" / "one.cpython-311.pyc").write_text("compiled")
        if len(calls) == 1:
            (tmp_path / "two.sql").write_text("2")
            (inner / "two.sql").write_text("2")
        # A relative path stays what it was.
        os.chdir("/")

    monkeypatch.chdir(tmp_path.parent)
    files = os.path.join(tmp_path.name, pattern)
    with pytest.raises(velo.SeedError, match="were changed while the seed was built") as raised:
        project.seed(build=build, files=(path for path in [files]), texts=[pattern], label="comes")
    assert (raised.value.kind, raised.value.hint) == ("seed", "run it again: none of it is kept")
    assert hint_is_in_traceback(raised.value)
    assert not [seed for seed in project.seeds() if seed.info().label == "comes"]
    assert calls[0] not in [branch.id for branch in project.branches()]
    monkeypatch.chdir(tmp_path.parent)
    assert project.seed(build=build, files=[files], texts=[pattern]).info().ready
    project.prune_seeds(0)


def test_a_build_that_has_not_run_makes_no_seed(project):
    async def build(branch):
        pass

    def generates(branch):
        yield

    for wrong, why in [(build, "is async"), (generates, "is a generator")]:
        with pytest.raises(TypeError, match=why):
            project.seed(build=wrong, label="wrong")
    assert not [seed for seed in project.seeds() if seed.info().label == "wrong"]


def test_a_seed_counts_what_is_behind_a_link(project, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "more").symlink_to(tmp_path / "real")
    # It leads back, and ends there.
    (tmp_path / "real" / "back").symlink_to(tmp_path / "migrations")
    keys = set()
    for text in ("one", "two"):
        (tmp_path / "real" / "a.sql").write_text(text)
        keys.add(project.seed(build=lambda branch: None, files=[tmp_path / "migrations/**"], code="links").key)
    assert len(keys) == 2


@pytest.mark.parametrize("pattern", ["", "**"])
def test_a_seed_counts_files_alone(project, tmp_path, pattern):
    def key():
        return project.seed(build=lambda branch: None, files=[tmp_path / pattern], code="files alone").key

    (tmp_path / "1.sql").write_text("CREATE TABLE one ()")
    before = key()
    # What Emacs notes of a file that somebody edits, and what cannot be read to an end.
    (tmp_path / ".#1.sql").symlink_to("user@host.1234")
    os.mkfifo(tmp_path / "pipe")
    assert key() == before
    (tmp_path / "2.sql").symlink_to(tmp_path / "1.sql")
    assert key() != before


def test_a_time_that_python_does_not_know_is_refused(project):
    with pytest.raises(velo.InvalidInputError, match="year 9999"):
        velo.Branch.create(project, "late", ttl=1e12)


def test_a_pool_hands_over_what_is_ready(project):
    pool = project.seed(build=write, label="pool").pool()
    pool.keep_ready(2, 4)
    end = time.monotonic() + 60
    while pool.info().ready < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    with pool.acquire("mine") as branch, pool.acquire() as other:
        write(branch)
        assert (rows(branch), rows(other)) == (2, 1)
        assert "~mine." in branch.full_name
    pool.keep_ready(0, 0)


def test_other_threads_run_meanwhile(project):
    turns = []
    done = threading.Event()

    def count():
        while not done.is_set():
            turns.append(1)
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    with velo.Branch.create(project):
        pass
    done.set()
    thread.join()
    assert len(turns) >= 5


def test_threads_have_branches_at_once(project):
    made, failed = [], []

    def make():
        try:
            with velo.Branch.create(project) as branch:
                write(branch)
                made.append(rows(branch))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (made, failed) == ([1] * 6, [])


INTERRUPTED = """
import sys, velo
project = velo.Project.open("api")
try:
    print("ready", flush=True)
    while True:
        velo.Branch.create(project).close()
except KeyboardInterrupt:
    print("interrupted", [b.shown for b in project.branches() if b.ephemeral and b.state == "running"])
"""


def test_ctrl_c_ends_a_wait(project):
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    out, _ = process.communicate(timeout=30)
    assert (out.split(maxsplit=1)[0], process.returncode) == ("interrupted", 0)
    assert time.monotonic() - begun < 10


def in_a_child(project, queue):
    with velo.Branch.create(project) as branch:
        write(branch)
        queue.put(rows(branch))


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_a_child_process_has_branches_of_its_own(project, how):
    context = multiprocessing.get_context(how)
    queue = context.Queue()
    with velo.Branch.create(project) as branch:
        write(branch)
        # A handle cannot be sent, its name can.
        target = in_a_child if how == "fork" else by_name
        child = context.Process(target=target, args=(project if how == "fork" else project.name, queue))
        child.start()
        assert queue.get(timeout=60) == 1
        child.join(60)
        assert child.exitcode == 0
        assert rows(branch) == 1, "it is still the parent's"


def by_name(name, queue):
    in_a_child(velo.Project.open(name), queue)


KILLED = """
import sys, time, velo
branch = velo.Branch.create(velo.Project.open("api"))
print(branch.info().pid, flush=True)
time.sleep(600)
"""


def test_a_killed_process_leaves_no_server(project):
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    end = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < end
        time.sleep(0.01)


STARTED = """
import os
open(os.path.join(os.environ["STARTED"], str(os.getpid())), "w").close()
"""

TAKES_ONE = """
import os, pathlib, velo
pool = velo.Project.open("api").seed(build=lambda branch: None, code="coverage").pool()
pool.acquire().close()
print(os.getpid(), *pathlib.Path(os.environ["VELO_HOME"]).glob("keepers/*/s"))
"""


def test_a_coverage_of_the_tests_has_nothing_of_the_keeper(project, home, tmp_path):
    """Such begin as this does: in each Python, before the first line."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(STARTED)
    started = tmp_path / "started"
    started.mkdir()
    before = {str(socket) for socket in home.glob("keepers/*/s")}
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "STARTED": str(started), "VELO_RUN": "coverage"}
    # The shell is the root of the run, with which its keeper ends.
    line = ["sh", "-c", '"$0" -c "$1"; :', sys.executable, TAKES_ONE]
    said = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60)
    pid, *sockets = said.stdout.split()
    keepers = [Path(socket) for socket in sockets if socket not in before]
    assert keepers, "none was started: " + said.stdout + said.stderr
    assert within(10, lambda: not any(keeper.exists() for keeper in keepers)), keepers
    assert os.listdir(started) == [pid]

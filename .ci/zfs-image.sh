# shellcheck shell=bash
# The disk that .ci/zfs-vm boots: Debian with one kernel and OpenZFS built for it. This file is its recipe: an image is made
# anew when the file changes, so what may change often is in .ci/zfs-guest, which reaches the guest on a disk of its own.

# What makes each version: a suite of Debian, and which packages come from its backports.
declare -A ZFS_SUITE=([2.1]=bookworm [2.3]=bookworm [2.4]=trixie)
declare -A ZFS_BACKPORTS=(
    [2.1]=''
    [2.3]='zfs* libzfs* libzpool* libnvpair* libuutil* linux-*'
    [2.4]='zfs* libzfs* libzpool* libnvpair* libuutil*'
)

ZFS_IMAGE_KERNEL=(linux-image-cloud-amd64 linux-headers-cloud-amd64)
ZFS_IMAGE_PACKAGES=(
    busybox-static udev kmod xz-utils procps iproute2 sudo python3-minimal ca-certificates
    btrfs-progs xfsprogs e2fsprogs docker.io zfsutils-linux
)
# What the disk and the initial file system need before the root file system is there; the rest is found by name.
ZFS_IMAGE_MODULES=(virtio_pci virtio_blk)

# Names the folder of an image in ZFS_IMAGE: by recipe, so that two checkouts do not take turns in making it anew.
zfs_image_name() { # VERSION
    local key
    key=$(cat "${BASH_SOURCE[0]}" <(printf '%s\n' "${RIG_PG_LIBRARIES[@]}" "${VELO_TEST_MIRROR-}") | sha256sum)
    ZFS_IMAGE=$RIG_CACHE/zfs-vm/$1-${key::12}
}

# Fills that folder with disk.img, vmlinuz and initrd, unless it is there. The caller is in a mount namespace of its own and
# owns the folder WORK, which it takes away with all that is mounted there.
zfs_image() { # VERSION WORK
    local version=$1 work=$2
    mkdir -p "$RIG_CACHE/zfs-vm"
    # The second of two runs waits here, and finds what the first has made.
    {
        flock 7
        rig_cached "$ZFS_IMAGE" "${ZFS_IMAGE##*-}" zfs_image_fill "$version" "$work/root" ||
            die "the image with OpenZFS $version could not be made"
        touch "$ZFS_IMAGE"
        # What no checkout has asked for in a while.
        find "$RIG_CACHE/zfs-vm" -mindepth 1 -maxdepth 1 -type d -mtime +14 -exec rm -rf {} +
    } 7>"$RIG_CACHE/zfs-vm/$version.lock"
}

zfs_image_fill() { # VERSION ROOT FOLDER
    local version=$1 root=$2 dir=$3 kernel
    is_root || die "only root can make the image with OpenZFS $version"
    [[ -n ${VELO_TEST_MOUNTING-} ]] || die "making the image with OpenZFS $version needs the right to mount"
    mkdir -p "$root"
    # Nobody keeps this folder: in memory nothing of it is waited for.
    ((10#0$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo) < 10000000)) ||
        mount -t tmpfs -o size=6g,mode=755 velo-image "$root"
    zfs_image_root "$version" "$root" >"$root.log" 2>&1 7>&- 9>&- || {
        tail -40 "$root.log" >&2
        return 1
    }
    kernel=$(echo "$root"/lib/modules/*)
    kernel=${kernel##*/}
    zfs_image_initrd "$root" "$kernel" >"$dir/initrd" 7>&- 9>&- &&
        cp "$root/boot/vmlinuz-$kernel" "$dir/vmlinuz" &&
        zfs_image_trim "$root" &&
        mke2fs -q -t ext4 -F -m 0 -O ^has_journal -E assume_storage_prezeroed=1 -L velo-root -d "$root" \
            "$dir/disk.img" 16G >/dev/null &&
        umount "$root" &&
        { ! mountpoint -q "$root" || umount "$root"; }
}

# A Debian in a folder, with the module built.
zfs_image_root() {
    local version=$1 root=$2 suite=${ZFS_SUITE[$1]} line components
    debootstrap --variant=minbase --components=main,contrib "$suite" "$root" ${VELO_TEST_MIRROR:+"$VELO_TEST_MIRROR"} ||
        return 1
    mount --bind "$root" "$root" && mount -t proc proc "$root/proc" &&
        mount --rbind /dev "$root/dev" && mount --make-rslave "$root/dev" || return 1
    zfs_image_settings "$root" || return 1
    if [[ -n ${ZFS_BACKPORTS[$version]} ]]; then
        read -r _ line _ components <"$root/etc/apt/sources.list"
        echo "deb $line $suite-backports $components" >>"$root/etc/apt/sources.list"
        printf 'Package: %s\nPin: release n=%s\nPin-Priority: 600\n' "${ZFS_BACKPORTS[$version]}" "$suite-backports" \
            >"$root/etc/apt/preferences.d/velo"
    fi
    local packages=("${ZFS_IMAGE_PACKAGES[@]}" "${RIG_PG_LIBRARIES[@]}")
    [[ $suite == bookworm ]] || packages=("${packages[@]/libldap-2.5-0/libldap2}" docker-cli)
    zfs_image_run "$root" apt-get -q update &&
        # The headers first: the module is built once, by the postinst of zfs-dkms, when all that it needs is there.
        zfs_image_run "$root" apt-get -q install -y --no-install-recommends "${ZFS_IMAGE_KERNEL[@]}" \
            "${packages[@]}" || return 1
    # Where this is, every module gets its types as BTF, made from the debug information that ours is built without.
    rm -f "$root"/usr/src/linux-headers-*/vmlinux
    zfs_image_run "$root" apt-get -q install -y --no-install-recommends zfs-dkms || return 1
    zfs_image_check "$version" "$root" || return 1
    local user
    for user in postgres velo-ci; do
        zfs_image_run "$root" useradd --system --user-group --no-create-home --home-dir /nonexistent \
            --shell /usr/sbin/nologin "$user" || return 1
    done
    mkdir "$root/velo"
    umount -R "$root/dev" "$root/proc"
}

# How this machine reaches its package registries holds in there as well; and what makes an installation quick, for nobody
# keeps a half of it: no fsync, no documentation, no initrd of Debian's, no service started.
zfs_image_settings() {
    local root=$1 file
    for file in /etc/resolv.conf /etc/hosts; do
        [[ ! -f $file ]] || cp -L "$file" "$root$file" || return 1
    done
    file=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
    if [[ -f $file ]]; then
        mkdir -p "$root/usr/local/share/ca-certificates" "$root/etc/ssl/certs"
        cp -L "$file" "$root/etc/ssl/certs/ca-certificates.crt"
        awk -v dir="$root/usr/local/share/ca-certificates" \
            '/BEGIN CERTIFICATE/ { file = sprintf("%s/host-%03d.crt", dir, ++n) } file { print >file }
            /END CERTIFICATE/ { close(file); file = "" }' "$file"
    fi
    apt-config dump | grep -E '^Acquire::(https?::|Check-)' >"$root/etc/apt/apt.conf.d/90host"
    printf '%s\n' force-unsafe-io 'path-exclude=/usr/share/doc/*' 'path-exclude=/usr/share/man/*' \
        'path-exclude=/usr/share/locale/*' >"$root/etc/dpkg/dpkg.cfg.d/velo"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
}

# Without debug information the module builds in half the time.
zfs_image_run() {
    local root=$1 name proxies=()
    shift
    while read -r name; do
        proxies+=("$name=${!name}")
    done < <(compgen -e | grep -E '^(https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY)$')
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive INITRD=No KCFLAGS=-g0 \
        "${proxies[@]}" chroot "$root" "$@"
}

# Backports move on, and a module that was not built fails no installation.
zfs_image_check() {
    local version=$1 root=$2 built
    # shellcheck disable=SC2016 # the inner shell's
    built=$(zfs_image_run "$root" bash -c 'modinfo -k "$(cd /lib/modules && echo *)" -F version zfs') || built=none
    [[ $built == "$version".* ]] || {
        cat "$root"/var/lib/dkms/zfs/*/build/make.log
        echo "OpenZFS $version was asked for, and the module is: $built"
        return 1
    }
}

# An initrd that mounts the root and hands over to what is on the second disk.
zfs_image_initrd() { # ROOT KERNEL
    local root=$1 kernel=$2 initrd=$1/initrd kind path
    mkdir -p "$initrd"/{bin,dev,lib,proc,root} && cp "$root/bin/busybox" "$initrd/bin/" || return 1
    while read -r kind path; do
        [[ $kind != builtin ]] || continue
        case $path in
        *.xz) xz -dc "$root$path" >"$initrd/lib/$(basename "$path" .xz)" ;;
        *) cp "$root$path" "$initrd/lib/" ;;
        esac || return 1
        basename "$path" .xz >>"$initrd/lib/order"
    done < <(zfs_image_run "$root" modprobe -S "$kernel" -a --show-depends "${ZFS_IMAGE_MODULES[@]}" | awk '!seen[$0]++')
    cat >"$initrd/init" <<'SH'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
for module in $(cat /lib/order); do insmod "/lib/$module"; done
tries=0
until [ -b /dev/vdb ] || [ $((tries += 1)) -gt 100 ]; do sleep 0.1; done
mount -t ext4 -o noatime /dev/vda /root && mount -t ext4 -o ro /dev/vdb /root/velo && mount --move /dev /root/dev &&
    exec switch_root /root /velo/init
echo "the root could not be mounted"
poweroff -f
SH
    chmod 755 "$initrd/init"
    zfs_image_run "$root" sh -c 'cd /initrd && busybox find . | busybox cpio -o -H newc'
    rm -rf "$initrd"
}

# What nothing in the guest needs.
zfs_image_trim() {
    rm -rf "$1"/usr/src/* "$1"/var/lib/dkms/* "$1"/usr/lib/gcc "$1"/usr/include/* "$1"/var/cache/apt/* \
        "$1"/var/lib/apt/lists/* "${1:?}"/boot/* "$1"/usr/sbin/policy-rc.d
}

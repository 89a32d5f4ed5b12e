#!/bin/bash
# scene.sh ROOT PREFIX PROGRAM BEFORE AFTER COMMAND...
# In a private mount namespace: runs COMMAND in a copy of ROOT that has a copy of PREFIX and PROGRAM.
# The shell text BEFORE is run, in that root, when the prefix is not there yet, AFTER when it is.
set -euo pipefail
root=$1 prefix=$2 program=$3 before=$4 after=$5
shift 5
mount -t tmpfs -o mode=755 scene /mnt
cd /mnt
mkdir u w pu pw m
mount -t overlay -o "lowerdir=$root,upperdir=/mnt/u,workdir=/mnt/w" scene m
for dir in tmp run dev/shm; do mkdir -p "m/$dir"; done
mount -t proc proc m/proc
mount --rbind /dev m/dev
mount -t sysfs -o ro sysfs m/sys
mount -t tmpfs -o mode=1777 tmp m/tmp
rm -rf m/home/core/gentoo
install -D -m 755 "$program" m/usr/bin/zfs-prefix
inside() { [ -z "$1" ] || chroot m /bin/bash -ec "$1"; }
inside "$before"
home=$(chroot m /usr/bin/realpath /home)
mkdir -p "m$home/core/gentoo"
chown 500:500 pu "m$home/core"
mount -t overlay -o "lowerdir=$prefix,upperdir=/mnt/pu,workdir=/mnt/pw" scene "m$home/core/gentoo"
inside "$after"
exec chroot m "$@"

# Copyright 2026 the zfs-prefix authors
# Distributed under the terms of the Apache License 2.0 or the MIT license

EAPI=8

DESCRIPTION="OpenZFS kernel modules (spl, zfs) for one named kernel build tree"
HOMEPAGE="https://openzfs.org/"
SRC_URI="zfs-linux_${PV}.orig.tar.gz"
S="${WORKDIR}/zfs-${PV}"

LICENSE="CDDL"
SLOT="0/${PVR}"
KEYWORDS="amd64 arm64"
IUSE="debug"

# fetch: the prefix brings the distfile. strip: a module keeps its symbol table (kallsyms, module
# loading); src_install removes what is only for debuggers.
RESTRICT="fetch mirror strip test"

pkg_nofetch() {
	eerror "${A} is not in ${DISTDIR}; provision the prefix again, or put the file there."
}

# Input: KV_OUT_DIR, the kernel's output directory; KERNEL_DIR, its sources, when they are apart.
# A binary package carries KV_FULL in its environment and needs no kernel tree.
pkg_setup() {
	[[ ${MERGE_TYPE} == binary ]] && return

	[[ -n ${KV_OUT_DIR} ]] || die "KV_OUT_DIR is not set: name the kernel's build directory"
	[[ -s ${KV_OUT_DIR}/Module.symvers ]] || die "${KV_OUT_DIR}: no Module.symvers"
	[[ -s ${KV_OUT_DIR}/.config ]] || die "${KV_OUT_DIR}: no .config"

	# kernel.release is what the tree was configured as; utsrelease.h is what `uname -r` will say.
	local header=${KV_OUT_DIR}/include/generated/utsrelease.h define name value
	read -r define name value < "${header}" || die "${header}: unreadable"
	[[ "${define} ${name}" == "#define UTS_RELEASE" ]] || die "${header}: no UTS_RELEASE"
	KV_FULL=${value//\"/}
	einfo "kernel ${KV_FULL}: build tree ${KV_OUT_DIR}, sources ${KERNEL_DIR:-the same}"
}

# Portage's ARCH is amd64, which kbuild takes for the name of one of its own directories. Without it
# kbuild asks the machine.
without_arch() {
	( unset ARCH; "$@" ) || die "${1} failed"
}

# No debug information is made that strip would throw away: zfs.ko is 9 MB, not 94 MB.
# It is made where gendwarfksyms (Linux 6.14) reads the CRCs of exports out of it.
# The prefix map keeps the build directory out of __FILE__, so the same inputs give the same bytes.
kernel_make() {
	local no_debug_info="CONFIG_DEBUG_INFO= CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT="
	if grep -qx CONFIG_GENDWARFKSYMS=y "${KV_OUT_DIR}/.config"; then
		no_debug_info=
	fi
	without_arch emake V=0 CONFIG_DEBUG_INFO_BTF= ${no_debug_info} \
		KCFLAGS="-ffile-prefix-map=${WORKDIR}/=" "$@"
}

src_configure() {
	without_arch econf \
		--with-config=kernel \
		--with-linux="${KERNEL_DIR:-${KV_OUT_DIR}}" \
		--with-linux-obj="${KV_OUT_DIR}" \
		$(use_enable debug)
}

src_compile() {
	kernel_make
}

# The modules are copied, not `make modules_install`: that one runs depmod, signs and compresses as
# the kernel's configuration says, and each of those belongs to whoever publishes the tree.
src_install() {
	local into=${ED}/lib/modules/${KV_FULL}/extra ko vermagic
	while read -rd '' ko; do
		install -D -m 0644 "${ko}" "${into}/${ko##*/}" || die
		"${STRIP:-strip}" --strip-debug "${into}/${ko##*/}" || die "strip ${ko##*/}"
		vermagic=$(modinfo -F vermagic "${into}/${ko##*/}") || die "modinfo ${ko##*/}"
		[[ ${vermagic} == "${KV_FULL} "* ]] ||
			die "${ko##*/} is for '${vermagic}', not for ${KV_FULL}"
	done < <(find module -name '*.ko' -print0)
	[[ -f ${into}/zfs.ko ]] || die "the build left no zfs.ko"
	record_inputs > "${into}/zfs-kmod.inputs" || die "recording the inputs"
}

# What decides whether a binary package of this is the one that another machine would compile.
# vermagic does not: two builds of one kernel release may differ in all of this.
record_inputs() {
	local of
	of=$(b2sum < "${KV_OUT_DIR}/.config") || return
	echo "kernel-config ${of%% *}"
	of=$(b2sum < "${KV_OUT_DIR}/Module.symvers") || return
	echo "module-symvers ${of%% *}"
	echo "configure ${EXTRA_ECONF//[[:space:]]/ }"
}

pkg_postinst() {
	elog "Modules for ${KV_FULL} are in ${EROOT}/lib/modules/${KV_FULL}/extra; depmod was not run."
}

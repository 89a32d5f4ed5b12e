# Copyright 2026 the zfs-prefix authors
# Distributed under the terms of the Apache License 2.0 or the MIT license

EAPI=8

DESCRIPTION="OpenZFS's programs, libraries and units, as zfs-prefix publishes them with the modules"
HOMEPAGE="https://openzfs.org/"
SRC_URI="zfs-linux_${PV}.orig.tar.gz"
S="${WORKDIR}/zfs-${PV}"

LICENSE="CDDL"
SLOT="0/${PVR}"
KEYWORDS="amd64 arm64"
IUSE="debug"

# fetch: the prefix brings the distfile. strip: whoever publishes strips, before binding.
RESTRICT="fetch mirror strip test"

# Where they will run: not in this prefix, which is not root's. zfs-load points `active` to what root
# published with the modules that it loads.
USERLAND=/run/zfs-prefix/active/userland

pkg_nofetch() {
	eerror "${A} is not in ${DISTDIR}; provision the prefix again, or put the file there."
}

# Not econf: its directories are those of the prefix.
src_configure() {
	local lib=${USERLAND}/lib
	"${CONFIG_SHELL:-bash}" ./configure --with-config=user \
		--prefix="${USERLAND}" --sysconfdir=/etc --localstatedir=/var --runstatedir=/run \
		--with-mounthelperdir="${USERLAND}/sbin" --with-dracutdir="${lib}/dracut" \
		--with-udevdir="${lib}/udev" --with-udevruledir="${lib}/udev/rules.d" \
		--enable-systemd --with-systemdunitdir="${lib}/systemd/system" \
		--with-systemdpresetdir="${lib}/systemd/system-preset" \
		--with-systemdmodulesloaddir="${lib}/modules-load.d" \
		--with-systemdgeneratordir="${lib}/systemd/system-generators" \
		--disable-static --disable-nls --disable-sysvinit --disable-pam --disable-pyzfs \
		--without-python --without-libunwind $(use_enable debug) ${EXTRA_ECONF} ||
		die "configure failed; see ${S}/config.log"
}

# OpenZFS's own test programs are a quarter of the work, and nobody runs them here.
without_tests() {
	local none
	none=$(sed -n 's/^\(scripts_zfs_tests[a-z_]*_PROGRAMS\) *=.*/\1=/p' Makefile) || die
	emake V=0 "$@" ${none}
}

src_compile() {
	without_tests
}

# ${EROOT}/userland is what becomes ${USERLAND}; its share/etc are the defaults for /etc.
src_install() {
	without_tests DESTDIR="${T}/image" install
	[[ -x ${T}/image${USERLAND}/sbin/zpool ]] || die "the build left no zpool"
	mkdir -p "${ED}" || die
	mv "${T}/image${USERLAND}" "${ED}/userland" || die
	mv "${T}/image/etc" "${ED}/userland/share/etc" || die
	cd "${ED}/userland" || die
	rm -rf include lib/*.la lib/pkgconfig share/zfs/{zfs-tests,test-runner,runfiles} || die
	# They lead to where this will be. Publishing leaves them out, and Portage has a line for each.
	find . -lname '/*' -delete || die
}

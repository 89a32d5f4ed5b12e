# Run by the prefix's owner, as an operator would by hand: binpkg.sh EPREFIX DIR COMMAND…
#   key NAME                    a signing key: its GNUPGHOME is DIR/NAME, the public one DIR/NAME.asc
#   emerge RELEASE PKGDIR NAME  OpenZFS's modules and programs into DIR/root, and their packages, signed, into PKGDIR
#   quickpkg PKGDIR [NAME]      the package of what is in DIR/root; without NAME not signed
set -eu
prefix=$1 dir=$2 command=$3
shift 3
export PATH="$prefix/usr/bin:$prefix/bin:$prefix/usr/sbin:$prefix/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
export HOME="$dir" LC_ALL=C BINPKG_FORMAT=gpkg PORTAGE_TRUST_HELPER=
export ROOT="$dir/root" PORTAGE_TMPDIR="$dir/tmp" PORTAGE_LOGDIR="$dir/log"
gpg=$(command -v gpg)
umask 022
mkdir -p "$ROOT" "$PORTAGE_TMPDIR"

# Portage checks what it has just signed: so the signer's keyring is the one to check with too.
sign_with() {
	export FEATURES="$FEATURES binpkg-signing"
	export BINPKG_GPG_SIGNING_GPG_HOME="$dir/$1" BINPKG_GPG_VERIFY_GPG_HOME="$dir/$1"
	export BINPKG_GPG_SIGNING_KEY="$1@localhost"
	export BINPKG_GPG_SIGNING_BASE_COMMAND="$gpg --sign --armor --batch [PORTAGE_CONFIG]"
	export BINPKG_GPG_VERIFY_BASE_COMMAND="$gpg --verify --batch --no-tty --status-fd 2 [PORTAGE_CONFIG] [SIGNATURE]"
}

case $command in
key)
	mkdir -p "$dir/$1"
	chmod 0700 "$dir/$1"
	gpg --homedir "$dir/$1" --batch --quiet --passphrase '' --quick-generate-key "$1 <$1@localhost>" ed25519 sign "${2-never}"
	gpg --homedir "$dir/$1" --batch --quiet --check-trustdb
	gpg --homedir "$dir/$1" --batch --armor --export > "$dir/$1.asc"
	gpgconf --homedir "$dir/$1" --kill gpg-agent
	;;
emerge)
	export FEATURES="buildpkg" PKGDIR="$2"
	sign_with "$3"
	export KERNEL_DIR="/usr/lib/modules/$1/source" KV_OUT_DIR="/usr/lib/modules/$1/build"
	MAKEOPTS="-j$(nproc)" emerge -1v --color=n sys-fs/zfs-kmod sys-fs/zfs < /dev/null
	;;
quickpkg)
	export FEATURES="" PKGDIR="$1"
	[ $# -eq 1 ] || sign_with "$2"
	quickpkg --include-config=y sys-fs/zfs-kmod < /dev/null
	;;
esac

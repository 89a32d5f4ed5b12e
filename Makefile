# The short list. Everything long behind it is Rust (tests/lab) or a script with a name.
DESTDIR ?=
EPREFIX ?= /home/core/gentoo
DISTFILES ?=
MUSL := x86_64-unknown-linux-musl
BOOT := target/$(MUSL)/boot
RELEASE := target/release
STAGE := $(CURDIR)/target/stage
UNITS := $(filter-out %.preset,$(wildcard units/*.service units/*.slice units/*.timer units/*.path units/*.target))

.PHONY: help setup build install install-openzfs stage demo prefix lint check check-all bench
help:
	@echo 'make setup      what the tests need, on Debian 12 (root)'
	@echo 'make demo       from a stock kernel without ZFS to an imported pool, before your eyes (root)'
	@echo 'make check      the tests that every change passes (root, an hour)'
	@echo 'make check-all  all tests (root, hours)'
	@echo 'make bench      times of generator, symvers, audit, loader and builder; asserts nothing (root, 20 minutes)'
	@echo 'make prefix     a self-contained prefix, its archive and manifest, in target/prefix (Debian 12)'
	@echo 'make install DESTDIR=…'
	@echo 'make install-openzfs DESTDIR=… COMMANDS=/opt/bin    OpenZFS units and commands where the OS has none'

setup:
	packaging/setup-debian

# Early in the boot: static and small. The others run when the system is up.
build:
	cargo build --locked --profile boot --target $(MUSL) --bin zfs-prefix-generator --bin zfs-load
	cargo build --locked --release --bin zfs-build --bin zfs-prefix

install: build
	install -D -m 0755 $(BOOT)/zfs-prefix-generator '$(DESTDIR)/usr/lib/systemd/system-generators/zfs-prefix-generator'
	install -D -m 0755 -t '$(DESTDIR)/usr/lib/zfs-prefix' $(BOOT)/zfs-load $(RELEASE)/zfs-build
	install -D -m 0755 -t '$(DESTDIR)/usr/bin' $(RELEASE)/zfs-prefix
	install -D -m 0644 -t '$(DESTDIR)/usr/lib/systemd/system' $(UNITS)
	cp -r --no-preserve=ownership -t '$(DESTDIR)/usr/lib/systemd/system' $(wildcard units/*.d)
	install -d '$(DESTDIR)/usr/lib/zfs-prefix/dropins'
	cp -r --no-preserve=ownership -T units/dropins '$(DESTDIR)/usr/lib/zfs-prefix/dropins'
	install -D -m 0644 -t '$(DESTDIR)/usr/lib/systemd/system-preset' units/90-zfs-prefix.preset
	install -D -m 0644 units/zfs-prefix.catalog '$(DESTDIR)/usr/lib/systemd/catalog/zfs-prefix.catalog'
	install -D -m 0644 units/zfs-prefix.tmpfiles.conf '$(DESTDIR)/usr/lib/tmpfiles.d/zfs-prefix.conf'
	install -d '$(DESTDIR)/usr/share/zfs-prefix/overlay'
	cp -r --no-preserve=ownership -T packaging/overlay '$(DESTDIR)/usr/share/zfs-prefix/overlay'
	install -D -m 0644 -t '$(DESTDIR)/usr/share/doc/zfs-prefix' packaging/config.toml.example
	for page in packaging/man/*.[1-8]; do install -D -m 0644 -t "$(DESTDIR)/usr/share/man/man$${page##*.}" "$$page" || exit; done

# OpenZFS's units, udev rules, preset and commands for a system that has none of them; all lead through
# /run/zfs-prefix/active to what is published with the loaded modules. COMMANDS: a directory in PATH.
COMMANDS ?= /usr/sbin
install-openzfs:
	packaging/install-openzfs '$(DESTDIR)' '$(COMMANDS)'

# What the laboratory's machines get.
stage:
	rm -rf '$(STAGE)'
	$(MAKE) install DESTDIR='$(STAGE)'

demo: setup stage
	cargo run --locked -q --example demo -- '$(STAGE)'

# Downloads into target/prefix-packages; a minute.
prefix: setup
	cargo run --locked --release -q --example make-prefix -- --eprefix '$(EPREFIX)' $(DISTFILES:%=--distfile '%') target/prefix

lint:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

check: setup lint stage
	ZFS_PREFIX_STAGE='$(STAGE)' cargo test --locked --no-fail-fast

check-all: setup lint stage
	ZFS_PREFIX_STAGE='$(STAGE)' cargo test --locked --no-fail-fast -- --include-ignored

# On a machine with nothing else to do; otherwise the figures mean little.
bench: setup stage
	for b in generator symvers audit load boot tree build; do cargo run --locked -q --example bench-$$b -- --stage '$(STAGE)' || exit; done

# The short list. Everything long behind it is Rust (tests/lab) or a script with a name.
DESTDIR ?=
EPREFIX ?= /home/core/gentoo
DISTFILES ?=
MUSL := x86_64-unknown-linux-musl
BOOT := target/$(MUSL)/boot
# The profile of the programs that run late: `make check` takes those that its tests were compiled with.
LATE ?= release
RELEASE := target/$(LATE:dev=debug)
STAGE := $(CURDIR)/target/stage
UNITS := $(filter-out %.preset,$(wildcard units/*.service units/*.slice units/*.timer units/*.path units/*.target))

# What a step costs is written down in the laboratory; a run has a name there.
ifndef ZFS_PREFIX_RUN
export ZFS_PREFIX_RUN := $(shell date +%Y-%m-%dT%H:%M:%S)
endif
TIMED := tests/lab/timed
# The scripts below use this too. tests/lab/lib.rs has the same rule, for tests without make.
export ZFS_PREFIX_LAB := $(or $(ZFS_PREFIX_LAB),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/zfs-prefix-lab)
# Clones share compiled dependencies (cargo 1.91); programs are in target/ as always.
COMPILED := $(ZFS_PREFIX_LAB)/cargo
LAB := target/debug/lab
TEST := cargo test --locked --no-fail-fast
# Its tests wait for their turn (tests/lab/turns.rs), not for a thread.
SUITE := ZFS_PREFIX_STAGE='$(STAGE)' RUST_TEST_THREADS=256

stage demo prefix lint test check check-all fuzz bench lab: export CARGO_BUILD_BUILD_DIR ?= $(COMPILED)

.PHONY: help setup build install install-openzfs stage demo prefix lint test check check-all advisories fuzz bench lab clean-lab
help:
	@echo 'make setup      what the tests need, on Debian 12 (root)'
	@echo 'make demo       from a stock kernel without ZFS to an imported pool, before your eyes (root)'
	@echo 'make check      the tests that every change passes (root, 25 to 40 minutes)'
	@echo 'make test T=…   some of them: T="boot::" one file, T="boot::a_module --nocapture" …'
	@echo 'make check-all  all tests (root, hours)'
	@echo 'make advisories  known faults of dependencies; from the network, no part of any other target'
	@echo 'make fuzz       the parsers on inputs that a fuzzer makes up, SECONDS=60 for each (root)'
	@echo 'make bench      times of generator, symvers, audit, loader and builder; asserts nothing (root, 20 minutes)'
	@echo 'make prefix     a self-contained prefix, its archive and manifest, in target/prefix (Debian 12)'
	@echo 'make clean-lab  removes what demo, tests and benchmarks keep between runs'
	@echo 'make install DESTDIR=…'
	@echo 'make install-openzfs DESTDIR=… COMMANDS=/opt/bin    OpenZFS units and commands where the OS has none'

setup:
	packaging/setup-debian

# Early in the boot: static and small. The others run when the system is up.
build:
	cargo build --locked --profile boot --target $(MUSL) --bin zfs-prefix-generator --bin zfs-load
ifeq ($(LATE),dev)
	cargo test --locked --no-run -q --test suite
else
	cargo build --locked --profile $(LATE) --bin zfs-build --bin zfs-prefix
endif

install: build
	install -D -m 0755 $(BOOT)/zfs-prefix-generator '$(DESTDIR)/usr/lib/systemd/system-generators/zfs-prefix-generator'
	install -D -m 0755 -t '$(DESTDIR)/usr/lib/zfs-prefix' $(BOOT)/zfs-load $(RELEASE)/zfs-build
	install -D -m 0755 -t '$(DESTDIR)/usr/bin' $(RELEASE)/zfs-prefix
	$(if $(filter dev,$(LATE)),strip --strip-debug '$(DESTDIR)/usr/lib/zfs-prefix/zfs-build' '$(DESTDIR)/usr/bin/zfs-prefix')
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

# The laboratory's own programs, with the library under test in the profile of the tests.
RUN := cargo run --locked -q --package zfs-prefix-lab --bin
lab:
	$(TIMED) compile-lab cargo build --locked --package zfs-prefix-lab --bin lab --bin publish --bin obtain --bin follow

demo: setup stage
	$(RUN) demo -- '$(STAGE)'

# Downloads into target/prefix-packages; a minute.
prefix: setup
	$(RUN) make-prefix --release -- --eprefix '$(EPREFIX)' $(DISTFILES:%=--distfile '%') target/prefix

# The feature adds src/fuzz, which nothing else compiles before check-all.
lint:
	cargo fmt --all --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	$(TIMED) clippy cargo clippy --locked --workspace --all-targets --features zfs-prefix/fuzzing -- -D warnings

# What the laboratory makes from nothing, the programs under test and the tests are made side by side:
# each has stretches that leave a processor idle. What fails in the background fails in the tests again.
# Release builds of the late programs are proven by demo, bench and check-all.
check: LATE := dev
check-all: LATE := release
check check-all: setup
	@$(MAKE) --no-print-directory lint lab
	@$(TIMED) warm $(LAB) warm & $(TIMED) compile-tests $(TEST) --no-run -q & \
	$(TIMED) stage $(MAKE) --no-print-directory stage LATE=$(LATE); staged=$$?; wait; exit $$staged
	@failed=0; $(if $(filter check-all,$@),$(TIMED) deny packaging/deny bans licenses sources || failed=1;) \
	$(TIMED) unit-tests $(TEST) --lib || failed=1; \
	$(TIMED) doc-tests $(TEST) --doc || failed=1; \
	$(SUITE) $(TIMED) suite $(TEST) --test suite -- $(if $(filter check-all,$@),--include-ignored) || failed=1; \
	$(if $(filter check-all,$@),$(MAKE) --no-print-directory fuzz SECONDS=5 || failed=1;) \
	$(LAB) report "$$ZFS_PREFIX_RUN"; exit $$failed

advisories:
	packaging/deny advisories

# T: what of it, in words for the shell: T='build:: --ignored'.
test:
	@$(SUITE) $(TEST) --test suite -- $(T)

# What a fuzzer finds is below target/fuzz/failed; fuzz/README.md says what becomes of it.
SECONDS ?= 60
fuzz: setup
	@$(TIMED) fuzz fuzz/run $(SECONDS)

clean-lab:
	tests/lab/clean

# On a machine with nothing else to do; otherwise the figures mean little.
bench: setup stage
	for b in generator symvers audit load boot tree build; do $(RUN) bench-$$b -- --stage '$(STAGE)' || exit; done

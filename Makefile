# make            build/nfreeze, a static binary; on Debian, missing packages are installed first
# make STATIC=0   the same with shared libraries
# make SYSTEM_LIBSSH2=1  with the system's libssh2, which lacks our patches (third_party/README.md)
# make demo       back up and restore over a throw-away SSH server on this machine (DIR=...)
# make test       build and run all tests
# make bench      measure nfreeze, restic, borg, rclone and sftp (BENCH=quick, ONLY=a,c, ROUNDS=1)
# make bench-plot draw what was measured: tests/bench/bench.svg
# make ci         sanitizers over the unit tests and some scenarios, and a taste of fuzzing (six minutes)
# make torture    all that takes long: asan, tsan, valgrind, fuzz, slow tests, soak (SOAK=30 minutes)
# make asan, tsan, valgrind, fuzz (FUZZ_SECONDS=10), soak, lint, format, cov: each of these alone; cov says how
#                 much of nfreeze.cpp the tests run
# make audit      which lines hold each claim that nfreeze.cpp makes in its head, how many, and the tests that show it
# make install    program, manual page, completion for bash: to $(DESTDIR)$(PREFIX)/bin, share/...
# make deb        build/nfreeze_VERSION_ARCHITECTURE.deb
# make reproducible  build all of that once more elsewhere and compare: it has to be the same
# make chroots    try build/nfreeze in Debian 12, 13 and the oldest that the mirror has, made by debootstrap (as root)
# make aarch64    build/aarch64/nfreeze for 64-bit ARM, from Debian's packages for arm64, and try it under qemu
# make filesystems  all file systems that this machine has or gets by packages, as source and as destination
# make s3         try a repository in S3, behind rclone: on s3rver, which npm fetches
# make servers    try other people's SFTP servers: ProFTPD, dropbear, paramiko, asyncssh, npm's ssh2, Erlang's,
#                 and all manners of one of ours
# make clean      remove what was built; make distclean: the fetched source of libssh2 as well

STATIC ?= 1
SYSTEM_LIBSSH2 ?= 0
export SYSTEM_LIBSSH2
PREFIX ?= /usr/local
DIR ?= /usr/include
FUZZ_SECONDS ?= 10
SOAK ?= 30
JOBS ?= $(shell nproc)
TEST_JOBS ?= $(shell expr $(JOBS) \* 2 + 1)

.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# configure and build, quiet unless they fail or have something to say
LIBSSH2 = -DSYSTEM_LIBSSH2=$(SYSTEM_LIBSSH2)
CONFIGURE = cmake -S . -B build -DSTATIC=$(STATIC) $(LIBSSH2) --log-level=NOTICE
BUILD = cmake --build build --parallel $(JOBS) --target

all: deps
	$(CONFIGURE)
	$(BUILD) nfreeze documents

demo: deps-demo all
	NFREEZE=build/nfreeze DIR='$(DIR)' tests/demo.sh

test: deps-test
	$(CONFIGURE)
	$(BUILD) nfreeze_tests documents
	JOBS=$(TEST_JOBS) tests/run.sh build/nfreeze_tests

# What a sanitizer or coverage is to see is built apart: $(call instrumented,NAME of build/NAME,flags,target,
# arguments for cmake). Clang takes a third of GCC's time for ASan; -O0 saves more than it costs.
ASAN = -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O0
TSAN = -fsanitize=thread -O1
CLANG = -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++
instrumented = cmake -S . -B build/$(1) -DSTATIC=0 -DCMAKE_BUILD_TYPE=Debug -DINSTRUMENT='$(2)' $(4) $(LIBSSH2) --log-level=NOTICE && \
    cmake --build build/$(1) --parallel $(JOBS) --target $(3)
SANITIZED = JOBS=$(TEST_JOBS) tests/sanitized.sh

# The parts of the tests that are worth their time under sanitizers.
CI_TESTS = *unit/0*,*unit/1[0-2]*,*unit/15*,*unit/17*,*golden*,*scenarios_cli*,*scenarios_hostile_ssh*

# The longest part of it is one compiler run for asan: the fuzzer is compiled beside it.
ci: deps-ci
	$(FORMATTED)
	$(CONFIGURE_FUZZ)
	$(BUILD_FUZZ) & fuzz=$$!; $(call instrumented,asan,$(ASAN),nfreeze_tests,$(CLANG)) && wait $$fuzz
	$(SANITIZED) build/asan -sf='$(CI_TESTS)'
	$(MAKE) fuzz FUZZ_SECONDS=3

asan: deps-ci
	$(call instrumented,asan,$(ASAN),nfreeze_tests,$(CLANG))
	$(SANITIZED) build/asan

tsan: deps-ci
	$(call instrumented,tsan,$(TSAN),nfreeze_tests,$(CLANG))
	$(SANITIZED) build/tsan

CONFIGURE_FUZZ = cmake -S . -B build/fuzz -DSTATIC=0 -DCMAKE_BUILD_TYPE=Debug \
    $(CLANG) $(LIBSSH2) --log-level=NOTICE
BUILD_FUZZ = cmake --build build/fuzz --parallel $(JOBS) --target nfreeze_fuzz
fuzz: deps-ci
	$(CONFIGURE_FUZZ)
	$(BUILD_FUZZ)
	JOBS=$(JOBS) tests/fuzz/run.sh build/fuzz/nfreeze_fuzz $(FUZZ_SECONDS)

valgrind: deps-ci
	$(call instrumented,debug,-O1 -g,nfreeze)
	tests/valgrind.sh build/debug/nfreeze

# As .clang-format has it: `make format` changes it, lint and ci look.
SOURCES = nfreeze.cpp $(wildcard tests/*.cpp tests/*.hpp tests/*/*.cpp tests/*/*.hpp)
FORMATTED = clang-format --dry-run -Werror $(SOURCES)
format: deps-ci
	clang-format -i $(SOURCES)

lint: deps-ci
	$(FORMATTED)
	$(CONFIGURE)
	clang-tidy -p build --quiet nfreeze.cpp

audit: deps-test
	tests/audit.py
	$(CONFIGURE)
	$(BUILD) nfreeze_tests
	JOBS=$(TEST_JOBS) tests/run.sh build/nfreeze_tests -tc='walls:*,hostile:*'

cov: deps-ci
	$(call instrumented,cov,--coverage -O0 -DNFREEZE_COVERAGE,nfreeze_tests)
	find build/cov -name '*.gcda' -exec rm {} +
	JOBS=$(TEST_JOBS) tests/run.sh build/cov/nfreeze_tests -tse=alone -tce='memory:*,binary:*'; \
	    failed=$$?; tests/coverage.py build/cov && exit $$failed

soak: deps-ci all
	tests/soak.py $(SOAK)

torture: asan tsan valgrind
	$(MAKE) fuzz FUZZ_SECONDS=600
	NFREEZE_TEST_SLOW=1 $(MAKE) test
	$(MAKE) soak

bench: deps-bench all
	$(BUILD) nfreeze_bench_proxy
	$(BUILD) nfreeze_bench_measure
	tests/bench/bench.py $(if $(filter quick,$(BENCH)),--quick) --only '$(ONLY)' \
	    $(if $(ROUNDS),--rounds '$(ROUNDS)')

bench-plot:
	tests/bench/plot.py build/bench.json tests/bench/bench.svg

chroots: deps-chroots all
	NFREEZE=build/nfreeze tests/chroots.sh

# npm has the server for this test, Debian has none.
s3: deps-test
	command -v npm >/dev/null || third_party/install-packages.sh s3
	npm install --silent --no-audit --no-fund --prefix build/s3 s3rver@3.7.1
	$(CONFIGURE)
	$(BUILD) nfreeze_tests
	build/nfreeze_tests -tc='destinations: S3*'

# What only these tests need is not installed for the others, in which they are noted as skipped.
servers: deps-servers
	command -v npm >/dev/null || third_party/install-packages.sh s3
	npm install --silent --no-audit --no-fund --ignore-scripts --prefix build/servers ssh2@1.17.0
	$(CONFIGURE)
	$(BUILD) nfreeze_tests
	NFREEZE_TEST_SERVERS='$(CURDIR)/build/servers' JOBS=$(TEST_JOBS) tests/run.sh build/nfreeze_tests -tc='real servers:*,servers:*'

# Disks of their own in files, FUSE, an automounter: the tests that a machine with fewer packages or rights skips.
filesystems: deps-filesystems
	$(CONFIGURE)
	$(BUILD) nfreeze_tests
	NFREEZE_TEST_FILESYSTEMS=1 JOBS=$(TEST_JOBS) tests/run.sh build/nfreeze_tests -sf='*scenarios_filesystems*,*scenarios_rights*'

aarch64: deps-aarch64 all
	cmake -S . -B build/aarch64 -DCMAKE_TOOLCHAIN_FILE=third_party/aarch64.cmake $(LIBSSH2) --log-level=NOTICE
	cmake --build build/aarch64 --parallel $(JOBS) --target nfreeze
	tests/aarch64.sh build/aarch64/nfreeze build/nfreeze

# Missing Debian packages. The server and the tools that only demo, test and bench need are not
# installed by a plain `make`.
deps:
	@third_party/install-packages.sh build
deps-demo:
	@third_party/install-packages.sh demo
deps-test:
	@third_party/install-packages.sh test
deps-ci:
	@third_party/install-packages.sh ci
deps-bench:
	@third_party/install-packages.sh bench
deps-servers:
	@third_party/install-packages.sh servers
deps-chroots:
	@third_party/install-packages.sh chroots
deps-filesystems:
	@third_party/install-packages.sh filesystems
deps-aarch64:
	@third_party/install-packages.sh aarch64

# Installs what was built and builds nothing, so that `sudo make install` compiles nothing as root.
install:
	@for file in nfreeze nfreeze.1.gz nfreeze.bash; do \
	    test -e build/$$file || { echo "build/$$file is not there: run make first." >&2; exit 1; }; done
	install -D -m 755 build/nfreeze '$(DESTDIR)$(PREFIX)/bin/nfreeze'
	install -D -m 644 build/nfreeze.1.gz '$(DESTDIR)$(PREFIX)/share/man/man1/nfreeze.1.gz'
	install -D -m 644 build/nfreeze.bash '$(DESTDIR)$(PREFIX)/share/bash-completion/completions/nfreeze'

# The time that all files of the package get: that of the last commit, or of the source where there is none.
deb reproducible: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y nfreeze.cpp)
deb: all
	packaging/deb.sh

reproducible: deb
	STATIC=$(STATIC) packaging/reproducible.sh

clean:
	if [ -d build ]; then find build -mindepth 1 -maxdepth 1 ! -name third_party -exec rm -rf {} +; fi

distclean:
	rm -rf build

.PHONY: all demo test ci asan tsan fuzz valgrind lint format audit cov soak torture bench bench-plot \
    deps deps-demo deps-test deps-ci deps-bench deps-servers deps-chroots deps-filesystems deps-aarch64 install deb reproducible \
    chroots filesystems aarch64 s3 servers \
    clean distclean

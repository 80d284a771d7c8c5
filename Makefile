# make            build/nfreeze, a static binary; on Debian, missing packages are installed first
# make STATIC=0   the same with shared libraries
# make demo       back up and restore over a throw-away SSH server on this machine (DIR=...)
# make test       build and run all tests
# make bench      measure nfreeze, restic, borg, rclone and sftp (BENCH=quick, ONLY=a,c, ROUNDS=1)
# make bench-plot draw what was measured: tests/bench/bench.svg
# make install    to $(DESTDIR)$(PREFIX)/bin
# make clean      remove what was built; make distclean: the fetched source of libssh2 as well

STATIC ?= 1
PREFIX ?= /usr/local
DIR ?= /usr/include
JOBS ?= $(shell nproc)
TEST_JOBS ?= $(shell expr $(JOBS) + 1)

.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# configure and build, quiet unless they fail or have something to say
CONFIGURE = cmake -S . -B build -DSTATIC=$(STATIC) --log-level=NOTICE
BUILD = cmake --build build --parallel $(JOBS) --target

all: deps
	$(CONFIGURE)
	$(BUILD) nfreeze

demo: deps-demo all
	NFREEZE=build/nfreeze DIR='$(DIR)' tests/demo.sh

test: deps-test
	$(CONFIGURE)
	$(BUILD) nfreeze_tests
	JOBS=$(TEST_JOBS) tests/run.sh build/nfreeze_tests

bench: deps-bench all
	$(BUILD) nfreeze_bench_proxy
	$(BUILD) nfreeze_bench_measure
	tests/bench/bench.py $(if $(filter quick,$(BENCH)),--quick) --only '$(ONLY)' \
	    $(if $(ROUNDS),--rounds '$(ROUNDS)')

bench-plot:
	tests/bench/plot.py build/bench.json tests/bench/bench.svg

# Missing Debian packages. The server and the tools that only demo, test and bench need are not
# installed by a plain `make`.
deps:
	@third_party/install-packages.sh build
deps-demo:
	@third_party/install-packages.sh demo
deps-test:
	@third_party/install-packages.sh test
deps-bench:
	@third_party/install-packages.sh bench

# Installs what was built and builds nothing, so that `sudo make install` compiles nothing as root.
install:
	@test -x build/nfreeze || { echo 'build/nfreeze is not there: run make first.' >&2; exit 1; }
	install -D -m 755 build/nfreeze '$(DESTDIR)$(PREFIX)/bin/nfreeze'

clean:
	if [ -d build ]; then find build -mindepth 1 -maxdepth 1 ! -name third_party -exec rm -rf {} +; fi

distclean:
	rm -rf build

.PHONY: all demo test bench bench-plot deps deps-demo deps-test deps-bench install clean distclean

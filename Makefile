# Everything that this project can do from a fresh clone. Needs no more than Debian's base system, git and make.

# The distribution's Python: only it sees the distribution's nftables binding, and another one may stand first
# in PATH. For the tests that need no kernel any other will do: make test-fast SYSTEM_PYTHON=/opt/bin/python3.
SYSTEM_PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
# Stands for a complete environment. An interrupted build leaves none, and the next run begins anew.
STAMP := $(VENV)/.complete

# python-iptables is built from source: hence the compiler and the headers.
# systemd and libseccomp2 test the units of examples/systemd, which takes no running systemd, and procps has
# their /bin/kill. ssh-keygen signs what a fleet follows.
PACKAGES := ca-certificates conntrack gcc iproute2 iptables libc6-dev libseccomp2 nftables openssh-client openssl \
            procps python3-dev python3-nftables python3-venv systemd
# What these packages bring, for systems that name them otherwise.
COMMANDS := conntrack gcc ip iptables-restore nft openssl ssh-keygen systemd-analyze

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# Kernel tests wait for connections half of their time.
PROCESSES := $(shell expr $$(nproc) + 1)

# A user's PATH on Debian lacks the folders of nft and iptables; so does root's after a plain su.
export PATH := $(PATH):/usr/sbin:/sbin

# Both would lead the new environment's Python astray.
unexport PYTHONHOME PYTHONPATH

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help deps venv demo demo-fleet test test-fast test-browser test-ansible test-servers coverage check docs matrix \
        packages lock system-tools test-packages test-clone bench bench-deps bench-docs bench-startup clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install the Debian packages that are missing
	@if ! command -v dpkg-query >/dev/null; then \
	    missing=; \
	    for command in $(COMMANDS); do \
	        command -v $$command >/dev/null || missing="$$missing $$command"; \
	    done; \
	    test -n "$$missing" || exit 0; \
	    echo "This is no Debian. Install by hand what brings:$$missing" >&2; \
	    echo "(Debian's packages: $(PACKAGES))" >&2; \
	    exit 1; \
	fi; \
	missing=; \
	for package in $(PACKAGES); do \
	    dpkg-query --show --showformat='$${db:Status-Status}\n' $$package 2>/dev/null | grep -qx installed \
	        || missing="$$missing $$package"; \
	done; \
	test -n "$$missing" || exit 0; \
	if test -n "$(SUDO)" && ! command -v sudo >/dev/null; then \
	    echo "Missing Debian packages, and no sudo to install them. As root, run:" >&2; \
	    echo "    apt-get install$$missing" >&2; \
	    exit 1; \
	fi; \
	echo "Installing Debian packages:$$missing"; \
	$(SUDO) apt-get update --quiet=2 && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends $$missing

venv: $(STAMP) ## make .venv with lbctl, its extras and the development tools

# Where the environment was complete, only what pyproject.toml changed is installed.
$(STAMP): pyproject.toml | deps
	@if test -e $@; then rm $@; \
	else $(SYSTEM_PYTHON) -m venv --clear --system-site-packages $(VENV); fi
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[agent,iptc]' --group dev
	@printf '#!/bin/sh\n# As root, no package of a home directory or the current one: -sP.\nexec "%s" -sP -m lbctl "$$@"\n' \
	    '$(CURDIR)/$(BIN)/python' > $(BIN)/lbctl
	@touch $@

demo: venv ## watch lbctl balance real connections in a private network, and the agent at work
	$(BIN)/lbctl demo
	$(BIN)/lbctl demo --agent --connections 1000

# Fewer random examples: make test has them all.
FAST := $(BIN)/pytest --numprocesses $$(nproc) --hypothesis-profile=fast -m "not kernel"

test-fast: venv ## run the tests that need neither the kernel nor root
	$(FAST)

coverage: venv ## show how much of the engine the tests without root run, and fail below 85 %
	$(FAST) --cov=lbctl.engine --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=85

# The kernel tests make network namespaces, and fail without root; they are never left out in silence.
test: venv ## run all tests; as a user, those of the kernel through sudo
ifeq ($(SUDO),)
	$(BIN)/pytest --numprocesses $(PROCESSES)
else
	@if ! command -v sudo >/dev/null; then \
	    echo "The kernel tests need root, and there is no sudo: run make test as root." >&2; exit 1; \
	fi
	$(BIN)/pytest --numprocesses $(PROCESSES) -m "not kernel"
	$(SUDO) -E env PYTHONDONTWRITEBYTECODE=1 $(BIN)/pytest --numprocesses $(PROCESSES) -p no:cacheprovider -m kernel
endif

# Unpacked, not installed: an installed server is a daemon, now and after every boot.
SERVERS := busybox-static openssh-server openssh-sftp-server prometheus haproxy keepalived etcd-client etcd-server bird2 exabgp python3-exabgp dnsmasq-base nftlb
# What bird2, keepalived and nftlb load, and a host that has neither may lack.
SERVERS += libev4 libglib2.0-0 libjansson4 libnl-3-200 libnl-genl-3-200 libpci3 libsensors5 libsnmp40 libssh-gcrypt-4 libwrap0
SERVERS_UNPACKED := $(VENV)/servers

# One of them measures balancers beside each other.
test-servers: $(SERVERS_UNPACKED)/.complete bench-deps ## run the tests with real servers: Prometheus and others, unpacked from Debian's packages
	$(BIN)/python -m pip install --quiet --group servers
	$(BIN)/pytest --override-ini=addopts= --strict-markers --import-mode=importlib tests/servers

$(SERVERS_UNPACKED)/.complete: $(STAMP) Makefile
	@mkdir -p $(SERVERS_UNPACKED)/archives && cd $(SERVERS_UNPACKED)/archives && \
	    { apt-get download --quiet=2 $(SERVERS) || { $(SUDO) apt-get update --quiet=2 && apt-get download --quiet=2 $(SERVERS); } } && \
	    for archive in *.deb; do dpkg --extract "$$archive" .. || exit 1; done
	@touch $@

test-ansible: venv ## run the test of the Ansible collection, with ansible-core, which this installs
	$(BIN)/python -m pip install --quiet --group ansible
	$(BIN)/pytest --override-ini=addopts= --strict-markers --import-mode=importlib tests/ansible

demo-fleet: $(SERVERS_UNPACKED)/.complete ## show three balancers that follow one intent in etcd, until Ctrl-C
	$(SUDO) $(BIN)/lbctl demo --fleet

test-browser: docs ## run the tests of the agent's page and of the site in chromium, which this installs
	@command -v chromium >/dev/null || \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends chromium fonts-dejavu-core
	$(BIN)/python -m pip install --quiet --group browser
	$(BIN)/pytest --override-ini=addopts= --strict-markers --import-mode=importlib tests/browser

SITE := $(VENV)/site

docs: venv ## build the documentation site, and fail on dead links
	$(BIN)/python -m pip install --quiet --group docs
	$(BIN)/python docs/site/build.py $(SITE)

check: venv ## lint, formatting, types, and who may import whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# QUICK=1: the oldest nft and the newest, in a minute. RELEASES="trixie forky": only these, not recorded.
QUICK :=
RELEASES :=

matrix: venv ## run lbctl with the tools and Pythons of other Debian releases, fetched from the archive
	$(SUDO) env PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=tests $(BIN)/python -m matrix $(if $(QUICK),--quick) $(RELEASES)

# KINDS="deb image": only these; see packages/__main__.py.
KINDS :=

packages: $(VENV)/.packages ## build sdist, wheel, deb, rpm and a single file into dist/, the same bytes each time
	$(BIN)/python packages $(KINDS)

lock: venv ## write packages/requirements.txt anew: what packages bundle
	$(BIN)/python packages/lock.py

$(VENV)/.packages: $(STAMP)
	$(BIN)/python -m pip install --quiet --group packages
	@touch $@

# What makes fresh systems, and what checks packages and manual pages.
SYSTEM_TOOLS := buildah debian-archive-keyring lintian mandoc mmdebstrap rpm
TESTS_IN_SYSTEMS = $(SUDO) env CLONE="$(CLONE)" RELEASES="$(RELEASES)" PYTHONDONTWRITEBYTECODE=1 \
    $(BIN)/pytest --override-ini=addopts= --strict-markers --import-mode=importlib -p no:cacheprovider --timeout=7200

system-tools: venv
	@dpkg-query --show $(SYSTEM_TOOLS) >/dev/null 2>&1 || \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends $(SYSTEM_TOOLS)

test-packages: system-tools $(VENV)/.packages ## install, upgrade and remove the packages in fresh Debian 12 and 13 systems, run the image
	$(TESTS_IN_SYSTEMS) tests/systems/test_packages.py tests/systems/test_image.py

# CLONE="demo test": these targets instead. RELEASES=trixie: only there.
CLONE := demo test-fast

test-clone: system-tools ## run targets from a clone in fresh Debian 12 and 13 systems that have only git and make
	$(TESTS_IN_SYSTEMS) --capture=no tests/systems/test_clone.py

bench-startup: venv ## the time that lbctl takes to start, held against a trivial Typer program
	$(BIN)/python bench/startup.py

# How much: full (at most twelve minutes), quick or tiny. Which parts: see `python bench --help`; PARTS=all for all of
# them.
BENCH := full
PARTS :=
FIGURES := $(VENV)/bench.json
# What root measures, the user turns into tables and documents. A part that fails is reported among the figures.
MEASURE := $(SUDO) env PYTHONDONTWRITEBYTECODE=1 $(BIN)/python bench --size $(BENCH) --output $(FIGURES)

bench: bench-deps ## measure lbctl, other balancers and layouts of rules; BENCH=quick for a glance, PARTS="nat dsr"
	@: > $(FIGURES); $(MEASURE) $(PARTS); failed=$$?; $(BIN)/python bench/report.py $(FIGURES); exit $$failed

bench-docs: bench-deps $(SERVERS_UNPACKED)/.complete ## measure all parts (or PARTS again), write the figures into README and docs/bench
	@cp docs/bench/results.json $(FIGURES); $(MEASURE) $(if $(PARTS),--add $(PARTS),all); failed=$$?; \
	    $(BIN)/python bench/report.py $(FIGURES) --publish; exit $$failed

# Other balancers are unpacked, not installed: an installed proxy is a daemon on port 80, now and after every boot.
BALANCERS := haproxy ipvsadm libnginx-mod-stream nftlb nginx
UNPACKED := $(VENV)/debian
FETCH := apt-get install --download-only --yes --quiet --no-install-recommends --option Debug::NoLocking=true \
         --option Dir::Cache::archives=$(CURDIR)/$(UNPACKED)/archives $(BALANCERS)

bench-deps: $(VENV)/.bench

$(VENV)/.bench: $(STAMP) Makefile
	$(BIN)/python -m pip install --quiet --group bench
	@if command -v apt-get >/dev/null; then \
	    mkdir -p $(UNPACKED)/archives/partial && \
	    { $(FETCH) >/dev/null 2>&1 || { $(SUDO) apt-get update --quiet=2 && $(FETCH); } } && \
	    for archive in $(UNPACKED)/archives/*.deb; do \
	        test ! -e "$$archive" || dpkg --extract "$$archive" $(UNPACKED) || exit 1; \
	    done; \
	else echo "Other balancers are measured if they are installed: $(BALANCERS)"; fi
	@touch $@

clean: ## remove all that these targets made, .venv included
	$(if $(wildcard .matrix),$(SUDO) rm -rf .matrix)
	rm -rf $(VENV) dist .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

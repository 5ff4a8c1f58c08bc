# Each recipe calls a script and has no logic of its own, so any make works.
.POSIX:
.PHONY: help deps go build test check stress packages deb dist demo journeys bench matrix conformance soak fuzz install uninstall clean

PREFIX = /usr/local
DESTDIR =

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile

deps: ## install what building and testing need (with apt; on a system without apt: print what is missing)
	@scripts/deps.sh

go: ## build the programs priv/epmd and priv/handover
	@scripts/build-go.sh

build: ## build the programs and the application (_build/default/lib/handover)
	@QUIET=1 rebar3 compile

test: deps build ## install what is missing, build, run all tests; the last line is "N passed, N failed"
	@scripts/test.sh go ct

check: deps build ## static checks (gofmt, vet, staticcheck, govulncheck, xref, dialyzer, shellcheck), all tests, journeys
	@scripts/test.sh gates go ct journeys

stress: deps build ## run all tests three times next to four busy loops (half an hour or more)
	@test/long/stress.sh

demo: deps build ## show three nodes on two hosts, with a firewall that opens port 4369 only
	@examples/two_hosts/demo.sh

journeys: deps build ## do what users of rebar3, Elixir and RabbitMQ do, with the committed state as a dependency
	@scripts/test.sh journeys

bench: deps build ## compare with inet_tcp, inet_tls and OTP's epmd; writes bench/RESULTS.md (about 20 minutes)
	@scripts/deps.sh openssl=openssl && bench/run.sh

matrix: deps build ## build and test on OTP 27 and 29, in Debian chroots (root)
	@test/long/matrix.sh

conformance: deps build ## run OTP's own suites without and with handover; fails if a case is worse with it (root; hours)
	@test/long/conformance.sh

soak: deps build ## run under load for SOAKTIME=3m a part; SEED=N repeats the random choices of a run
	@test/long/soak.sh

fuzz: ## run each fuzz target for FUZZTIME=60s
	@test/long/fuzz.sh

install: ## install what was built under PREFIX=/usr/local (and DESTDIR=)
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' scripts/install.sh install

uninstall: ## remove what `make install` installed
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' scripts/install.sh uninstall

deb: deps ## build the Debian package for this release and architecture, in dist/
	@scripts/deps.sh dh=debhelper dpkg-buildpackage=dpkg-dev /usr/share/build-essential/list=build-essential && scripts/deb.sh

dist: deps ## build tarballs for Linux on amd64 and arm64, in dist/
	@scripts/dist.sh

packages: deps ## build the package and the tarballs, and test them in copies of this machine
	@scripts/test.sh deb dist

clean: ## remove what was built
	@rm -rf dist _build erl/_build priv/epmd priv/handover

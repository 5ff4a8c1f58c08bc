# Every target is a line here and a script elsewhere: the recipes hold no logic, so that any make will do.
.POSIX:
.PHONY: help deps go build test check stress packages deb dist demo journeys bench matrix conformance soak fuzz install uninstall clean

PREFIX = /usr/local
DESTDIR =

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile

deps: ## install what is missing (Debian and its kin: by apt; elsewhere: says what to install)
	@scripts/deps.sh

go: ## build the programs priv/epmd and priv/handover
	@scripts/build-go.sh

build: ## build the application, _build/default/lib/handover, and the programs
	@QUIET=1 rebar3 compile

test: deps build ## everything on a fresh machine: installs, builds, runs all tests; ends with "N passed, N failed"
	@scripts/test.sh go ct

check: deps build ## the gates (gofmt, vet, staticcheck, govulncheck, xref, dialyzer, shellcheck) and all tests
	@scripts/test.sh gates go ct journeys

stress: deps build ## all tests three times, next to four busy loops; ends with "N passed, N failed"
	@test/long/stress.sh

demo: deps build ## two hosts, a firewall that lets nothing but port 4369 through, three nodes
	@examples/two_hosts/demo.sh

journeys: deps build ## rebar3, Elixir and RabbitMQ users' ways, each in a folder of its own (of what is committed)
	@scripts/test.sh journeys

bench: deps build ## measure beside inet_tcp, inet_tls and OTP's epmd: bench/RESULTS.md (some 20 minutes)
	@scripts/deps.sh openssl=openssl && bench/run.sh

matrix: deps build ## build and test on OTP 27 and 29, in Debian chroots under a cache folder
	@test/long/matrix.sh

conformance: deps build ## OTP's own suites on its epmd and inet_tcp, and on priv/epmd and handover: no case may be worse (hours)
	@test/long/conformance.sh

soak: deps build ## what takes too long for the tests, SOAKTIME=3m a part: prints what was held under load; SEED=N repeats a run
	@test/long/soak.sh

fuzz: ## every fuzz target for FUZZTIME=60s, one worker each
	@test/long/fuzz.sh

install: ## what is built, under PREFIX=/usr/local (and DESTDIR=): programs, application, units, man pages, documents
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' scripts/install.sh install

uninstall: ## remove what install has put there
	@DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' scripts/install.sh uninstall

deb: deps ## the Debian package for this release and processor, in dist/
	@scripts/deps.sh dh=debhelper dpkg-buildpackage=dpkg-dev /usr/share/build-essential/list=build-essential && scripts/deb.sh

dist: deps ## tarballs for Linux on amd64 and arm64, in dist/
	@scripts/dist.sh

packages: deps ## build and try both, in temporary folders; ends with "N passed, N failed"
	@scripts/test.sh deb dist

clean: ## remove what was built
	@rm -rf dist _build erl/_build priv/epmd priv/handover

#!/bin/sh
# Installs what this machine lacks for building and testing, with apt, as root or with sudo. It prints nothing if nothing is
# missing. Without apt it prints what is missing and fails.
#   deps.sh            installs what the build, the tests and the demo need
#   deps.sh CMD=PKG …  installs each package PKG whose command or file CMD is missing
set -eu

# command=package, and erl/library=package for a library of Erlang/OTP
commands='erl=erlang-base rebar3=rebar3 make=make git=git gcc=gcc jq=jq shellcheck=shellcheck mandoc=mandoc
    nft=nftables iptables=iptables ip=iproute2 ss=iproute2 ps=procps tcpdump=tcpdump script=bsdutils
    zsh=zsh systemd-analyze=systemd'
libraries='erl/crypto=erlang-crypto erl/ssl=erlang-ssl erl/common_test=erlang-common-test erl/eunit=erlang-eunit
    erl/dialyzer=erlang-dialyzer erl/tools=erlang-tools erl/parsetools=erlang-parsetools'
files='/usr/include/stdlib.h=libc6-dev /etc/ssl/certs/ca-certificates.crt=ca-certificates'

# nft and ip are in directories that are not in an ordinary user's PATH
PATH=$PATH:/usr/sbin:/sbin

otp_lib=
has() {
    case $1 in
    erl/*)
        command -v erl >/dev/null || return 1
        [ -n "$otp_lib" ] || otp_lib=$(erl -noinput -boot start_clean -eval 'io:put_chars(code:lib_dir()), halt().')
        for dir in "$otp_lib/${1#erl/}"-*/ebin; do [ -d "$dir" ] && return; done
        return 1
        ;;
    /*) [ -e "$1" ] || [ "$(uname -s)" != Linux ] ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

missing_packages() {
    for pair in "$@"; do
        has "${pair%%=*}" || echo "${pair#*=}"
    done | sort -u
}

check_go() {
    PATH=$PATH:/usr/local/go/bin
    if command -v go >/dev/null; then return; fi
    echo 'deps: go was not found. Install Go 1.26 or newer (https://go.dev/dl) and add it to the PATH.' >&2
    exit 1
}

install() {
    if ! command -v apt-get >/dev/null; then
        echo "deps: there is no apt here. Install what these Debian packages contain with the tools of your system: $*" >&2
        exit 1
    fi
    sudo=
    if [ "$(id -u)" -ne 0 ]; then
        sudo='sudo'
        if ! command -v sudo >/dev/null; then
            echo "deps: installing packages needs root or sudo. Run as root: apt-get install --no-install-recommends $*" >&2
            exit 1
        fi
    fi
    echo "deps: installing with apt: $*"
    $sudo apt-get -qq update
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "$@" >/dev/null
}

if [ $# -eq 0 ]; then
    check_go
    # shellcheck disable=SC2086 # lists of words
    set -- $commands $libraries $files
fi
missing=$(missing_packages "$@")
if [ -z "$missing" ]; then exit 0; fi
# shellcheck disable=SC2086
install $missing
still=$(missing_packages "$@")
if [ -n "$still" ]; then
    echo "deps: still missing after the installation: $still" >&2
    exit 1
fi

# Sourced by whatever runs tests or the demo: removes from the environment the settings of whoever started it, which change what
# make, rebar3, Erlang, a shell and our own programs do. go/internal/testenv has the same list for the Go tests.
# shellcheck shell=sh
for variable in $(env | sed -nE 's/^((MAKE[^=]*|MFLAGS|GNUMAKEFLAGS|PREFIX|DESTDIR|ERL[^=]*|HANDOVER[^=]*|EPMD[^=]*|RELEASE[^=]*|RELX[^=]*|REBAR[^=]*|MIX[^=]*|QUIET|DEBUG|NOTIFY_SOCKET|LISTEN_[^=]*|BASH_ENV|ENV|CDPATH|TMPDIR|LC_[^=]*|LANGUAGE)=).*/\2/p'); do
    unset "$variable"
done
export LANG=C.UTF-8

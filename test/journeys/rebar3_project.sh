#!/usr/bin/env bash
# shellcheck disable=SC2154,SC1091,SC2164 # lib.bash sets variables, and -e
#
# The journey of a rebar3 user, from the dependency to a running release that is upgraded. test/journeys/lib.bash explains
# journeys.
. "$(dirname "$0")/lib.bash"
export USE_NODETOOL=1 # examples/rebar3_project/README.md gives the reason

programs_are_there() {
    [ -x "$1/priv/epmd" ] && [ -x "$1/priv/handover" ]
    "$1/priv/handover" version | grep '^handover '
}

case_compile() {
    rebar3 compile
    programs_are_there _build/default/lib/handover
}

# without_go COMMAND …: runs COMMAND as on a machine without Go. build-go.sh also looks in /usr/local/go, so that is hidden too.
without_go() {
    local path='' dir
    for dir in ${PATH//:/ }; do [ -x "$dir/go" ] || path=$path:$dir; done
    if [ ! -x /usr/local/go/bin/go ]; then
        PATH=${path#:} "$@"
    else
        # shellcheck disable=SC2016 # for the inner shell
        unshare -rm sh -ec 'mount -t tmpfs none /usr/local/go && PATH=$1 && shift && exec "$@"' sh "${path#:}" "$@"
    fi
}

case_no_go() {
    [ ! -x /usr/local/go/bin/go ] || unshare -rm true || skip "Go is in /usr/local/go, and hiding it needs a mount namespace"
    rm -rf _build/default/lib/handover
    fails without_go rebar3 compile >out 2>&1
    cat out
    grep 'handover: go was not found' out
    grep 'HANDOVER_PREBUILT=/dir' out
}

# refused DIR TEXT: succeeds if the build fails with HANDOVER_PREBUILT=DIR and its output contains TEXT
refused() {
    rm -rf _build/default/lib/handover
    fails env "HANDOVER_PREBUILT=$1" rebar3 compile >out 2>&1
    cat out
    grep -F -- "$2" out
}

case_prebuilt() {
    rm -rf "$work/built" && mkdir "$work/built"
    refused "$work/nowhere" "HANDOVER_PREBUILT=$work/nowhere is not a directory"
    refused relative 'must be an absolute path'
    refused "$work/built" 'has no program epmd'
    cp "$repository/priv/epmd" "$repository/priv/handover" "$work/built"
    chmod -x "$work/built/handover"
    refused "$work/built" "$work/built/handover is not executable"
    printf '#!/bin/sh\necho handover 0.0.1\n' >"$work/built/handover" && chmod +x "$work/built/handover"
    refused "$work/built" 'prints "handover 0.0.1", not'
    cp "$repository/priv/handover" "$work/built"
    cp "$(type -P epmd)" "$work/built/epmd" # OTP's
    refused "$work/built" "is not handover's epmd"
    cp "$repository/priv/epmd" "$work/built"
    rm -rf _build/default/lib/handover
    if [ ! -x /usr/local/go/bin/go ] || unshare -rm true; then set -- without_go; else set --; fi
    HANDOVER_PREBUILT=$work/built "$@" rebar3 compile
    cmp "$work/built/epmd" _build/default/lib/handover/priv/epmd
    programs_are_there _build/default/lib/handover
}

# Two shells; the second one calls the first.
case_shell() {
    export ERL_FLAGS='-proto_dist handover_tcp -start_epmd false -handover listen false'
    mkfifo one.in
    rebar3 shell --name one@127.0.0.1 --setcookie journey <one.in >one.log 2>&1 &
    exec 8>one.in
    until_true 40 'the first shell' grep 'Booted greeter' one.log
    console two.log 'rebar3 shell --name two@127.0.0.1 --setcookie journey' \
        "greeter:greet('one@127.0.0.1', me)." "$links"
    grep "{'one@127.0.0.1',{{127,0,0,1},$ERL_EPMD_PORT}}" two.log
    echo 'halt().' >&8
    wait
    end_epmd
}

case_ct() {
    rebar3 as test compile
    ERL_LIBS=$PWD/_build/test/lib ERL_FLAGS='-proto_dist handover_tcp -start_epmd false -handover listen false' \
        rebar3 ct --name ct@127.0.0.1 --setcookie journey
    end_epmd
}

# greeter HOST COMMAND …: calls bin/greeter of the release in the directory HOST, which stands for a host
greeter() {
    local host=$1
    shift
    ERL_LIBS=$PWD/$host/lib NODE_NAME=$host@127.0.0.1 COOKIE=journey PIPE_DIR=$work/pipes/$host/ timeout 60 "$host/bin/greeter" "$@"
}

# answers_ping NODE: checks first that the node has registered. Otherwise the ping, which is a node too, would start OTP's epmd.
answers_ping() { epmd -names | grep -q "^name $1 " && greeter "$1" ping | grep -x pong; }

# check_two_nodes: a calls b through EPMD's port, and neither node listens
check_two_nodes() {
    [ "$(greeter a eval "greeter:greet('b@127.0.0.1', me).")" = 1 ]
    greeter a eval "$links" | tr -d ' \n' | grep -F "{'b@127.0.0.1',{{127,0,0,1},$ERL_EPMD_PORT}}"
    all_at_port_0 2
}

unpack() {
    rm -rf a b && mkdir a b
    tar -xzf "$1" -C a
    tar -xzf "$1" -C b
}

case_release() {
    rebar3 release
    ln -sfn _build/default/rel/greeter a
    greeter a foreground >a.log 2>&1 &
    until_true 30 'the node' answers_ping a
    greeter a stop
    wait
    NODE_NAME=a@127.0.0.1 console console.log 'a/bin/greeter console' "greeter:greet(node(), me)." "maps:get(epmd, handover:info())."
    grep -x 'handover.*' console.log
    end_epmd
    rm a
}

case_tar() {
    rebar3 as prod tar
    unpack _build/prod/rel/greeter/greeter-0.1.0.tar.gz
    ls -d a/erts-*
    programs_are_there a/lib/handover-*
    greeter a daemon
    greeter b daemon
    check_two_nodes
    [ "$(greeter b rpc erlang node)" = "'b@127.0.0.1'" ]
    COOKIE=journey NODE_NAME=b@127.0.0.1 console remote.log 'b/bin/greeter remote_console' 'greeter:greet(node(), you).' "nodes()."
    tr -d '\r' <remote.log | grep -x 2
    kill -0 "$(greeter a pid)"
    greeter a stop
    greeter b stop
    end_epmd
}

case_tar_without_erts() {
    rebar3 as system tar
    unpack _build/system/rel/greeter/greeter-0.1.0.tar.gz
    [ -z "$(ls -d a/erts-* 2>/dev/null)" ]
    programs_are_there a/lib/handover-*
    greeter a foreground >a.log 2>&1 &
    greeter b foreground >b.log 2>&1 &
    until_true 30 'node a' answers_ping a
    until_true 30 'node b' answers_ping b
    check_two_nodes
    greeter a stop
    greeter b stop
    end_epmd
}

# The release without USE_NODETOOL: relx then uses erl_call, which does not support handover and needs a node that listens.
case_stock_tools() {
    unset USE_NODETOOL
    rm -rf c && mkdir c
    tar -xzf _build/prod/rel/greeter/greeter-0.1.0.tar.gz -C c
    sed -i '/^-handover listen/d' c/releases/0.1.0/vm.args.src
    greeter c daemon
    greeter c ping | grep -x pong
    greeter c eval 'greeter:greet(node(), me).' | grep -x 1
    greeter c stop
    end_epmd
}

# link_of_a prints what an upgrade must not change: the local port of the link, and the pid of the carrier.
link_of_a() {
    greeter a eval "{[inet:sockname(P) || {'b@127.0.0.1', P} <- erlang:system_info(dist_ctrl)], maps:get(os_pid, handover:info())}." | tr -d ' \n'
}

# version_on_a prints what an upgrade must change: the version of handover.
version_on_a() { greeter a eval "element(3, lists:keyfind(handover, 1, application:which_applications()))."; }

# carrier_is_of VERSION: succeeds if the carrier of node a runs the program of that version
carrier_is_of() {
    local pid
    pid=$(greeter a eval 'maps:get(os_pid, handover:info()).')
    [ "$(readlink "/proc/$pid/exe")" = "$PWD/a/lib/handover-$1/priv/handover" ]
}

# older_handover creates a version 0.0.9 of handover, on the branch "older".
older_handover() {
    git clone -q "$work/handover.git" "$work/older"
    (
        cd "$work/older"
        sed -i 's/{vsn, ".*"}/{vsn, "0.0.9"}/' erl/src/handover.app.src
        sed -i 's/\(fallbackVersion = \)".*"/\1"0.0.9"/' go/cmd/handover/main.go
        sed -i 's/^\(-module(.*)\.\)$/\1 -older(yes)./' erl/src/*.erl
        git -c user.name=journey -c user.email=journey@localhost commit -qam 'older'
        git push -q origin HEAD:older
    )
}

# Handover is upgraded and downgraded in a running node: its link and its carrier stay. The node also listens on its own port,
# which erl_call needs. A ping with erl_call then shows that the acceptor still runs.
case_upgrade() {
    local before after vsn
    vsn=$(sed -n 's/.*{vsn, *"\(.*\)"}.*/\1/p' _build/default/lib/handover/src/handover.app.src)
    older_handover
    cp -r "$work/project" "$work/upgraded" && cd "$work/upgraded"
    rm -rf _build rebar.lock a b
    sed -i 's/{branch, "main"}/{branch, "older"}/' rebar.config
    rebar3 as prod tar
    unpack _build/prod/rel/greeter/greeter-0.1.0.tar.gz
    sed -i '/^-handover listen/d' a/releases/0.1.0/vm.args.src
    greeter a daemon
    greeter b daemon
    [ "$(greeter a eval "greeter:greet('b@127.0.0.1', me).")" = 1 ]
    [ "$(version_on_a)" = '"0.0.9"' ]
    before=$(link_of_a)

    rm -rf _build/default/lib/handover _build/prod/lib/handover rebar.lock
    sed -i 's/{branch, "older"}/{branch, "main"}/; s/{greeter, "0.1.0"}/{greeter, "0.2.0"}/' rebar.config
    rebar3 as prod release
    rebar3 as prod relup -n greeter -v 0.2.0 -u 0.1.0
    rebar3 as prod tar
    cp _build/prod/rel/greeter/greeter-0.2.0.tar.gz a/releases/
    greeter a upgrade 0.2.0
    [ "$(version_on_a)" = "\"$vsn\"" ]
    after=$(link_of_a)
    [ "$after" = "$before" ]
    [ "$(greeter a eval "greeter:greet('b@127.0.0.1', me).")" = 2 ]
    greeter a downgrade 0.1.0
    [ "$(version_on_a)" = '"0.0.9"' ]
    after=$(link_of_a)
    [ "$after" = "$before" ]
    greeter a upgrade 0.2.0
    after=$(link_of_a)
    [ "$after" = "$before" ]
    (unset USE_NODETOOL && answers_ping a)
    # a carrier that is killed is replaced by one of the new version, and the link stays
    kill -KILL "$(greeter a eval 'maps:get(os_pid, handover:info()).')"
    until_true 20 'the new carrier' carrier_is_of "$vsn"
    after=$(link_of_a)
    [ "${after%,*}" = "${before%,*}" ]
    # the node still connects, and others can connect to it
    greeter a eval "{erlang:disconnect_node('b@127.0.0.1'), handover:connect('b@127.0.0.1')}." | grep -F "{true,{ok,'b@127.0.0.1'}}"
    [ "$(greeter b eval "greeter:greet('a@127.0.0.1', me).")" = 1 ]
    greeter a stop
    greeter b stop
    end_epmd
}

# The dependency in _checkouts, where a user can change its sources.
case_checkouts() {
    rm -rf "$work/checkouts" && mkdir -p "$work/checkouts/_checkouts"
    cp -r rebar.config src config hooks "$work/checkouts"
    git clone -q https://example.org/handover.git "$work/checkouts/_checkouts/handover"
    cd "$work/checkouts"
    rebar3 compile
    programs_are_there _checkouts/handover
    rebar3 as system tar
    unpack _build/system/rel/greeter/greeter-0.1.0.tar.gz
    programs_are_there a/lib/handover-*
    greeter a foreground >a.log 2>&1 &
    until_true 30 'node a' answers_ping a
    greeter a stop
    end_epmd
}

journey rebar3 compile no_go prebuilt shell ct release tar tar_without_erts stock_tools upgrade checkouts

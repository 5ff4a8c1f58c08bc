#!/usr/bin/env bash
# shellcheck disable=SC2154,SC1091,SC2164,SC2086 # lib.bash sets variables, and -e
#
# The journey of a RabbitMQ user: two nodes form a cluster through EPMD's port. Skipped if rabbitmq-server is not installed.
# test/journeys/lib.bash explains journeys.
. "$(dirname "$0")/lib.bash"
for sbin in /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin; do :; done
set -a
EBIN=$repository/_build/default/lib/handover/ebin
. "$example/environment"
set +a

ctl() { timeout 60 "$sbin/rabbitmqctl" -n "$1@127.0.0.1" "${@:2}"; }
has_started() { ctl "$1" await_startup --timeout 5; }

# start_node NAME PORT: starts a node as a background job
start_node() {
    RABBITMQ_NODENAME=$1@127.0.0.1 RABBITMQ_NODE_PORT=$2 RABBITMQ_MNESIA_BASE=$work/rabbit/$1 \
        RABBITMQ_PID_FILE=$work/rabbit/$1.pid "$sbin/rabbitmq-server" >"$work/rabbit/$1.log" 2>&1 &
}

case_cluster() {
    [ -d "$sbin" ] || skip "rabbitmq-server is not installed: apt-get install rabbitmq-server"
    [ "$(id -u)" = 0 ] || [ "$(id -u)" = "$(id -u rabbitmq)" ] || skip "rabbitmq-server runs only as root or as the user rabbitmq"
    [ -e "$EBIN/handover.app" ] || (cd "$repository" && rebar3 compile)
    mkdir "$work/rabbit"
    export RABBITMQ_CONF_ENV_FILE=/dev/null RABBITMQ_CONFIG_FILE=$work/rabbit/none RABBITMQ_LOG_BASE=$work/rabbit/log
    export RABBITMQ_USE_LONGNAME=true RABBITMQ_ENABLED_PLUGINS_FILE=$work/rabbit/plugins
    echo '[].' >"$RABBITMQ_ENABLED_PLUGINS_FILE"
    # if no EPMD is running, RabbitMQ starts OTP's
    epmd -daemon
    start_node r1 "$(free_port)"
    start_node r2 "$(free_port)"
    until_true 60 'node r1' has_started r1
    until_true 60 'node r2' has_started r2
    ctl r2 stop_app
    ctl r2 join_cluster r1@127.0.0.1
    ctl r2 start_app
    ctl r2 eval 'lists:sort(rabbit_mnesia:cluster_nodes(running)).' | grep -F "['r1@127.0.0.1','r2@127.0.0.1']"
    for name in r1 r2; do ctl $name eval "$links"; done | tee links
    grep -E "'r[12]@127.0.0.1',\{\{127,0,0,1\},$ERL_EPMD_PORT\}" links
    all_at_port_0 2
    ctl r1 add_user someone secret
    ctl r2 list_users | grep someone
    ctl r2 stop
    ctl r1 stop
    wait
    end_epmd
}

journey rabbitmq cluster

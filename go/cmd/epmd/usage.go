package main

const usage = `usage: epmd [-d|-debug] [DbgExtra...] [-address List]
            [-port No] [-daemon] [-relaxed_command_check] [-systemd]
            [-config File] [-metrics IP:Port]
       epmd [-d|-debug] [-port No] [-names|-kill|-stop name|-upgrade|-status [--json]]

Regular options
    -address List
        IP addresses to listen on, separated by commas; the loopback
        addresses are always among them. Default: every address.
    -port No
        The port to listen on, or to ask. Default: 4369.
    -d, -debug
        Log what is going on to stderr, and remember only 5 old names.
    -daemon
        Go to the background. The command returns when the daemon listens.
    -relaxed_command_check
        Allow -kill while nodes are registered, and -stop.
    -systemd
        Take the listening sockets from systemd (socket activation).

    -config File
        Who may ask for what, in TOML; read again on SIGHUP. Default: every
        host may ask, as with the stock epmd.
    -metrics IP:Port
        Metrics for Prometheus, http://IP:Port/metrics. Default: none.

DbgExtra options
    -packet_timeout Seconds
        How long a client may take to send its request. Default: 60.
    -delay_accept Seconds, -delay_write Seconds
        Simulate a busy server: wait before each accept, each answer.

Interactive options
    -names
        List the registered names and their ports.
    -kill
        End the running epmd; it must have no registered names, or have
        been started with -relaxed_command_check.
    -stop Name
        Unregister a name; the running epmd must have been started with
        -relaxed_command_check.
    -upgrade
        Let the running epmd go on as the program that its file is now,
        with every registration; for its own user and root.
    -status [--json]
        What the running epmd does and has counted, for people or scripts.

Environment: ERL_EPMD_ADDRESS (as -address), ERL_EPMD_PORT (as -port),
ERL_EPMD_RELAXED_COMMAND_CHECK (as -relaxed_command_check, whatever its value).
`

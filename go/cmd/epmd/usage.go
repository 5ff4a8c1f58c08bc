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
        Log every event to stderr, and remember only 5 old names.
    -daemon
        Run in the background. The command returns when the daemon listens.
    -relaxed_command_check
        Allow -kill while nodes are registered, and -stop.
    -systemd
        Take the listening sockets from systemd (socket activation).

    -config File
        A TOML file that says which hosts may ask for what. It is read again
        on SIGHUP. Default: every host may ask, as with the stock epmd.
    -metrics IP:Port
        Serve metrics for Prometheus at http://IP:Port/metrics. Default: no.

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
        Make the running epmd execute its program file again. It keeps every
        registration. Only its own user and root may do this.
    -status [--json]
        Print the state and the counters of the running epmd, as text or JSON.

Environment: ERL_EPMD_ADDRESS (as -address), ERL_EPMD_PORT (as -port),
ERL_EPMD_RELAXED_COMMAND_CHECK (as -relaxed_command_check, whatever its value).
`

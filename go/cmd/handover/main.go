// Command handover is the program of the Erlang application: `handover port` is the carrier,
// which a node starts as its port program.
//
// With `port`, stdout carries the protocol (docs/PROTOCOL.md, part 3) and nothing else, and
// stderr is a log. The exit status is 0 after a normal end, 1 after an error, 2 if the usage
// is wrong.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"
)

// fallbackVersion is the version of a build that does not have its own.
const fallbackVersion = "0.1.0"

const usage = `usage: handover port      the carrier: started by the BEAM, speaks on stdin and stdout
       handover doctor [--address HOST[:PORT]] [--port PORT] [--inet6] [--timeout 8s] [--json] NAME@HOST
                          check each step of a connection to a node, and print what to do about the first that fails
                          --address: dial there, not the name's host; --port: EPMD's (ERL_EPMD_PORT, or 4369)
                          --inet6: as handover_tcp6; --timeout: for each step
                          exit status: 0 by handover, 3 at the node's own port only, 1 not at all, 2 wrong usage
       handover status [--json]
                          what the EPMD of this host does and has counted (port: ERL_EPMD_PORT, or 4369)
       handover version   name and version
`

// subcommands take the arguments after their name and return the exit status.
var subcommands = map[string]func(ctx context.Context, args []string) int{
	"doctor":  runDoctor,
	"port":    runPort,
	"status":  runStatus,
	"version": printVersion,
}

func main() {
	os.Exit(runSubcommand(context.Background(), os.Args[1:], os.Stderr))
}

func runSubcommand(ctx context.Context, args []string, stderr io.Writer) int {
	if len(args) > 0 {
		if command := subcommands[args[0]]; command != nil {
			return command(ctx, args[1:])
		}
	}
	return printUsage(stderr)
}

// printUsage prints the usage and returns the exit status of a wrong usage.
func printUsage(stderr io.Writer) int {
	fmt.Fprint(stderr, usage)
	return 2
}

func printVersion(_ context.Context, args []string) int {
	if len(args) > 0 {
		return printUsage(os.Stderr)
	}
	fmt.Println(programVersion())
	return 0
}

// programVersion returns the name and version of this program.
func programVersion() string {
	v := fallbackVersion
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		v = info.Main.Version
	}
	return "handover " + v
}

// Command raftmux shows raftmux at work: it serves a small sharded key-value
// store, and demonstrates that it keeps its word when stores are killed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		signals = append(signals, syscall.SIGHUP)
	}
	// Who writes to a pipe that nobody reads any more is told by an error, and clears up.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes the command line and returns the exit code: 0 if all is well, 1
// if not, 130 after an interrupt.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(append([]string{}, args...)) // for nil it takes those of the process
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errInterrupted):
		fmt.Fprintln(stderr, "interrupted; everything is cleaned up")
		return 130
	default:
		fmt.Fprintln(stderr, "raftmux:", err)
		return 1
	}
}

// errInterrupted is wrapped by the error of a command that Ctrl-C ended early.
var errInterrupted = errors.New("interrupted")

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "raftmux",
		Short: "A multi-Raft transport for Go, at work",
		Long: `raftmux carries the messages of many Raft groups between stores over a handful
of connections. This command runs the reference host: a sharded key-value store
on go.etcd.io/raft and Pebble that clients reach with any Redis client.`,
		Example: `  raftmux demo                 three stores, 300 regions, and a kill: 20 seconds
  raftmux serve --help         how to run a store of your own`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newDemoCommand(), newServeCommand(), newVersionCommand())
	return root
}

// flagError says which flag has a bad value, and why.
func flagError(flag string, value any, problem string) error {
	return fmt.Errorf("flag --%s: %q: %s", flag, fmt.Sprint(value), problem)
}

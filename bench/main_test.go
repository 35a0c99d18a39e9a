package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raftmux/raftmux/internal/rig"
)

// TestMain is the whole command where it is run as one of the processes.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == childFlag {
		main()
		return
	}
	rig.Main(m)
}

// measured runs the command, and returns its tables and what it says in the end.
func measured(ctx context.Context, t *testing.T, args ...string) (string, error) {
	t.Helper()
	folder := t.TempDir()
	failed := run(ctx, append(args, "-quick", "-out", folder), io.Discard, io.Discard)
	text, err := os.ReadFile(filepath.Join(folder, "bench.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text), failed
}

func TestTheWholeCommand(t *testing.T) {
	text, err := measured(t.Context(), t, "-groups", "throughput", "-shapes", "heartbeat", "-transports", "raftmux,usual")
	if err != nil || !strings.Contains(text, "| "+heartbeats+" |") || strings.Contains(text, "## Failed") {
		t.Errorf("%v\n%s", err, text)
	}
}

// A run of which something failed says so, and has its tables all the same.
func TestFailuresAreNoSuccess(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	text, err := measured(ctx, t, "-groups", "roundtrip")
	if err == nil || !strings.Contains(text, "## Failed") {
		t.Errorf("%v\n%s", err, text)
	}
}

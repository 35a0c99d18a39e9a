package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test binary stand for the command: the demo starts its
// stores as processes of its own executable.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// command runs a command line.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), args, &out, &err)
	return code, out.String(), err.String()
}

func TestBadFlagsAreNamed(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	peers := "1=127.0.0.1:1,2=127.0.0.1:2"
	for want, args := range map[string][]string{
		`flag --for: "1s": must be at least 2s`:                {"demo", "--for", "1s"},
		`flag --stores: "10": must be from 1 to 9`:             {"demo", "--stores", "10"},
		`flag --regions: "0"`:                                  {"demo", "--regions", "0"},
		`flag --writers: "-1"`:                                 {"demo", "--writers", "-1"},
		`is not empty`:                                         {"demo", "--dir", dir},
		`flag --peers: "": is mandatory`:                       {"serve"},
		`flag --peers: "nonsense": must be ID=HOST:PORT`:       {"serve", "--peers", "nonsense"},
		`flag --peers: "x=h:1": the id must be a number`:       {"serve", "--peers", "x=h:1"},
		`flag --peers: "1=h": the address must be host:port`:   {"serve", "--peers", "1=h"},
		`names store 1 twice`:                                  {"serve", "--peers", "1=h:1,1=h:2"},
		`flag --id: "0": is mandatory`:                         {"serve", "--peers", peers},
		`flag --id: "1000": is mandatory, from 1 to 999`:       {"serve", "--peers", peers, "--id", "1000"},
		`flag --regions: "1048577": must be from 1 to 1048576`: {"serve", "--peers", peers, "--id", "1", "--dir", "d", "--regions", "1048577"},
		`flag --workers: "257": must be from 1 to 256, or 0`:   {"serve", "--peers", peers, "--id", "1", "--dir", "d", "--workers", "257"},
		`flag --connections is 2000`: {
			"serve", "--peers", "1=127.0.0.1:0", "--client-addr", "127.0.0.1:0", "--id", "1", "--dir", dir + "/new", "--connections", "2000",
		},
		`lacks this store, --id 3`:                             {"serve", "--peers", peers, "--id", "3"},
		`flag --dir: "": is mandatory`:                         {"serve", "--peers", peers, "--id", "1"},
		`flag --client-addr: "6379": must be host:port`:        {"serve", "--peers", peers, "--id", "1", "--dir", "d", "--client-addr", "6379"},
		`flag --log-level: "loud": must be debug, info, warn`:  {"serve", "--log-level", "loud"},
		`flag --timeout: "-1s": must be positive`:              {"serve", "--peers", peers, "--id", "1", "--dir", "d", "--timeout", "-1s"},
		`flag --peers: "1=h:1": must name the stores that run`: {"serve", "--peers", "1=h:1", "--id", "1", "--dir", "d", "--join"},
		`flag --max-log-entries: "1": must be at least 2`:      {"serve", "--peers", peers, "--id", "1", "--dir", "d", "--max-log-entries", "1"},
		`flag --snapshot-rate: "-1": must be positive`:         {"serve", "--peers", peers, "--id", "1", "--dir", "d", "--snapshot-rate", "-1"},
		`flag --wipe: "true": takes at least 3 stores`:         {"demo", "--wipe", "--stores", "2"},
		`unknown command "dmeo" for "raftmux"`:                 {"dmeo"},
		`unknown flag: --nonsense`:                             {"demo", "--nonsense"},
		`unknown command "extra"`:                              {"demo", "extra"},
	} {
		code, _, stderr := command(t, args...)
		if code != 1 || !strings.Contains(stderr, want) {
			t.Errorf("%q: exit %d, %q, want %q", args, code, stderr, want)
		}
	}
}

// What only shows when the store is opened names the flag, too.
func TestUselessAddressesAreNamed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	address := taken.Addr().String()
	for flag, args := range map[string][]string{
		"peers":       {"--peers", "1=" + address},
		"addr":        {"--peers", "1=127.0.0.1:1", "--addr", address},
		"client-addr": {"--peers", "1=127.0.0.1:1", "--addr", "127.0.0.1:0", "--client-addr", address},
	} {
		code, _, stderr := command(t, append([]string{"serve", "--id", "1", "--dir", t.TempDir()}, args...)...)
		if want := fmt.Sprintf("raftmux: flag --%s: %q: listen tcp %s: ", flag, address, address); code != 1 || !strings.HasPrefix(stderr, want) {
			t.Errorf("%q: exit %d, %q, want %q", args, code, stderr, want)
		}
	}
}

// A folder that another process uses is said to be in use.
func TestFolderInUse(t *testing.T) {
	dir := t.TempDir()
	store := exec.CommandContext(t.Context(), os.Args[0], "serve", "--leash", "--id", "1", "--dir", dir,
		"--peers", "1=127.0.0.1:1", "--addr", "127.0.0.1:0", "--client-addr", "127.0.0.1:0")
	leash, err := store.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err := store.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	if !lines.Scan() || !strings.Contains(lines.Text(), "store 1 serves") {
		t.Errorf("the store says %q, %v", lines.Text(), lines.Err())
	}
	code, _, stderr := command(t, "serve", "--id", "1", "--dir", dir, "--peers", "1=127.0.0.1:1", "--addr", "127.0.0.1:0", "--client-addr", "127.0.0.1:0")
	if want := dir + ": the folder is in use by another process"; code != 1 || !strings.Contains(stderr, want) {
		t.Errorf("exit %d, %q, want %q", code, stderr, want)
	}
	_ = leash.Close()
	for lines.Scan() { // until it has stopped
	}
	if err := store.Wait(); err != nil {
		t.Error(err)
	}
}

func TestVersionAndHelp(t *testing.T) {
	if code, out, _ := command(t, "version"); code != 0 || !strings.HasPrefix(out, "raftmux ") {
		t.Errorf("version: exit %d, %q", code, out)
	}
	if code, out, _ := command(t); code != 0 || !strings.Contains(out, "demo") {
		t.Errorf("no arguments: exit %d, %q", code, out)
	}
}

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/raftmux/raftmux/kvstore"
)

// serveFlags are the flags of serve as they were given.
type serveFlags struct {
	id                uint64
	addr, clientAddr  string
	peers, dir, level string
	regions           int
	workers           int
	connections       int
	timeout           time.Duration
	leash             bool
}

func newServeCommand() *cobra.Command {
	var flags serveFlags
	cmd := &cobra.Command{
		Use:   "serve --id ID --peers ID=HOST:PORT,... --dir DIR",
		Short: "Run one store",
		Long: `serve runs one store of a cluster. Each region has a replica on each store of
--peers; a majority of them must run. Any Redis client can PING, GET, SET, DEL
and INFO at --client-addr of any store. Stop it with Ctrl-C or SIGTERM; after a
crash, start it again with the same flags.

The stores and the number of regions are written into --dir at the first start
and can't change afterwards. The log is not compacted yet, so --dir grows. A
store that lost its --dir must not come back under the same id.`,
		Example: `  raftmux serve --id 1 --dir s1 --client-addr 127.0.0.1:6391 --peers 1=127.0.0.1:7391,2=127.0.0.1:7392,3=127.0.0.1:7393
  raftmux serve --id 2 --dir s2 --client-addr 127.0.0.1:6392 --peers 1=127.0.0.1:7391,2=127.0.0.1:7392,3=127.0.0.1:7393
  raftmux serve --id 3 --dir s3 --client-addr 127.0.0.1:6393 --peers 1=127.0.0.1:7391,2=127.0.0.1:7392,3=127.0.0.1:7393
  redis-cli -p 6391 set a b`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options, err := flags.options(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return serve(cmd.Context(), options, flags.leash, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.Uint64Var(&flags.id, "id", 0, "the store's id, from 1 to 999")
	f.StringVar(&flags.addr, "addr", "", "where to listen for the other stores (default the own address in --peers)")
	f.StringVar(&flags.clientAddr, "client-addr", "127.0.0.1:6379", "where to listen for clients")
	f.StringVar(&flags.peers, "peers", "", "the addresses of all stores, this one too: 1=host:port,2=host:port,...")
	f.IntVar(&flags.regions, "regions", kvstore.DefaultRegions, "the number of regions of the cluster")
	f.StringVar(&flags.dir, "dir", "", "the folder for this store's data")
	f.IntVar(&flags.workers, "workers", 0, "goroutines that drive the regions (default one per core, at most 4)")
	f.IntVar(&flags.connections, "connections", 1, "TCP connections to each other store")
	f.DurationVar(&flags.timeout, "timeout", kvstore.DefaultRequestTimeout, "how long a request may take before it is answered -TRYAGAIN")
	f.StringVar(&flags.level, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&flags.leash, "leash", false, "stop when standard input ends, and not at Ctrl-C")
	_ = f.MarkHidden("leash")
	return cmd
}

// options checks the flags.
func (f *serveFlags) options(log io.Writer) (kvstore.Options, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return kvstore.Options{}, flagError("log-level", f.level, "must be debug, info, warn or error")
	}
	peers, err := parsePeers(f.peers)
	if err != nil {
		return kvstore.Options{}, err
	}
	switch {
	case f.id == 0:
		return kvstore.Options{}, flagError("id", f.id, "is mandatory, from 1 to 999")
	case peers[f.id] == "":
		return kvstore.Options{}, flagError("peers", f.peers, fmt.Sprintf("lacks this store, --id %d", f.id))
	case f.dir == "":
		return kvstore.Options{}, flagError("dir", f.dir, "is mandatory")
	case f.regions < 1:
		return kvstore.Options{}, flagError("regions", f.regions, "must be at least 1")
	case f.workers < 0:
		return kvstore.Options{}, flagError("workers", f.workers, "must be at least 1, or 0 for the default")
	case f.connections < 1:
		return kvstore.Options{}, flagError("connections", f.connections, "must be at least 1")
	case f.timeout <= 0:
		return kvstore.Options{}, flagError("timeout", f.timeout, "must be positive")
	}
	for _, address := range []struct{ flag, value string }{{"addr", f.addr}, {"client-addr", f.clientAddr}} {
		if _, _, err := net.SplitHostPort(address.value); err != nil && address.value != "" {
			return kvstore.Options{}, flagError(address.flag, address.value, "must be host:port")
		}
	}
	return kvstore.Options{
		StoreID:             f.id,
		Dir:                 f.dir,
		Peers:               peers,
		Addr:                f.addr,
		ClientAddr:          f.clientAddr,
		Regions:             f.regions,
		Workers:             f.workers,
		ConnectionsPerStore: f.connections,
		RequestTimeout:      f.timeout,
		Logger:              slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: level})),
	}, nil
}

// parsePeers reads 1=host:port,2=host:port.
func parsePeers(text string) (map[uint64]string, error) {
	if text == "" {
		return nil, flagError("peers", text, "is mandatory, as 1=host:port,2=host:port,...")
	}
	peers := map[uint64]string{}
	for part := range strings.SplitSeq(text, ",") {
		name, address, ok := strings.Cut(part, "=")
		if !ok {
			return nil, flagError("peers", part, "must be ID=HOST:PORT")
		}
		id, err := strconv.ParseUint(strings.TrimSpace(name), 10, 64)
		if err != nil || id == 0 || id > 999 {
			return nil, flagError("peers", part, "the id must be a number from 1 to 999")
		}
		host, port, err := net.SplitHostPort(strings.TrimSpace(address))
		if err != nil || host == "" || port == "" {
			return nil, flagError("peers", part, "the address must be host:port")
		}
		if _, twice := peers[id]; twice {
			return nil, flagError("peers", text, fmt.Sprintf("names store %d twice", id))
		}
		peers[id] = net.JoinHostPort(host, port)
	}
	return peers, nil
}

// serve runs a store until ctx ends, or standard input if it is on a leash.
func serve(ctx context.Context, options kvstore.Options, leash bool, out io.Writer) (err error) {
	if leash {
		ctx = leashed(os.Stdin)
	}
	store, err := kvstore.Open(options)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "store %d serves %d regions: clients at %s, stores at %s, data in %s\n",
		options.StoreID, options.Regions, store.ClientAddr(), store.Addr(), options.Dir)
	select {
	case <-ctx.Done():
	case err = <-store.Failed():
	}
	// The context has ended: closing gets its own time.
	if closing := store.Close(context.Background()); err == nil {
		err = closing
	}
	if err == nil {
		fmt.Fprintf(out, "store %d stopped\n", options.StoreID)
	}
	return err
}

// leashed returns a context that ends with the input: whoever started this
// process holds the other end, and lets go when it dies, however it dies. Ctrl-C
// in the terminal is for that process, not for this one.
func leashed(input io.Reader) context.Context {
	signal.Ignore(os.Interrupt)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // ends with the input, or with the process
		_, _ = io.Copy(io.Discard, input)
		cancel()
	}()
	return ctx
}

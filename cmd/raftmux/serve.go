package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/kvstore"
	"github.com/raftmux/raftmux/snapshot"
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
	join              bool
	logEntries        int
	snapshotRate      int64
	leash             bool
}

func newServeCommand() *cobra.Command {
	var flags serveFlags
	cmd := &cobra.Command{
		Use:   "serve --id ID --peers ID=HOST:PORT,... --dir DIR",
		Short: "Run one store",
		Long: `serve runs one store of a cluster. The stores that begin a cluster are all
given the same --peers, and each region has a replica on each of them; a majority
must run. Any Redis client can PING, GET, SET, DEL and INFO at --client-addr of
any store. Stop it with Ctrl-C or SIGTERM: it hands over what it leads first. After
that, or a crash, start it again with the same flags.

A store whose --dir is empty asks the others whether it has been there before,
and starts when all of them have said no. So at the first start of a cluster all
stores must be started, and a store that has lost its --dir is refused: it has
forgotten its votes. It comes back under a new id, with --join and the stores that
run as --peers. Then tell any of those, by any Redis client,

  RAFT.REPLACE OLD-ID NEW-ID NEW-ADDRESS

and each region takes the old store's peer out and fills one on the new store, by
a snapshot, while it serves. The new store begins only when it hears of that.
An old store that still answers, or that the others have never heard of, is taken
for a mistake; with FORCE behind NEW-ADDRESS it is replaced all the same. An order
that would leave a region without a majority is always refused.
RAFT.PEERS REGION shows how it is; single peers are moved by RAFT.ADDLEARNER,
RAFT.PROMOTE and RAFT.REMOVE at the region's leader.

A store with an empty --dir, no --join and nobody else in --peers begins a cluster
of its own. Stores of different clusters refuse each other; INFO shows the
cluster_id, and who has refused whom.

The number of regions can't change.`,
		Example: `  raftmux serve --id 1 --dir s1 --client-addr 127.0.0.1:6391 --peers 1=127.0.0.1:7391,2=127.0.0.1:7392,3=127.0.0.1:7393
  raftmux serve --id 2 --dir s2 --client-addr 127.0.0.1:6392 --peers 1=127.0.0.1:7391,2=127.0.0.1:7392,3=127.0.0.1:7393
  raftmux serve --id 3 --dir s3 --client-addr 127.0.0.1:6393 --peers 1=127.0.0.1:7391,2=127.0.0.1:7392,3=127.0.0.1:7393
  redis-cli -p 6391 set a b

  raftmux serve --join --id 4 --dir s4 --client-addr 127.0.0.1:6394 --peers 1=127.0.0.1:7391,2=127.0.0.1:7392,4=127.0.0.1:7394
  redis-cli -p 6391 raft.replace 3 4 127.0.0.1:7394`,
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
	f.StringVar(&flags.addr, "addr", "", "where to listen for the other stores (default this store's address in --peers)")
	f.StringVar(&flags.clientAddr, "client-addr", "127.0.0.1:6379", "where to listen for clients")
	f.StringVar(&flags.peers, "peers", "", "the addresses of all stores, this one too: 1=host:port,2=host:port,...")
	f.BoolVar(&flags.join, "join", false, "join a cluster that runs, under an id that it has never seen")
	f.IntVar(&flags.regions, "regions", kvstore.DefaultRegions, "the number of regions of the cluster")
	f.StringVar(&flags.dir, "dir", "", "the folder for this store's data")
	f.IntVar(&flags.workers, "workers", 0, "goroutines that drive the regions (default one per core, at most 4)")
	f.IntVar(&flags.connections, "connections", 1, "TCP connections to each other store")
	f.DurationVar(&flags.timeout, "timeout", kvstore.DefaultRequestTimeout, "how long a request may take before it is answered -TRYAGAIN")
	f.IntVar(&flags.logEntries, "max-log-entries", kvstore.DefaultMaxLogEntries, "how many log entries a region keeps before it gives up the older half")
	f.Int64Var(&flags.snapshotRate, "snapshot-rate", snapshot.DefaultRate, "the bytes per second that snapshots may take, 0 for no limit")
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
	case f.id == 0 || f.id > 999:
		return kvstore.Options{}, flagError("id", f.id, "is mandatory, from 1 to 999")
	case peers[f.id] == "":
		return kvstore.Options{}, flagError("peers", f.peers, fmt.Sprintf("lacks this store, --id %d", f.id))
	case f.dir == "":
		return kvstore.Options{}, flagError("dir", f.dir, "is mandatory")
	case f.regions < 1 || f.regions > kvstore.MaxRegions:
		return kvstore.Options{}, flagError("regions", f.regions, fmt.Sprintf("must be from 1 to %d", kvstore.MaxRegions))
	case f.workers < 0 || f.workers > kvstore.MaxWorkers:
		return kvstore.Options{}, flagError("workers", f.workers, fmt.Sprintf("must be from 1 to %d, or 0 for the default", kvstore.MaxWorkers))
	case f.connections < 1:
		return kvstore.Options{}, flagError("connections", f.connections, "must be at least 1")
	case f.timeout <= 0:
		return kvstore.Options{}, flagError("timeout", f.timeout, "must be positive")
	case f.join && len(peers) < 2:
		return kvstore.Options{}, flagError("peers", f.peers, "must name the stores that run, to --join them")
	case f.logEntries < 2:
		return kvstore.Options{}, flagError("max-log-entries", f.logEntries, "must be at least 2")
	case f.snapshotRate < 0:
		return kvstore.Options{}, flagError("snapshot-rate", f.snapshotRate, "must be positive, or 0 for no limit")
	}
	for _, address := range []struct{ flag, value string }{{"addr", f.addr}, {"client-addr", f.clientAddr}} {
		if _, _, err := net.SplitHostPort(address.value); err != nil && address.value != "" {
			return kvstore.Options{}, flagError(address.flag, address.value, "must be host:port")
		}
	}
	snapshotRate := f.snapshotRate
	if snapshotRate == 0 {
		snapshotRate = -1
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
		Join:                f.join,
		MaxLogEntries:       f.logEntries,
		SnapshotRate:        snapshotRate,
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
		return ofFlag(err, options)
	}
	select {
	case <-store.Ready():
	default:
		fmt.Fprintf(out, "store %d has an empty folder; it starts when it has heard from %s that it is new\n",
			options.StoreID, otherStores(options))
	}
	select {
	case <-store.Ready():
		fmt.Fprintf(out, "store %d serves %d regions: clients at %s, stores at %s, data in %s\n",
			options.StoreID, options.Regions, store.ClientAddr(), store.Addr(), options.Dir)
		select {
		case <-ctx.Done():
			if !leash { // whoever holds a leash stops all stores at once, so nobody is left
				handOver(store)
			}
		case err = <-store.Failed():
		}
	case <-ctx.Done():
	case err = <-store.Failed():
	}
	if errors.Is(err, kvstore.ErrKnown) {
		err = fmt.Errorf("%w; to replace it, start a store under a new id with --join, and tell the others by RAFT.REPLACE %d NEW-ID NEW-ADDRESS",
			err, options.StoreID)
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

// ofFlag names the flag that is wrong, if that is what is the matter.
func ofFlag(err error, options kvstore.Options) error {
	var option *raftmux.OptionError
	if errors.As(err, &option) && option.Field == "ConnectionsPerStore" {
		return fmt.Errorf("flag --connections %s", option.Problem)
	}
	var bad *kvstore.AddressError
	if !errors.As(err, &bad) {
		return err
	}
	flag := "peers"
	switch {
	case bad.Option == "ClientAddr":
		flag = "client-addr"
	case bad.Option == "Addr" && options.Addr != "":
		flag = "addr"
	}
	return flagError(flag, bad.Address, bad.Err.Error())
}

// handOverLimit bounds the time that a store takes to give away what it leads.
const handOverLimit = 2 * time.Second

func handOver(store *kvstore.Store) {
	ctx, cancel := context.WithTimeout(context.Background(), handOverLimit)
	defer cancel()
	store.HandOver(ctx)
}

// otherStores names the stores that are asked.
func otherStores(options kvstore.Options) string {
	var ids []uint64
	for id := range options.Peers {
		if id != options.StoreID {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return storesText(ids)
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

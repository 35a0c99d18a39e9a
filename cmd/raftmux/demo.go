package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9/logging"
	"github.com/spf13/cobra"

	"github.com/raftmux/raftmux/kvstore"
)

// demoFlags are the flags of demo.
type demoFlags struct {
	stores, regions, writers, valueSize int
	length                              time.Duration
	wipe                                bool
	dir                                 string
}

func newDemoCommand() *cobra.Command {
	var flags demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a cluster on this machine, kill its stores, check that nothing was lost",
		Long: `demo starts stores as processes of their own on free ports of 127.0.0.1, writes
unique values through a real Redis client library, and tells every second what
each store does. Half-way it kills one store with SIGKILL and starts it again. At
the end it kills all of them at once while writes are under way, starts them
again, waits until they agree, stops them, and reads each store's Pebble: every
acknowledged write must be in each, and the replicas must be equal.

With --wipe the store that is killed half-way loses its data folder as well. It is
refused under its old identity, joins as a new store, and is filled by snapshots
while the writes go on. The check at the end is of that store, too.

It exits 0 only if that held. Ctrl-C ends it early and cleans up.`,
		Example: `  raftmux demo
  raftmux demo --for 1m --regions 1000
  raftmux demo --wipe                 a store loses its disk
  raftmux demo --dir demo-data        keep the stores' data and logs there`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.validate(); err != nil {
				return err
			}
			return runDemo(cmd.Context(), flags, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.IntVar(&flags.stores, "stores", 3, "how many stores, from 1 to 9")
	f.IntVar(&flags.regions, "regions", kvstore.DefaultRegions, "how many regions")
	f.DurationVar(&flags.length, "for", 20*time.Second, "how long to write")
	f.BoolVar(&flags.wipe, "wipe", false, "let a store lose its data folder, and another one take its place")
	f.StringVar(&flags.dir, "dir", "", "an empty or new folder for data and logs, which are kept (default a temporary one)")
	f.IntVar(&flags.writers, "writers", 48, "how many clients write at the same time")
	f.IntVar(&flags.valueSize, "value-size", 128, "the size of the values in bytes")
	return cmd
}

func (f *demoFlags) validate() error {
	switch {
	case f.stores < 1 || f.stores > 9:
		return flagError("stores", f.stores, "must be from 1 to 9")
	case f.wipe && f.stores < 3:
		return flagError("wipe", f.wipe, "takes at least 3 stores, so that the others have a majority")
	case f.regions < 1 || f.regions > 100000:
		return flagError("regions", f.regions, "must be from 1 to 100000")
	case f.length < 2*time.Second:
		return flagError("for", f.length, "must be at least 2s, to have time for a kill")
	case f.writers < 1 || f.writers > 999:
		return flagError("writers", f.writers, "must be from 1 to 999")
	case f.valueSize < 1 || f.valueSize > 1<<20:
		return flagError("value-size", f.valueSize, "must be from 1 to 1048576")
	}
	return nil
}

// folder returns where the demo's data goes, and what to do with it at the end.
func (f *demoFlags) folder() (dir string, remove func() error, err error) {
	if f.dir == "" {
		dir, err = os.MkdirTemp("", "raftmux-demo-")
		return dir, func() error { return os.RemoveAll(dir) }, err
	}
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return "", nil, flagError("dir", f.dir, err.Error())
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return "", nil, flagError("dir", f.dir, err.Error())
	}
	if len(entries) > 0 {
		return "", nil, flagError("dir", f.dir, "is not empty")
	}
	return f.dir, func() error { return nil }, nil
}

// startTries is how often the demo looks for free ports again.
const startTries = 5

// runDemo sets the scene, plays, and clears up whatever happens.
func runDemo(ctx context.Context, flags demoFlags, out io.Writer) (err error) {
	dir, remove, err := flags.folder()
	if err != nil {
		return err
	}
	defer func() {
		if err == nil || errors.Is(err, errInterrupted) {
			err = errors.Join(err, remove())
		} else if flags.dir == "" {
			err = fmt.Errorf("%w\nits data and logs are kept in %s", err, dir)
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	logging.Disable() // go-redis would tell on the screen of each store that doesn't answer
	d := &demo{flags: flags, print: newPrinter(out, cancel), tallies: map[uint64]*tally{}}
	d.print.println(fmt.Sprintf("raftmux demo: %s, %s, %s, %v; data in %s\n",
		count(flags.stores, "store"), count(flags.regions, "region"), count(flags.writers, "writer"), flags.length, dir))
	defer func() {
		if d.cluster != nil {
			d.cluster.release()
		}
	}()
	begin := time.Now()
	for try := 1; ; try++ {
		if d.cluster, err = newCluster(flags.stores, flags.regions, dir); err != nil {
			return err
		}
		if err = d.cluster.startAll(); err == nil {
			err = d.cluster.waitReady(ctx, 2*time.Minute)
		}
		if !errors.Is(err, errPortTaken) || try == startTries {
			break
		}
		// The folders hold nothing but empty regions. Begin anew elsewhere.
		d.cluster.release()
		for _, s := range d.cluster.children {
			err = errors.Join(os.RemoveAll(s.dir), os.Remove(s.logPath()))
		}
	}
	if err != nil {
		return err
	}
	d.print.println(fmt.Sprintf("all %s regions have a leader after %s\n",
		grouped(int64(flags.regions)), seconds(time.Since(begin))))
	return d.play(ctx, strconv.FormatInt(begin.UnixNano(), 36))
}

package kvstore

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"
)

// infoLines returns what INFO says, by key.
func infoLines(store *Store) map[string]string {
	lines := map[string]string{}
	for line := range strings.SplitSeq(store.info(nil), "\r\n") {
		if key, value, ok := strings.Cut(line, ":"); ok {
			lines[key] = value
		}
	}
	return lines
}

func TestTimeLeft(t *testing.T) {
	for left, want := range map[time.Duration]int64{-1: -1, 0: 0, 1: 1, time.Second: 1, time.Minute + 1: 61} {
		if got := wholeSeconds(left); got != want {
			t.Errorf("%v is %d s, want %d", left, got, want)
		}
	}
	if laterOf(2, 1) != 2 || laterOf(1, -1) != -1 || laterOf(-1, 1) != -1 {
		t.Error("the later of two times is not")
	}
}

// fillAboveBurst writes 2 MB, of which a rate limit lets 1 MiB go at once.
func fillAboveBurst(t *testing.T, store *Store) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{})
	value := make([]byte, 20_000)
	for i := range 100 {
		_, _ = random.Read(value) // or it would be compressed to nothing
		mustSet(t, store, fmt.Sprint("key", i), string(value))
	}
}

// INFO says how long a snapshot still takes, and the metrics of all that a store
// sends and receives are where Options say, until it is closed.
func TestInfoAndMetricsOfASnapshotOnItsWay(t *testing.T) {
	registry := prometheus.NewRegistry()
	c := newCluster(t, 1, Options{Regions: 1, MaxLogEntries: 20, SnapshotRate: 4 << 10, Registerer: registry})
	fillAboveBurst(t, c.stores[1])
	c.options.Registerer = nil
	c.join(2)
	<-c.stores[2].Ready()
	if _, err := c.stores[1].AddLearner(1, 2, c.peers[2]); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the time left is known", func() bool {
		left, err := strconv.Atoi(infoLines(c.stores[1])["snapshot_left_seconds_out"])
		return err == nil && left > 1
	})
	names := gather(t, registry)
	for _, want := range []string{
		"raftmux_queue_wait_seconds",
		"raftmux_received_batches_total",
		"raftmux_snapshot_transfers send",
		"raftmux_snapshot_transfers receive",
	} {
		if !names[want] {
			t.Errorf("there is no metric %s; there are %v", want, slices.Sorted(maps.Keys(names)))
		}
	}
	c.stop(1)
	if names := gather(t, registry); len(names) > 0 {
		t.Errorf("left of a closed store: %v", slices.Sorted(maps.Keys(names)))
	}
}

// gather returns the names of all metrics, each with its direction if it has one.
func gather(t *testing.T, gatherer prometheus.Gatherer) map[string]bool {
	t.Helper()
	families, err := gatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, family := range families {
		name := family.GetName()
		for _, metric := range family.GetMetric() {
			full := name
			for _, label := range metric.GetLabel() {
				if label.GetName() == "direction" {
					full += " " + label.GetValue()
				}
			}
			names[full] = true
		}
	}
	return names
}

// A replica that has nothing yet is told from one that isn't there.
func TestReplicaThatWaits(t *testing.T) {
	m := &meddler{}
	c := newCluster(t, 3, Options{Regions: 1, RequestTimeout: time.Second, wrapTransport: m.wrap})
	mustSet(t, c.stores[1], "key", "value")
	m.mu.Lock()
	m.take = func(message *raftpb.Message) bool { return message.GetType() == raftpb.MsgSnap }
	m.mu.Unlock()
	waitReady(t, c.join(4))
	if _, err := c.stores[4].Peers(1); !errors.Is(err, ErrChange) {
		t.Errorf("the peers of a region that isn't there: %v", err)
	}
	c.mustChange(1, "add a learner", func(leader *Store) error {
		_, err := leader.AddLearner(1, 4, c.peers[4])
		return err
	})
	for range 2 {
		eventually(t, 10*time.Second, "INFO says that it waits", func() bool { return infoLines(c.stores[4])["waiting"] == "1" })
		want := "region 1 waits for its first snapshot on store 4"
		if _, err := c.stores[4].Peers(1); !errors.Is(err, ErrTryAgain) || !strings.Contains(err.Error(), want) {
			t.Errorf("its peers: %v, want %q", err, want)
		}
		c.kill(4)
		c.start(4)
		waitReady(t, c.stores[4])
	}
	m.mu.Lock()
	m.take = nil
	m.mu.Unlock()
	c.waitRole(4, 1, roleLearner)
	if waiting := infoLines(c.stores[4])["waiting"]; waiting != "0" {
		t.Errorf("%s wait after the snapshot", waiting)
	}
}

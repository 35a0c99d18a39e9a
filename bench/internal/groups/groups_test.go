package groups_test

import (
	"errors"
	"testing"
	"time"

	"github.com/raftmux/raftmux/bench/internal/arm"
	"github.com/raftmux/raftmux/bench/internal/groups"
	"github.com/raftmux/raftmux/internal/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// starters are the transports that carry messages of several groups.
func starters() map[string]groups.Start {
	found := make(map[string]groups.Start)
	for _, a := range arm.All() {
		if a.Groups != nil {
			found[a.Name] = a.Groups
		}
	}
	return found
}

// run runs a plan until something was written, which it fails without.
func run(t *testing.T, plan groups.Plan, start groups.Start) groups.Outcome {
	t.Helper()
	cluster, err := groups.New(plan, start)
	if err != nil {
		t.Fatal(err)
	}
	var out groups.Outcome
	for deadline := time.Now().Add(20 * time.Second); err == nil && out.Writes == 0 && time.Now().Before(deadline); {
		out, err = cluster.Run(0, 300*time.Millisecond)
	}
	if err := errors.Join(err, cluster.Close()); err != nil {
		t.Error(err)
	}
	if out.Writes == 0 || out.P50 <= 0 || out.P99 < out.P50 || out.CPU <= 0 || out.Took <= 0 {
		t.Errorf("%+v", out)
	}
	return out
}

// Groups commit over every transport that carries them, with and without a limit.
func TestGroupsCommit(t *testing.T) {
	all := starters()
	if len(all) < 2 {
		t.Fatalf("%d transports", len(all))
	}
	for name, start := range all {
		t.Run(name, func(t *testing.T) {
			run(t, groups.Plan{Groups: 30, Size: 64, Writers: 2}, start)
			run(t, groups.Plan{Groups: 30, Size: 1 << 10, Writers: 1, LinkRate: 2 << 20}, start)
		})
	}
}

// A link carries no more than it may: each write goes to one other store at least.
func TestLinksHaveALimit(t *testing.T) {
	const size, rate, ways = 8 << 10, 1 << 20, 6
	for name, start := range starters() {
		t.Run(name, func(t *testing.T) {
			cluster, err := groups.New(groups.Plan{Groups: 30, Size: size, Writers: 2, LinkRate: rate}, start)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			out, err := cluster.Run(0, time.Second)
			took := time.Since(began)
			if err := errors.Join(err, cluster.Close()); err != nil {
				t.Fatal(err)
			}
			if bytes, most := float64(out.Writes)*size, ways*rate*(took.Seconds()+0.1); bytes > most {
				t.Errorf("%.0f bytes were committed over links that carry %.0f", bytes, most)
			}
		})
	}
}

func TestWhatCanNotBeRun(t *testing.T) {
	broken := errors.New("it is broken")
	start := starters()["usual converted"]
	for what, begin := range map[string]func() (*groups.Cluster, error){
		"no groups":    func() (*groups.Cluster, error) { return groups.New(groups.Plan{Size: 8, Writers: 1}, start) },
		"no writers":   func() (*groups.Cluster, error) { return groups.New(groups.Plan{Groups: 1, Size: 8}, start) },
		"small writes": func() (*groups.Cluster, error) { return groups.New(groups.Plan{Groups: 1, Size: 7, Writers: 1}, start) },
		"a negative rate": func() (*groups.Cluster, error) {
			return groups.New(groups.Plan{Groups: 1, Size: 8, Writers: 1, LinkRate: -1}, start)
		},
		"a transport that doesn't start": func() (*groups.Cluster, error) {
			return groups.New(groups.Plan{Groups: 1, Size: 8, Writers: 1}, func(store uint64, host groups.Host) (groups.Transport, error) {
				if store == 3 {
					return nil, broken
				}
				return start(store, host)
			})
		},
	} {
		if _, err := begin(); err == nil {
			t.Errorf("no error: %s", what)
		}
	}
}

package report

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// C8, C9, C10, C11: after any series of reports to a host that refuses at
// random: each status was taken exactly once or is untaken, in its peer's order;
// each unreachable peer was taken after its last report or is untaken; each
// store's last edge is the newest, and its down edges were not lost.
func TestC9Property(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Without the wrapping rapid would ask for t.Deadline, which a bubble forbids.
		rapid.Check(struct{ rapid.TB }{t}, property)
	})
}

func property(t *rapid.T) {
	h := new(host)
	refusals := rapid.IntRange(0, 10).Draw(t, "refusals of 10")
	seed := rapid.Uint64().Draw(t, "seed")
	h.refuses(func(string) bool {
		seed = seed*6364136223846793005 + 1442695040888963407
		return int(seed>>33)%10 < refusals
	})
	r := New(h)
	defer r.Close()

	statuses := make(map[Peer][]string)        // in order, of each peer
	reported := make(map[Peer]int)             // index into the host's calls at the last report
	edges := make(map[uint64]int)              // likewise of the last down edge of each store
	newest := make(map[uint64]string)          // edge of each store
	calls := func() int { return len(h.took) } // while nothing moves
	id := rapid.Uint64Range(1, 3)
	for range rapid.IntRange(0, 40).Draw(t, "steps") {
		p := peer(id.Draw(t, "region"), id.Draw(t, "peer"))
		switch rapid.IntRange(0, 6).Draw(t, "step") {
		case 0, 1:
			outcome := Outcome{p, rapid.SampledFrom([]SnapshotStatus{SnapshotFinish, SnapshotFailure}).Draw(t, "status")}
			statuses[p] = append(statuses[p], fmt.Sprintf("%v %d/%d", outcome.Status, p.RegionID, p.PeerID))
			r.Snapshot(outcome)
		case 2:
			synctest.Wait()
			reported[p] = calls()
			r.Unreachable([]Peer{p})
		case 3:
			synctest.Wait()
			edges[p.RegionID] = calls()
			newest[p.RegionID] = "down"
			r.StoreUnreachable(p.RegionID)
		case 4:
			newest[p.RegionID] = "up"
			r.StoreUp(p.RegionID)
		case 5:
			synctest.Wait()
		case 6:
			time.Sleep(time.Duration(rapid.IntRange(1, 40).Draw(t, "ms")) * time.Millisecond)
		}
	}
	if rapid.Bool().Draw(t, "willing in the end") {
		synctest.Wait()
		h.refuses(nil)
	}
	var untaken UntakenError
	if err := r.Close(); err != nil {
		untaken = *err.(*UntakenError)
		if !errors.Is(err, r.Close()) {
			t.Fatalf("another close answers %v", r.Close())
		}
	}

	for p, want := range statuses {
		got := ofPeer(h.took, p)
		for _, outcome := range untaken.Snapshots {
			if outcome.Peer == p {
				got = append(got, fmt.Sprintf("%v %d/%d", outcome.Status, p.RegionID, p.PeerID))
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("statuses %q, not %q", got, want)
		}
	}
	for p, since := range reported {
		call := fmt.Sprintf("unreachable %d/%d", p.RegionID, p.PeerID)
		n := 0
		for _, other := range untaken.Unreachable {
			if other == p {
				n++
			}
		}
		if taken := slices.Contains(h.took[since:], call); n > 1 || taken == (n == 1) {
			t.Fatalf("%s: taken %v, untaken %d times", call, taken, n)
		}
	}
	if h.refuse != nil {
		return // a host that refuses to the end may not have heard of all edges
	}
	for store, since := range edges {
		if call := fmt.Sprintf("down %d", store); !slices.Contains(h.took[since:], call) {
			t.Fatalf("%s is lost", call)
		}
	}
	for store, edge := range newest {
		var last string
		for _, call := range h.took {
			if strings.HasSuffix(call, fmt.Sprintf(" %d", store)) {
				last, _, _ = strings.Cut(call, " ")
			}
		}
		if last != edge {
			t.Fatalf("store %d: the host heard %s last, not %s", store, last, edge)
		}
	}
}

// ofPeer returns the statuses of a peer among calls.
func ofPeer(calls []string, p Peer) (statuses []string) {
	for _, call := range calls {
		if strings.HasSuffix(call, fmt.Sprintf(" %d/%d", p.RegionID, p.PeerID)) && !strings.HasPrefix(call, "unreachable") {
			statuses = append(statuses, call)
		}
	}
	return statuses
}

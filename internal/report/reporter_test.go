package report

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// C9: every snapshot has exactly one status, in the order in which they came.
func TestC9OneStatusEach(t *testing.T) {
	bubble(t, func(t *testing.T, r *Reporter, h *host) {
		r.Snapshot(finish(1, 2))
		r.Snapshot(failure(1, 2))
		r.Snapshot(failure(3, 4))
		r.Snapshot(failure(1, 2)) // another snapshot with the same end
		h.expect(t, "finish 1/2", "failure 1/2", "failure 3/4", "failure 1/2")
		time.Sleep(time.Minute)
		h.expect(t)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		h.expect(t)
	})
}

// C9: a host that says "not now" is asked again, as often as it says so, and
// then no more.
func TestC9AskedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *Reporter, h *host) {
		h.refuses(refuseAll)
		r.Snapshot(finish(1, 2))
		for range 5 {
			h.expect(t)
			retry()
		}
		h.refuses(nil)
		retry()
		h.expect(t, "finish 1/2")
		time.Sleep(time.Minute)
		h.expect(t)
	})
}

// C9: the statuses of one peer keep their order though the host refuses some of
// them; those of others don't wait.
func TestC9OrderPerPeer(t *testing.T) {
	bubble(t, func(t *testing.T, r *Reporter, h *host) {
		h.refuses(func(call string) bool { return call == "failure 1/2" })
		r.Snapshot(failure(1, 2))
		r.Snapshot(finish(1, 2))
		r.Snapshot(finish(1, 3))
		r.Snapshot(finish(2, 2))
		h.expect(t, "finish 1/3", "finish 2/2")
		r.Snapshot(finish(1, 2))
		r.Snapshot(finish(3, 3))
		retry()
		h.expect(t, "finish 3/3")
		h.refuses(nil)
		retry()
		h.expect(t, "failure 1/2", "finish 1/2", "finish 1/2")
	})
}

// C8: a peer is reported once while the report waits, and again afterwards.
func TestC8UnreachableOncePending(t *testing.T) {
	bubble(t, func(t *testing.T, r *Reporter, h *host) {
		h.refuses(refuseAll)
		r.Unreachable([]Peer{peer(1, 2), peer(1, 3), peer(1, 2)})
		synctest.Wait()
		h.take()
		r.Unreachable([]Peer{peer(1, 2)})
		r.Unreachable([]Peer{peer(4, 4), peer(1, 2)})
		synctest.Wait()
		h.refuses(nil)
		retry()
		h.expect(t, "unreachable 1/2", "unreachable 1/3", "unreachable 4/4")
		r.Unreachable([]Peer{peer(1, 2), peer(1, 2)})
		r.Unreachable([]Peer{peer(1, 2)})
		h.expect(t, "unreachable 1/2")
	})
}

// C8: a peer whose report the host is taking just now is reported again, for
// what was dropped meanwhile.
func TestC8DroppedWhileReporting(t *testing.T) {
	bubble(t, func(t *testing.T, r *Reporter, h *host) {
		first := true
		h.refuses(func(string) bool {
			if first {
				first = false
				r.Unreachable([]Peer{peer(1, 2)})
			}
			return false
		})
		r.Unreachable([]Peer{peer(1, 2)})
		h.expect(t, "unreachable 1/2", "unreachable 1/2")
	})
}

// C8, C9, C10: who refuses holds up nobody else, of any kind.
func TestC8RefusedRegionHoldsUpNobody(t *testing.T) {
	bubble(t, func(t *testing.T, r *Reporter, h *host) {
		h.refuses(func(call string) bool { return strings.Contains(call, " 1") })
		for id := uint64(1); id <= 3; id++ {
			r.Unreachable([]Peer{peer(id, 7)})
			r.Snapshot(finish(id, 7))
			r.StoreUnreachable(id)
		}
		synctest.Wait()
		took, _ := h.take()
		slices.Sort(took)
		want := []string{"down 2", "down 3", "finish 2/7", "finish 3/7", "unreachable 2/7", "unreachable 3/7"}
		if !slices.Equal(took, want) {
			t.Errorf("the host took %q", took)
		}
		h.refuses(nil)
		retry()
		h.expect(t, "down 1", "finish 1/7", "unreachable 1/7")
	})
}

// C8: a busy host is asked again at the interval, however much new comes in: its
// work grows with what there is to tell, not with its square.
func TestC8BusyHostIsNotFlooded(t *testing.T) {
	bubble(t, func(t *testing.T, r *Reporter, h *host) {
		h.refuses(refuseAll)
		const peers = 100
		for id := range uint64(peers) {
			r.Unreachable([]Peer{peer(id, 1)})
			r.Snapshot(finish(id, 1))
			r.StoreUnreachable(id)
			synctest.Wait()
		}
		if _, asked := h.take(); len(asked) != 3*peers {
			t.Errorf("asked %d times", len(asked))
		}
		// Nor do new reports keep putting off the next try.
		for id := range uint64(30) {
			time.Sleep(retryInterval / 10)
			r.Snapshot(failure(1000+id, 1))
		}
		synctest.Wait()
		if _, asked := h.take(); len(asked) < 2*3*peers || len(asked) > 3*3*peers+3*30 {
			t.Errorf("asked %d times in 3 intervals", len(asked))
		}
	})
}

// C10: edges of a store that the host has not heard of collapse: the last one is
// the newest, a down edge is never lost, and after a refused one the later wait.
func TestC10Edges(t *testing.T) {
	for edges, want := range map[string]string{
		"down":                  "down",
		"down down":             "down",
		"up up":                 "up",
		"up down":               "up down",
		"down up":               "down up",
		"down up down":          "down",
		"up down up":            "down up",
		"down up down up":       "down up",
		"up down up down":       "down",
		"up down down up up":    "down up",
		"down up down up down":  "down",
		"up down up down up up": "down up",
	} {
		t.Run(edges, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *Reporter, h *host) {
				h.refuses(func(call string) bool { return strings.HasSuffix(call, " 1") })
				for i, e := range strings.Fields(edges) {
					if e == "up" {
						r.StoreUp(1)
					} else {
						r.StoreUnreachable(1)
					}
					if i%2 == 0 {
						synctest.Wait() // ask the host in between
					}
				}
				r.StoreUp(2)
				h.expect(t, "up 2")
				h.refuses(nil)
				retry()
				var all []string
				for _, e := range strings.Fields(want) {
					all = append(all, e+" 1")
				}
				h.expect(t, all...)
			})
		})
	}
}

// C10: what the host has heard of doesn't collapse with what comes later.
func TestC10EdgesHeard(t *testing.T) {
	bubble(t, func(t *testing.T, r *Reporter, h *host) {
		for range 2 {
			r.StoreUnreachable(1)
			h.expect(t, "down 1")
			r.StoreUp(1)
			h.expect(t, "up 1")
		}
		r.StoreUp(1)
		h.expect(t, "up 1")
	})
}

func TestSnapshotStatus(t *testing.T) {
	if s := fmt.Sprint(SnapshotFinish, SnapshotFailure, SnapshotStatus(0)); s != "finish failure unknown" {
		t.Error(s)
	}
}

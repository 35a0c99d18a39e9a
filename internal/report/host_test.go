package report

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// host records what it is asked, and refuses what a test says.
type host struct {
	mu     sync.Mutex
	refuse func(call string) bool // nil refuses nothing
	asked  []string               // every call
	took   []string               // those that were not refused
}

func (h *host) answer(format string, args ...any) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	call := fmt.Sprintf(format, args...)
	h.asked = append(h.asked, call)
	if h.refuse != nil && h.refuse(call) {
		return false
	}
	h.took = append(h.took, call)
	return true
}

func (h *host) ReportUnreachable(regionID, peerID uint64) bool {
	return h.answer("unreachable %d/%d", regionID, peerID)
}

func (h *host) ReportSnapshotStatus(regionID, peerID uint64, status SnapshotStatus) bool {
	return h.answer("%v %d/%d", status, regionID, peerID)
}

func (h *host) StoreUnreachable(storeID uint64) bool { return h.answer("down %d", storeID) }

func (h *host) StoreUp(storeID uint64) bool { return h.answer("up %d", storeID) }

// refuses changes what is refused.
func (h *host) refuses(refuse func(call string) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refuse = refuse
}

func refuseAll(string) bool { return true }

// take returns what the host took, and what it was asked, since the last call.
func (h *host) take() (took, asked []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	took, asked = h.took, h.asked
	h.took, h.asked = nil, nil
	return took, asked
}

// expect waits until nothing moves any more and compares what the host took.
func (h *host) expect(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if took, _ := h.take(); !slices.Equal(took, want) {
		t.Errorf("the host took %q, not %q", took, want)
	}
}

// bubble runs a test with a reporter and its host. Time stands still unless the
// test sleeps.
func bubble(t *testing.T, test func(t *testing.T, r *Reporter, h *host)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := new(host)
		r := New(h)
		defer r.Close() // again, in most tests
		test(t, r, h)
	})
}

func retry() { time.Sleep(retryInterval) }

func peer(regionID, peerID uint64) Peer { return Peer{RegionID: regionID, PeerID: peerID} }

func finish(regionID, peerID uint64) Outcome { return Outcome{peer(regionID, peerID), SnapshotFinish} }

func failure(regionID, peerID uint64) Outcome {
	return Outcome{peer(regionID, peerID), SnapshotFailure}
}

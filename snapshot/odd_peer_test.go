package snapshot_test

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/snapshot"
)

// C9: a store that allows no stream for now is one that can't be reached, however large
// the snapshot: its transfer doesn't wait for as long as all of it may take.
func TestC9NoStreamAllowed(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	peer := rig.NewOddPeer(t, rig.Silent, http2.Setting{ID: http2.SettingMaxConcurrentStreams})
	s := newSender(t, memory{1: random(1, size)}, func(o *snapshot.SenderOptions) {
		o.ConnectTimeout, o.MinRate = 200*time.Millisecond, 1<<10 // it may take an hour
	})
	done := make(chan error, 1)
	go func() { done <- s.SendSnapshot(t.Context(), peer.Addr, message(1, size)) }()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "no stream within 200ms") {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(rig.WaitTimeout):
		t.Error("it still waits for a stream")
	}
}

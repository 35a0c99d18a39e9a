package queue

import (
	"testing"
	"testing/synctest"
	"time"
)

// A batch says why it holds no more, and how long its first message has waited;
// the ledger says how old the oldest is that still waits.
func TestBatchSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, _ := newQueue(1000, 1<<20)
		s := q.NewStage()
		for range 10 {
			if err := s.Push(Message{RegionID: 1, PeerID: 1, Size: 1000}, zeros(1000)); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		s.Flush()
		time.Sleep(3 * time.Second)
		for _, step := range []struct {
			limits Limits
			want   Cut
			left   uint64
		}{
			{Limits{Messages: 3, Bytes: 1 << 20, Age: time.Hour}, CutMessages, 7},
			{Limits{Messages: 128, Bytes: 2500, Age: time.Hour}, CutBytes, 5},
			{limits, CutDrained, 0},
		} {
			batch, _ := q.Take(step.limits)
			if batch.Cut != step.want || batch.Waited != 3*time.Second {
				t.Errorf("cut for %v, after %v, want %v after 3s", batch.Cut, batch.Waited, step.want)
			}
			ledger := balanced(t, q)
			if ledger.Queued != step.left || (step.left > 0 && !ledger.Oldest.Equal(began)) || (step.left == 0 && !ledger.Oldest.IsZero()) {
				t.Errorf("%d are left, the oldest since %v", ledger.Queued, ledger.Oldest)
			}
			batch.Buffers.Free()
		}
	})
}

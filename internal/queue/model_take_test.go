package queue

import (
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/raftmux/raftmux/internal/wire"
)

func batchFrame(size int) int { return wire.FrameSize(size) }

// takeBatch takes a batch and compares it with the model: which messages may
// have expired, which may be sent, and in what order.
func (m *model) takeBatch(t *rapid.T, cut Limits) bool {
	batch, ok := m.queue.Take(cut)
	now := time.Now()
	for _, number := range m.reported(t, ReasonExpired) {
		// It is as old as the flush it came with, give or take the milliseconds
		// that ages are rounded by.
		if gone := m.remove(t, number); now.Sub(gone.oldest) < cut.Age-2*time.Millisecond {
			t.Fatalf("message %d expired after %v", number, now.Sub(gone.oldest))
		}
	}
	if !ok {
		m.nothingLeft(t)
		return false
	}
	bytes := 0
	for i, message := range decode(t, batch, cut.Bare) {
		number := message.ToPeer.Id
		first := slices.IndexFunc(m.live, func(other modelMessage) bool { return other.stage == message.RegionId })
		if first < 0 || m.live[first].number != number {
			t.Fatalf("message %d of stage %d is not its first", number, message.RegionId)
		}
		s := m.stages[message.RegionId]
		if slices.Contains(s.staged, number) && s.frames <= smallChunk {
			t.Fatalf("message %d leaves before the flush", number)
		}
		taken := m.remove(t, number)
		if now.Sub(taken.pushed) > cut.Age {
			t.Fatalf("message %d is sent after %v", number, now.Sub(taken.pushed))
		}
		m.sent++
		bytes += taken.frame
		if cut.Bare && i > 0 || i >= cut.Messages {
			t.Fatalf("%d messages", i+1)
		}
		if !cut.Bare && i > 0 && bytes+wire.MaxObservedTimeSize > cut.Bytes {
			t.Fatalf("a batch of %d messages and %d bytes", i+1, bytes)
		}
	}
	return true
}

// nothingLeft checks that all that was flushed is gone.
func (m *model) nothingLeft(t *rapid.T) {
	for _, message := range m.live {
		if !slices.Contains(m.stages[message.stage].staged, message.number) {
			t.Fatalf("message %d was flushed and waits", message.number)
		}
	}
}

package snapshot_test

import (
	"context"
	"errors"
	"testing"
)

// What has come of a destroyed region's snapshot is discarded, also if its sender
// was gone before and the sink is still at the last of it.
func TestCancelDiscardsWhatHasBrokenOff(t *testing.T) {
	t.Parallel()
	into, began, release := held()
	defer release()
	receiving := make(chan context.Context, 1)
	into.create = func(ctx context.Context) error {
		receiving <- ctx
		return nil
	}
	s := newStore(t, withSink(into))
	const size = 3 << 20
	sender := newSender(t, memory{7: random(1, size)})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- sender.SendSnapshot(ctx, s.address, message(7, size)) }()
	<-began
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	<-(<-receiving).Done() // the store has noticed
	if n := s.Cancel(7); n != 1 {
		t.Errorf("%d are under way", n)
	}
	release()
	s.quiet(t)
	if !into.idle() {
		t.Error("what has come is kept")
	}
}

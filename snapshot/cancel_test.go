package snapshot_test

import (
	"context"
	"errors"
	"testing"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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

// A transfer that was cancelled while its last bytes were written is not committed,
// though all of it has come.
func TestCancelledIsNotCommitted(t *testing.T) {
	t.Parallel()
	for range 10 { // gRPC tells of the rest, or of the end, as it happens
		into, began, release := held()
		s := newStore(t, withSink(into))
		result := make(chan error, 1)
		go func() { result <- sendChunks(t, s.address, nil, chunksOf(7)...) }()
		<-began
		s.Cancel(7)
		if err := <-result; status.Code(err) != codes.Aborted {
			t.Errorf("ended with %v", err)
		}
		release()
		s.quiet(t)
		if len(into.of(7)) > 0 || !into.idle() {
			t.Fatal("it was committed, or is kept")
		}
	}
}

// chunksOf returns a small snapshot of a region, as a TiKV sends it.
func chunksOf(region uint64) []*raft_serverpb.SnapshotChunk {
	return []*raft_serverpb.SnapshotChunk{{Message: message(region, 1000)}, {Data: random(region, 1000)}}
}

package snapshot

import (
	"context"
	"errors"
	"io"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

// Inline is a Source and a Sink for hosts whose snapshots are small enough to be in
// their messages, as Snapshot.Data: nothing travels beside these. A message may have
// up to raftmux.MaxSnapshotMessageSize bytes.
type Inline struct {
	// Deliver hands the host a message, to be stepped into Raft; the message is the
	// host's. If it fails the sender is told that the snapshot failed. It is called by
	// several goroutines at once. The ctx ends if the sender goes away. Mandatory for
	// a Sink.
	Deliver func(ctx context.Context, message *raft_serverpb.RaftMessage) error
}

// OpenSnapshot implements Source.
func (Inline) OpenSnapshot(context.Context, *raft_serverpb.RaftMessage) (Data, error) {
	return noData{}, nil
}

// CreateSnapshot implements Sink.
func (i Inline) CreateSnapshot(_ context.Context, message *raft_serverpb.RaftMessage) (Writer, error) {
	if i.Deliver == nil {
		return nil, &OptionError{Field: "Deliver", Problem: "is mandatory for a Sink"}
	}
	return &inlineWriter{deliver: i.Deliver, message: message}, nil
}

type noData struct{}

func (noData) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
func (noData) Size() int64                       { return 0 }
func (noData) Close() error                      { return nil }

var errBeside = errors.New("snapshot: data came beside a message that is to have all of it")

type inlineWriter struct {
	deliver func(ctx context.Context, message *raft_serverpb.RaftMessage) error
	message *raft_serverpb.RaftMessage
}

// Write implements Writer.
func (*inlineWriter) Write(data []byte) (int, error) {
	if len(data) > 0 {
		return 0, errBeside
	}
	return 0, nil
}

// Commit implements Writer.
func (w *inlineWriter) Commit(ctx context.Context) error { return w.deliver(ctx, w.message) }

// Discard implements Writer.
func (*inlineWriter) Discard() error { return nil }

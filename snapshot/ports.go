package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

// Source is where a host keeps the data of the snapshots that it sends. It must
// be safe for concurrent use.
type Source interface {
	// OpenSnapshot opens the data that belongs to a snapshot message. It is closed
	// once, when the transfer has ended, however it ended. The ctx ends when the
	// transfer is cancelled or has taken too long. The message is only lent.
	OpenSnapshot(ctx context.Context, message *raft_serverpb.RaftMessage) (Data, error)
}

// Data is the data of one snapshot. It doesn't change while it is open.
type Data interface {
	io.ReaderAt
	io.Closer
	// Size returns the number of bytes. If the message names a file_size (in its
	// RaftSnapshotData, which names the region, too), that must be the same.
	Size() int64
}

// FileSource is a Source of files. It returns the path of the file with the data
// of a message.
type FileSource func(ctx context.Context, message *raft_serverpb.RaftMessage) (path string, err error)

// OpenSnapshot implements Source.
func (f FileSource) OpenSnapshot(ctx context.Context, message *raft_serverpb.RaftMessage) (Data, error) {
	path, err := f(ctx, message)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	stat, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if !stat.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s is not a file", path), file.Close())
	}
	return fileData{file, stat.Size()}, nil
}

type fileData struct {
	*os.File
	size int64
}

func (d fileData) Size() int64 { return d.size }

// Sink is where a host puts the snapshots that it receives; FileStore is one. It
// must be safe for concurrent use.
type Sink interface {
	// CreateSnapshot begins to take the snapshot of a message, which is the
	// callee's to keep. ErrHave says that the host has all of that snapshot
	// already and has dealt with the message; the sender is then answered as if
	// it had just come. The context is that of the call, not of the Writer.
	CreateSnapshot(ctx context.Context, message *raft_serverpb.RaftMessage) (Writer, error)
}

// Writer takes the data of one snapshot, in order. It is used by one goroutine at
// a time, and ends with exactly one call of Commit or Discard.
type Writer interface {
	// Write takes the next bytes, all of them or with an error. They are only lent.
	io.Writer
	// Commit is called when all data has come and was verified. When it returns
	// nil the snapshot is the host's: durable, and the message on its way to Raft;
	// only then the sender is told that it has arrived. When it returns an error
	// nothing of it is left.
	Commit(ctx context.Context) error
	// Discard removes what was written.
	Discard() error
}

// ErrHave is what a Sink answers if the host has a snapshot already.
var ErrHave = errors.New("snapshot: the host has it already")

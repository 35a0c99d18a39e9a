package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"sync"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux/snapshot"
)

// sink is a Sink in memory, with switches.
type sink struct {
	room    int   // bytes that a Writer takes; 0 is without a limit
	failing error // what Commit fails with
	// create and write are called first, if they are set.
	create func(ctx context.Context) error
	write  func()

	mu        sync.Mutex
	committed map[uint64][][]byte // by region
	open      int                 // Writers
	most      int                 // of them, ever
}

func (s *sink) CreateSnapshot(ctx context.Context, m *raft_serverpb.RaftMessage) (snapshot.Writer, error) {
	s.mu.Lock()
	s.open++
	s.most = max(s.most, s.open)
	s.mu.Unlock()
	if s.create != nil {
		if err := s.create(ctx); err != nil {
			return nil, errors.Join(err, s.ended())
		}
	}
	return &writer{sink: s, region: m.GetRegionId()}, nil
}

func (s *sink) ended() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	return nil
}

type writer struct {
	bytes.Buffer
	sink   *sink
	region uint64
	over   bool
}

var errNoSpace = errors.New("no space left on device")

func (w *writer) Write(b []byte) (int, error) {
	if w.sink.write != nil {
		w.sink.write()
	}
	if room := w.sink.room; room > 0 && w.Len()+len(b) > room {
		return 0, errNoSpace
	}
	return w.Buffer.Write(b)
}

func (w *writer) Commit(context.Context) error {
	defer w.end("Commit")
	if w.sink.failing != nil {
		return w.sink.failing
	}
	w.sink.mu.Lock()
	defer w.sink.mu.Unlock()
	if w.sink.committed == nil {
		w.sink.committed = make(map[uint64][][]byte)
	}
	w.sink.committed[w.region] = append(w.sink.committed[w.region], w.Bytes())
	return nil
}

func (w *writer) Discard() error {
	w.end("Discard")
	return nil
}

// end checks that a Writer ends once.
func (w *writer) end(how string) {
	if w.over {
		panic(how + " of a Writer that had ended")
	}
	w.over = true
	_ = w.sink.ended()
}

// of returns what was committed for a region.
func (s *sink) of(region uint64) [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.committed[region]
}

// idle says whether all Writers have ended.
func (s *sink) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open == 0
}

func withSink(s snapshot.Sink) func(*snapshot.ReceiverOptions) {
	return func(o *snapshot.ReceiverOptions) { o.Sink = s }
}

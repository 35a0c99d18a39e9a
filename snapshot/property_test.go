package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"pgregory.net/rapid"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/snapshot"
)

// faulty is a Source and a Sink whose next snapshot goes wrong at a byte.
type faulty struct {
	sink
	data []byte

	mu          sync.Mutex
	readFails   int // -1 is never
	writeFails  int
	createFails bool
	commitFails bool
	atByte      int    // where act is called, when that much was written
	act         func() // cancels, say
	written     int
}

func (f *faulty) OpenSnapshot(context.Context, *raft_serverpb.RaftMessage) (snapshot.Data, error) {
	return faultyData{f}, nil
}

type faultyData struct{ *faulty }

func (d faultyData) Size() int64  { return int64(len(d.data)) }
func (d faultyData) Close() error { return nil }
func (d faultyData) ReadAt(b []byte, offset int64) (int, error) {
	d.mu.Lock()
	fails := d.readFails
	d.mu.Unlock()
	if fails >= 0 && offset+int64(len(b)) > int64(fails) {
		return 0, io.ErrUnexpectedEOF
	}
	return bytes.NewReader(d.data).ReadAt(b, offset)
}

func (f *faulty) CreateSnapshot(ctx context.Context, m *raft_serverpb.RaftMessage) (snapshot.Writer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.createFails {
		return nil, errNoSpace
	}
	w, err := f.sink.CreateSnapshot(ctx, m)
	return &faultyWriter{w.(*writer), f}, err
}

type faultyWriter struct {
	*writer
	faulty *faulty
}

func (w *faultyWriter) Write(b []byte) (int, error) {
	f := w.faulty
	f.mu.Lock()
	f.written += len(b)
	fails := f.writeFails >= 0 && w.Len()+len(b) > f.writeFails
	act := f.act
	if act != nil && f.written >= f.atByte {
		f.act = nil
	} else {
		act = nil
	}
	f.mu.Unlock()
	if act != nil {
		act()
	}
	if fails {
		return 0, errNoSpace
	}
	return w.writer.Write(b)
}

func (w *faultyWriter) Commit(ctx context.Context) error {
	w.faulty.mu.Lock()
	fails := w.faulty.commitFails
	w.faulty.mu.Unlock()
	if fails {
		return errors.Join(errNoSpace, w.Discard())
	}
	return w.writer.Commit(ctx)
}

// C9: whatever goes wrong, in any order, each attempt has exactly one status; what
// is surfaced has all the bytes, and a Finish means that it was surfaced.
func TestC9AnyFaults(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.SampledFrom([]int{0, 1, 70_000, 1 << 20, 1<<20 + 1, 2<<20 + 500}).Draw(rt, "size")
		f := &faulty{data: random(7, size), readFails: -1, writeFails: -1}
		s := newStore(t, withSink(f), func(o *snapshot.ReceiverOptions) {
			o.MaxPartials = rapid.SampledFrom([]int{-1, 1}).Draw(rt, "partials")
		})
		proxy := rig.NewProxy(t, s.address)
		l := newLeader(t, proxy.Addr(), f)
		anywhere := rapid.IntRange(0, size+1)
		surfaced := 0
		for range rapid.IntRange(1, 4).Draw(rt, "attempts") {
			fault := rapid.SampledFrom([]string{
				"none", "cut", "cut", "cut", "read", "write", "create", "commit", "cancel", "cancel receiver", "proxy",
			}).Draw(rt, "fault")
			at := anywhere.Draw(rt, "at")
			f.mu.Lock()
			f.readFails, f.writeFails, f.createFails, f.commitFails, f.act, f.written, f.atByte = -1, -1, false, false, nil, 0, at
			switch fault {
			case "read":
				f.readFails = at
			case "write":
				f.writeFails = at
			case "create":
				f.createFails = true
			case "commit":
				f.commitFails = true
			case "cancel":
				f.act = func() { l.sender.Cancel(7) }
			case "cancel receiver":
				f.act = func() { s.Cancel(7) }
			case "proxy":
				f.act = proxy.Cut
			}
			f.mu.Unlock()
			proxy.CutAfter(-1)
			if fault == "cut" {
				proxy.CutAfter(int64(at) + 1)
			}
			l.send(7, size)
			status := l.wait(7)
			s.quiet(rt)
			have := f.of(7)
			for _, b := range have {
				if !bytes.Equal(b, f.data) {
					rt.Fatalf("%s: other bytes were surfaced", fault)
				}
			}
			if status == raftmux.SnapshotFinish && len(have) != surfaced+1 {
				rt.Fatalf("%s: Finish, and %d were surfaced, after %d", fault, len(have), surfaced)
			}
			if fault == "none" && status != raftmux.SnapshotFinish || fault == "commit" && status == raftmux.SnapshotFinish {
				rt.Fatalf("%s: %v", fault, status)
			}
			if fault == "commit" && len(have) != surfaced {
				rt.Fatal("a commit that failed was surfaced")
			}
			surfaced = len(have)
		}
		l.close()
		s.Close()
		if !f.idle() {
			rt.Fatal("a Writer has not ended")
		}
	})
}

package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/internal/wire"
	"github.com/raftmux/raftmux/snapshot"
)

// C9: a receiver that fails when all the data has come is a Failure, never a Finish.
func TestC9FailsAfterLastChunk(t *testing.T) {
	t.Parallel()
	const size = 3 << 20
	for name, s := range map[string]*sink{
		"no room for the last chunk": {room: size - 1},
		"no room at commit":          {failing: errNoSpace},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			receiver := newStore(t, withSink(s))
			l := newLeader(t, receiver.address, memory{7: random(1, size)})
			l.send(7, size)
			if status := l.wait(7); status != raftmux.SnapshotFailure {
				t.Errorf("ended in %v", status)
			}
			err := l.sender.SendSnapshot(context.Background(), receiver.address, message(7, size))
			if status.Code(errors.Unwrap(err)) != codes.Internal || !strings.Contains(err.Error(), errNoSpace.Error()) {
				t.Errorf("the sender was told %v", err)
			}
			rig.Eventually(t, rig.WaitTimeout, s.idle, "all is discarded")
			if len(s.of(7)) > 0 {
				t.Error("it was committed")
			}
		})
	}
	t.Run("host refuses", func(t *testing.T) {
		t.Parallel()
		s := newStore(t)
		s.host.refuse = errors.New("the region is gone")
		l := newLeader(t, s.address, memory{7: random(1, size)})
		l.send(7, size)
		if status := l.wait(7); status != raftmux.SnapshotFailure {
			t.Errorf("ended in %v", status)
		}
		if left := s.files(t, ""); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// Damaged data is found by its checksum, whatever is damaged, and what was good
// before it is kept.
func TestChecksum(t *testing.T) {
	t.Parallel()
	table := crc32.MakeTable(crc32.Castagnoli)
	whole := random(1, 3000)
	for name, test := range map[string]struct {
		damage func(chunk int, data []byte, offset *int64, sum *uint32)
		text   string
	}{
		"first": {func(i int, data []byte, _ *int64, _ *uint32) { data[0] ^= 1 - byte(min(i, 1)) }, "bytes from 0 on"},
		"last": {func(i int, data []byte, _ *int64, _ *uint32) {
			if i == 2 {
				data[999] ^= 128
			}
		}, "bytes from 2000 on"},
		"sum":    {func(_ int, _ []byte, _ *int64, sum *uint32) { *sum++ }, "wrong checksum"},
		"offset": {func(i int, _ []byte, offset *int64, _ *uint32) { *offset += int64(i) }, "a chunk for byte 1001 came at byte 1000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			chunks := []*raft_serverpb.SnapshotChunk{{Message: message(7, 3000)}}
			sum := uint32(0)
			for i := range 3 {
				data := bytes.Clone(whole[1000*i : 1000*(i+1)])
				sum = crc32.Update(sum, table, data)
				offset, sent := int64(1000*i), sum
				test.damage(i, data, &offset, &sent)
				encoded := append(wire.AppendSnapshotData(nil, len(data), offset, sent), data...)
				chunks = append(chunks, &raft_serverpb.SnapshotChunk{XXX_unrecognized: encoded})
			}
			err := sendChunks(t, s.address, map[string]string{"raftmux-snapshot-size": "3000"}, chunks...)
			if err == nil || !strings.Contains(err.Error(), test.text) {
				t.Errorf("ended with %v", err)
			}
			s.quiet(t)
			if len(s.host.of(7)) > 0 || len(s.files(t, ".snap")) > 0 {
				t.Error("it was surfaced")
			}
			sender := newSender(t, memory{7: whole})
			if err := sender.SendSnapshot(context.Background(), s.address, message(7, 3000)); err != nil {
				t.Error(err)
			}
			s.expect(t, 7, whole)
		})
	}
}

// C9: data that the network has changed, in the last chunk, is a Failure at the
// sender, never a Finish; and the next attempt sends only what wasn't good.
func TestC9DamagedOnTheWay(t *testing.T) {
	t.Parallel()
	const size = 3 << 20
	whole := random(1, size)
	copy(whole[size-4096:], bytes.Repeat([]byte{0xaa}, 4096))
	s := newStore(t)
	damages := new(atomic.Int64)
	damages.Store(1)
	l := newLeader(t, s.address, memory{7: whole, 8: whole}, func(o *snapshot.SenderOptions) {
		o.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
			return damaging{conn, damages}, err
		}
	})
	l.send(7, size)
	if status := l.wait(7); status != raftmux.SnapshotFailure {
		t.Errorf("ended in %v", status)
	}
	s.quiet(t)
	if damages.Load() != 0 || len(s.host.of(7)) > 0 {
		t.Errorf("%d damages left to do, %d surfaced", damages.Load(), len(s.host.of(7)))
	}
	l.send(7, size)
	if status := l.wait(7); status != raftmux.SnapshotFinish {
		t.Errorf("then ended in %v", status)
	}
	s.expect(t, 7, whole)
	damages.Store(1)
	err := l.sender.SendSnapshot(context.Background(), s.address, message(8, size))
	if status.Code(errors.Unwrap(err)) != codes.DataLoss || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("the sender was told %v", err)
	}
}

// damaging flips a bit in what is written, as often as is left to do, where it
// finds a run of 0xaa.
type damaging struct {
	net.Conn
	left *atomic.Int64
}

func (d damaging) Write(b []byte) (int, error) {
	at := bytes.Index(b, bytes.Repeat([]byte{0xaa}, 64))
	if at < 0 || d.left.Load() == 0 {
		return d.Conn.Write(b)
	}
	d.left.Add(-1)
	b = bytes.Clone(b)
	b[at] ^= 1
	return d.Conn.Write(b)
}

// C9: a receiver that takes one chunk and sleeps is a Failure within the bound.
func TestC9StalledReceiver(t *testing.T) {
	t.Parallel()
	const size = 20 << 20
	peer := &plainPeer{before: func(ctx context.Context, chunk int) error {
		if chunk < 2 {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}}
	address := newPlainPeer(t, peer)
	l := newLeader(t, address, memory{7: random(1, size)}, func(o *snapshot.SenderOptions) { o.StallTimeout = 100 * time.Millisecond })
	l.send(7, size)
	if status := l.wait(7); status != raftmux.SnapshotFailure {
		t.Errorf("ended in %v", status)
	}
	err := l.sender.SendSnapshot(context.Background(), address, message(7, size))
	var failed *snapshot.TransferError
	if !errors.Is(err, snapshot.ErrStalled) || !errors.As(err, &failed) || failed.StoreID != there || failed.RegionID != 7 {
		t.Errorf("ended with %v", err)
	}
}

// C9: a receiver that takes everything and never answers is a Failure, too.
func TestC9ReceiverNeverAnswers(t *testing.T) {
	t.Parallel()
	peer := &plainPeer{before: func(ctx context.Context, chunk int) error {
		if chunk < 2 {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}}
	l := newLeader(t, newPlainPeer(t, peer), memory{7: random(1, 1000)}, func(o *snapshot.SenderOptions) { o.Grace = 100 * time.Millisecond })
	l.send(7, 1000)
	if status := l.wait(7); status != raftmux.SnapshotFailure {
		t.Errorf("ended in %v", status)
	}
	err := l.sender.SendSnapshot(context.Background(), newPlainPeer(t, peer), message(7, 1000))
	if !errors.Is(err, snapshot.ErrTooSlow) {
		t.Errorf("ended with %v", err)
	}
}

// A receiver that is slow but moves is not cut, however long it takes altogether: a
// transfer of that size may.
func TestSlowReceiverIsNotCut(t *testing.T) {
	t.Parallel()
	const size = 6 << 20
	s := newStore(t)
	proxy := rig.NewProxy(t, s.address)
	proxy.SetRate(2 << 20)
	want := random(1, size)
	sender := newSender(t, memory{7: want}, func(o *snapshot.SenderOptions) {
		o.StallTimeout, o.Grace, o.MinRate = 1500*time.Millisecond, time.Second, 256<<10
	})
	if err := sender.SendSnapshot(context.Background(), proxy.Addr(), message(7, size)); err != nil {
		t.Error(err)
	}
	s.expect(t, 7, want)
}

// A sender that stops sending doesn't hold the receiver's room for ever.
func TestStalledSender(t *testing.T) {
	t.Parallel()
	s := newStore(t, func(o *snapshot.ReceiverOptions) { o.StallTimeout = 50 * time.Millisecond })
	for name, chunks := range map[string][]*raft_serverpb.SnapshotChunk{
		"silent":  nil,
		"message": {{Message: message(7, 2000)}},
		"chunk":   {{Message: message(7, 2000)}, {Data: random(1, 1000)}},
	} {
		stream := plainStream(t, s.address)
		for _, chunk := range chunks {
			if err := stream.Send(chunk); err != nil {
				t.Fatal(err)
			}
		}
		if err := stream.RecvMsg(new(raft_serverpb.Done)); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("%s: %v", name, err)
		}
		s.quiet(t)
		if left := s.files(t, ""); len(left) > 0 {
			t.Errorf("%s: left: %v", name, left)
		}
	}
}

// What is wrong on our side is told before anything is sent.
func TestSenderRefuses(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	sender := newSender(t, memory{7: random(1, 1000)})
	own := message(7, 1000)
	own.ToPeer.StoreId = here
	for name, test := range map[string]struct {
		m    *raft_serverpb.RaftMessage
		want error
		text string
	}{
		"nil":         {nil, snapshot.ErrInvalid, "no Raft message"},
		"not one":     {rig.Append(7, there, 2, 1, 1), snapshot.ErrInvalid, "MsgAppend"},
		"own store":   {own, snapshot.ErrInvalid, "this store, 1"},
		"size":        {message(7, 999), snapshot.ErrSize, "the message says 999 bytes, the data has 1000"},
		"not there":   {message(8, 1000), nil, "region 8, peer 28: open the snapshot: no such snapshot"},
		"wrong store": {rig.Snapshot(7, 5, 27, 0), snapshot.ErrWrongStore, "message is for store 5, this is store 2"},
	} {
		err := sender.SendSnapshot(context.Background(), s.address, test.m)
		if err == nil || !strings.Contains(err.Error(), test.text) || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := sender.SendSnapshot(context.Background(), rig.DeadAddress(t), message(7, 1000)); err == nil {
		t.Error("a dead address took a snapshot")
	}
	for _, ask := range []snapshot.PrecheckRequest{{PeerID: 1, StoreID: 2}, {RegionID: 1, StoreID: 2}, {RegionID: 1, PeerID: 1}} {
		if _, err := sender.Precheck(context.Background(), s.address, ask); !errors.Is(err, snapshot.ErrInvalid) {
			t.Errorf("%+v: %v", ask, err)
		}
	}
	if _, err := sender.Precheck(context.Background(), s.address, snapshot.PrecheckRequest{RegionID: 1, PeerID: 2, StoreID: 9}); !errors.Is(err, snapshot.ErrWrongStore) {
		t.Errorf("another store: %v", err)
	}
}

// short is data that ends before its size.
type short struct{ data }

func (s short) ReadAt(b []byte, offset int64) (int, error) {
	if offset+int64(len(b)) > 1500 {
		return 0, io.EOF
	}
	return s.data.ReadAt(b, offset)
}

type sourceFunc func() (snapshot.Data, error)

func (f sourceFunc) OpenSnapshot(context.Context, *raft_serverpb.RaftMessage) (snapshot.Data, error) {
	return f()
}

// Data that can't be read to its end is a failure, not a shorter snapshot.
func TestShortSource(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	sender := newSender(t, sourceFunc(func() (snapshot.Data, error) {
		return short{data{bytes.NewReader(random(1, 2000))}}, nil
	}))
	if err := sender.SendSnapshot(context.Background(), s.address, message(7, 2000)); !errors.Is(err, snapshot.ErrSize) {
		t.Error(err)
	}
	s.quiet(t)
	if len(s.host.of(7)) > 0 || len(s.files(t, ".snap")) > 0 {
		t.Error("it was surfaced")
	}
}

// Options that can't be are refused by name.
func TestOptions(t *testing.T) {
	t.Parallel()
	source, sink := memory{}, new(sink)
	for field, make := range map[string]func() error{
		"StoreID": func() error { _, err := snapshot.NewSender(snapshot.SenderOptions{Source: source}); return err },
		"Source":  func() error { _, err := snapshot.NewSender(snapshot.SenderOptions{StoreID: 1}); return err },
		"MaxTransfers": func() error {
			_, err := snapshot.NewSender(snapshot.SenderOptions{StoreID: 1, Source: source, MaxTransfers: -1})
			return err
		},
		"StallTimeout": func() error {
			_, err := snapshot.NewSender(snapshot.SenderOptions{StoreID: 1, Source: source, StallTimeout: -1})
			return err
		},
		"WindowSize": func() error {
			_, err := snapshot.NewSender(snapshot.SenderOptions{StoreID: 1, Source: source, WindowSize: 1})
			return err
		},
		"Sink": func() error { _, err := snapshot.NewReceiver(snapshot.ReceiverOptions{StoreID: 1}); return err },
		"ReservationLife": func() error {
			_, err := snapshot.NewReceiver(snapshot.ReceiverOptions{StoreID: 1, Sink: sink, ReservationLife: -1})
			return err
		},
		"Dir": func() error { _, err := snapshot.OpenFileStore(snapshot.FileStoreOptions{}); return err },
		"Deliver": func() error {
			_, err := snapshot.OpenFileStore(snapshot.FileStoreOptions{Dir: t.TempDir()})
			return err
		},
	} {
		var wrong *snapshot.OptionError
		if err := make(); !errors.As(err, &wrong) || wrong.Field != field {
			t.Errorf("%s: %v", field, fmt.Sprint(err))
		}
	}
}

package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/snapshot"
)

const (
	here  = 1 // the sender's store
	there = 2 // the receiver's
)

// random returns n bytes that are the same for the same seed.
func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 7})
	_, _ = source.Read(b)
	return b
}

// message returns the snapshot message of a region, which says that there are so
// many bytes; negative for a message that doesn't say.
func message(region uint64, size int) *raft_serverpb.RaftMessage {
	m := rig.Snapshot(region, there, 20+region, 0)
	m.Message.Snapshot.Data = nil
	if size >= 0 {
		m.Message.Snapshot.Data = encoded(raft_serverpb.RaftSnapshotData{
			Region: &metapb.Region{Id: region}, FileSize: uint64(size), Meta: &raft_serverpb.SnapshotMeta{},
		})
	}
	return m
}

func encoded(data raft_serverpb.RaftSnapshotData) []byte {
	b, err := data.Marshal()
	if err != nil {
		panic(err)
	}
	return b
}

// memory is a Source of bytes, by region.
type memory map[uint64][]byte

func (s memory) OpenSnapshot(_ context.Context, m *raft_serverpb.RaftMessage) (snapshot.Data, error) {
	b, ok := s[m.GetRegionId()]
	if !ok {
		return nil, errors.New("no such snapshot")
	}
	return data{bytes.NewReader(b)}, nil
}

type data struct{ *bytes.Reader }

func (d data) Close() error { return nil }
func (d data) Size() int64  { return d.Reader.Size() }

// delivered is a host that takes snapshots from a FileStore.
type delivered struct {
	refuse error

	mu   sync.Mutex
	have []received
}

type received struct {
	message *raft_serverpb.RaftMessage
	data    []byte
}

func (d *delivered) deliver(_ context.Context, m *raft_serverpb.RaftMessage, path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refuse != nil {
		return d.refuse
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	d.have = append(d.have, received{m, b})
	return nil
}

// of returns what came for a region.
func (d *delivered) of(region uint64) (all []received) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.have {
		if r.message.GetRegionId() == region {
			all = append(all, r)
		}
	}
	return all
}

// store is a receiving raftmux store.
type store struct {
	*snapshot.Receiver
	host    *delivered
	dir     string
	address string
}

// newStore starts one. change may change the options; the Sink is a FileStore.
func newStore(t testing.TB, change ...func(*snapshot.ReceiverOptions)) *store {
	t.Helper()
	s := &store{host: new(delivered), dir: filepath.Join(t.TempDir(), "received")}
	files, err := snapshot.OpenFileStore(snapshot.FileStoreOptions{Dir: s.dir, Deliver: s.host.deliver})
	if err != nil {
		t.Fatal(err)
	}
	options := snapshot.ReceiverOptions{StoreID: there, Sink: files}
	for _, f := range change {
		f(&options)
	}
	if s.Receiver, err = snapshot.NewReceiver(options); err != nil {
		t.Fatal(err)
	}
	s.address = serve(t, s.Receiver)
	return s
}

// serve runs a raftmux server with a receiver, until the test ends.
func serve(t testing.TB, receiver *snapshot.Receiver) (address string) {
	t.Helper()
	return serveWith(t, receiver, nobody{})
}

func serveWith(t testing.TB, receiver *snapshot.Receiver, handler raftmux.Handler) (address string) {
	t.Helper()
	server, err := raftmux.NewServer(raftmux.ServerOptions{StoreID: there, Handler: handler, SnapshotReceiver: receiver})
	if err != nil {
		t.Fatal(err)
	}
	grpcServer := grpc.NewServer(append(raftmux.GRPCServerOptions(), grpc.WaitForHandlers(true))...)
	server.Register(grpcServer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = grpcServer.Serve(listener) })
	t.Cleanup(func() {
		if err := server.Close(context.Background()); err != nil {
			t.Error(err)
		}
		grpcServer.Stop()
		receiver.Close()
		serving.Wait()
	})
	return listener.Addr().String()
}

type nobody struct{}

func (nobody) Step(*raft_serverpb.RaftMessage) error { return nil }

// files returns the names in the store's folder that end in suffix.
func (s *store) files(t testing.TB, suffix string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.dir, "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// newSender returns a Sender of what is in source. It closes with the test.
func newSender(t testing.TB, source snapshot.Source, change ...func(*snapshot.SenderOptions)) *snapshot.Sender {
	t.Helper()
	options := snapshot.SenderOptions{StoreID: here, Source: source}
	for _, f := range change {
		f(&options)
	}
	s, err := snapshot.NewSender(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// expect fails the test unless exactly these bytes came for the region, once.
func (s *store) expect(t testing.TB, region uint64, want []byte) {
	t.Helper()
	got := s.host.of(region)
	if len(got) != 1 || !bytes.Equal(got[0].data, want) {
		t.Errorf("region %d: %d snapshots came, or with other bytes", region, len(got))
	}
}

var _ io.Closer = data{}

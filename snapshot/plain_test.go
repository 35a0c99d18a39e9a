package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux/snapshot"
)

// plainPeer is a store that is not ours: the generated server with gRPC's own
// codec. Its chunks are checked as TiKV checks them.
type plainPeer struct {
	tikvpb.UnimplementedTikvServer
	// before is asked before each chunk is received; an error ends the stream.
	before func(ctx context.Context, chunk int) error

	mu       sync.Mutex
	messages []*raft_serverpb.RaftMessage
	data     [][]byte
	sizes    []int
	metadata metadata.MD
}

// newPlainPeer starts one, and returns its address.
func newPlainPeer(t testing.TB, p *plainPeer) (address string) {
	t.Helper()
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	tikvpb.RegisterTikvServer(server, p)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() { server.Stop(); serving.Wait() })
	return listener.Addr().String()
}

// Snapshot implements [tikvpb.TikvServer].
func (p *plainPeer) Snapshot(stream tikvpb.Tikv_SnapshotServer) error {
	var m *raft_serverpb.RaftMessage
	var data []byte
	var sizes []int
	for n := 0; ; n++ {
		if p.before != nil {
			if err := p.before(stream.Context(), n); err != nil {
				return err
			}
		}
		chunk, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && m == nil:
			return status.Error(codes.Unknown, "no raft message in the first chunk")
		case errors.Is(err, io.EOF):
			p.mu.Lock()
			defer p.mu.Unlock()
			p.messages, p.data, p.sizes = append(p.messages, m), append(p.data, data), sizes
			p.metadata, _ = metadata.FromIncomingContext(stream.Context())
			return stream.SendAndClose(new(raft_serverpb.Done))
		case err != nil:
			return err
		case n == 0:
			m = chunk.Message
		case len(chunk.Data) == 0:
			return status.Error(codes.Unknown, "receive chunk with empty data")
		default:
			data = append(data, chunk.Data...)
			sizes = append(sizes, len(chunk.Data))
		}
	}
}

// C23: a TiKV-shaped peer receives our snapshots.
func TestC23PlainReceiver(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 2 << 20, 5<<20 + 3} {
		peer := new(plainPeer)
		address := newPlainPeer(t, peer)
		want := random(1, size)
		sender := newSender(t, memory{7: want})
		m := message(7, size)
		ask := snapshot.PrecheckRequest{RegionID: 7, PeerID: 27, StoreID: there}
		if admission, err := sender.Precheck(context.Background(), address, ask); err != nil || admission.Known {
			t.Errorf("a peer that can't be asked answered %v, %v", admission, err)
		}
		for range 2 {
			if err := sender.SendSnapshot(context.Background(), address, m); err != nil {
				t.Fatal(err)
			}
		}
		if len(peer.data) != 2 || !bytes.Equal(peer.data[1], want) || peer.messages[0].String() != m.String() {
			t.Errorf("%d bytes: other ones came", size)
		}
		for i, n := range peer.sizes {
			if n != 1<<20 && i != len(peer.sizes)-1 {
				t.Errorf("chunk %d has %d bytes", i, n)
			}
		}
		if got := peer.metadata.Get("source_store_id"); len(got) != 1 || got[0] != "1" {
			t.Errorf("source_store_id %v", got)
		}
	}
}

// A peer whose gatekeeper refuses the question would refuse the snapshot, too; one
// that only doesn't know the question would not.
func TestPrecheckOfWhoRefuses(t *testing.T) {
	t.Parallel()
	for code, known := range map[codes.Code]bool{
		codes.FailedPrecondition: true, codes.PermissionDenied: true, codes.Unauthenticated: true,
		codes.Unknown: false, codes.InvalidArgument: false, codes.Internal: false,
	} {
		address := newPlainPeer(t, &plainPeer{before: func(context.Context, int) error { return status.Error(code, "go away") }})
		ask := snapshot.PrecheckRequest{RegionID: 7, PeerID: 27, StoreID: there}
		admission, err := newSender(t, memory{}).Precheck(context.Background(), address, ask)
		if refused := err != nil && strings.Contains(err.Error(), "go away"); refused != known || admission.Known {
			t.Errorf("a peer that says %v: %v, %v", code, admission, err)
		}
	}
}

// C23: a TiKV-shaped peer sends us snapshots, whether its message says the size or
// not.
func TestC23PlainSender(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 3<<20 + 5} {
		for _, told := range []int{size, -1} {
			s := newStore(t)
			want := random(1, size)
			stream := plainStream(t, s.address)
			if err := sendPlain(stream, message(7, told), want); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.CloseAndRecv(); err != nil {
				t.Errorf("%d bytes, %d told: %v", size, told, err)
			}
			s.expect(t, 7, want)
		}
	}
}

// Whatever is wrong with what a peer sends, it is told what, nothing is surfaced,
// and nothing is left.
func TestBadInput(t *testing.T) {
	t.Parallel()
	const size = 3000
	whole := random(1, size)
	good := func() *raft_serverpb.RaftMessage { return message(7, size) }
	head := func(m *raft_serverpb.RaftMessage) []*raft_serverpb.SnapshotChunk {
		return []*raft_serverpb.SnapshotChunk{{Message: m}, {Data: whole}}
	}
	changed := func(f func(*raft_serverpb.RaftMessage)) []*raft_serverpb.SnapshotChunk {
		m := good()
		f(m)
		return head(m)
	}
	for name, test := range map[string]struct {
		chunks []*raft_serverpb.SnapshotChunk
		header map[string]string
		code   codes.Code
		text   string
	}{
		"nothing":        {nil, nil, codes.InvalidArgument, "no message"},
		"no message":     {[]*raft_serverpb.SnapshotChunk{{Data: whole}}, nil, codes.InvalidArgument, "no message"},
		"second message": {append(head(good()), &raft_serverpb.SnapshotChunk{Message: good()}), nil, codes.InvalidArgument, "second message"},
		"empty chunk":    {append(head(good()), &raft_serverpb.SnapshotChunk{}), nil, codes.InvalidArgument, "empty"},
		"too short":      {[]*raft_serverpb.SnapshotChunk{{Message: good()}, {Data: whole[1:]}}, nil, codes.DataLoss, "2999 of 3000"},
		"too long":       {append(head(good()), &raft_serverpb.SnapshotChunk{Data: []byte{1}}), nil, codes.DataLoss, "byte 3000 of 3000"},
		"no data":        {[]*raft_serverpb.SnapshotChunk{{Message: good()}}, nil, codes.DataLoss, "0 of 3000"},
		"wrong store":    {changed(func(m *raft_serverpb.RaftMessage) { m.ToPeer.StoreId = 9 }), nil, codes.FailedPrecondition, "StoreNotMatch: message is for store 9, this is store 2"},
		"no region":      {changed(func(m *raft_serverpb.RaftMessage) { m.RegionId = 0 }), nil, codes.InvalidArgument, "region_id"},
		"no to_peer":     {changed(func(m *raft_serverpb.RaftMessage) { m.ToPeer = nil }), nil, codes.InvalidArgument, "to_peer"},
		"no snapshot":    {changed(func(m *raft_serverpb.RaftMessage) { m.Message.Snapshot = nil }), nil, codes.InvalidArgument, "metadata"},
		"an append":      {changed(func(m *raft_serverpb.RaftMessage) { m.Message.MsgType = 3 }), nil, codes.InvalidArgument, "MsgAppend"},
		"no body":        {changed(func(m *raft_serverpb.RaftMessage) { m.Message = nil }), nil, codes.InvalidArgument, "no Raft message"},
		"size no number": {head(good()), map[string]string{"raftmux-snapshot-size": "many"}, codes.InvalidArgument, `raftmux-snapshot-size "many"`},
		"two sizes":      {head(good()), map[string]string{"raftmux-snapshot-size": "2999"}, codes.DataLoss, "the message says 3000 bytes"},
		"no checksum":    {head(good()), map[string]string{"raftmux-snapshot-size": "3000"}, codes.InvalidArgument, "no checksum"},
		"precheck":       {nil, map[string]string{"raftmux-snapshot-precheck": "1/2"}, codes.InvalidArgument, "raftmux-snapshot-precheck"},
		"precheck store": {nil, map[string]string{"raftmux-snapshot-precheck": "1/2/9/false"}, codes.FailedPrecondition, "StoreNotMatch"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			err := sendChunks(t, s.address, test.header, test.chunks...)
			if status.Code(err) != test.code || !strings.Contains(err.Error(), test.text) {
				t.Errorf("answered with %v", err)
			}
			s.quiet(t)
			if len(s.host.of(7)) > 0 || len(s.files(t, "")) > 0 {
				t.Error("something was surfaced, or is left")
			}
		})
	}
}

// sendChunks sends chunks with the generated client, and returns how the stream ended.
func sendChunks(t testing.TB, address string, header map[string]string, chunks ...*raft_serverpb.SnapshotChunk) error {
	t.Helper()
	client := newPlainClient(t, address)
	stream, err := client.Snapshot(metadata.NewOutgoingContext(t.Context(), metadata.New(header)))
	if err != nil {
		t.Fatal(err)
	}
	for _, chunk := range chunks {
		if stream.Send(chunk) != nil {
			break // its end tells
		}
	}
	_, err = stream.CloseAndRecv()
	return err
}

package rig

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestPeerRecords(t *testing.T) {
	peer := NewPeer(t, PeerOptions{KeepMessages: true, HeadersNow: true})
	client := NewRaftClient(t, peer.Addr(), RaftClientOptions{StoreID: 9, Metadata: map[string]string{"k": "v"}})
	stream := client.Open(t, BatchRaft)
	stream.Header(t)
	batch := &tikvpb.BatchRaftMessage{
		Msgs:             []*raft_serverpb.RaftMessage{Heartbeat(1, 2, 3), Append(2, 2, 4, 3, 100)},
		XXX_unrecognized: []byte{13 << 3, 42},
	}
	if err := stream.SendBatch(batch); err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(Snapshot(1, 2, 3, 10)); err != nil {
		t.Fatal(err)
	}
	peer.WaitMessages(t, 3)
	if err := stream.Finish(t); err != nil {
		t.Fatalf("status: %v", err)
	}
	peer.WaitOpen(t, BatchRaft, 0)

	streams := peer.Streams()
	if len(streams) != 1 || streams[0].Messages != 3 || streams[0].Batches != 2 || streams[0].RPC != BatchRaft {
		t.Errorf("streams: %+v", streams)
	}
	if md := streams[0].Metadata; md.Get("source_store_id")[0] != "9" || md.Get("k")[0] != "v" {
		t.Errorf("metadata: %v", md)
	}
	if b := peer.Batches(); len(b) != 2 || b[0].Messages != 2 || b[0].LastObserved != 42 || b[0].Bytes != batch.Size() {
		t.Errorf("batches: %+v", b)
	}
	if m := peer.Messages(); len(m) != 3 || len(m[1].Message.Message.Entries) != 3 || m[2].Stream != 1 {
		t.Errorf("messages: %+v", m)
	}
	if r := peer.Regions(); r[1] != 2 || r[2] != 1 {
		t.Errorf("regions: %v", r)
	}
	if peer.Conns() != 1 {
		t.Errorf("%d connections", peer.Conns())
	}
}

func TestPeerWithoutBatchRaft(t *testing.T) {
	peer := NewPeer(t, PeerOptions{NoBatchRaft: true, EndAfter: 2})
	client := NewRaftClient(t, peer.Addr(), RaftClientOptions{})
	if err := client.Open(t, BatchRaft).Status(t); status.Code(err) != codes.Unimplemented {
		t.Errorf("BatchRaft: %v", err)
	}
	stream := client.Open(t, Raft)
	if err := stream.Send(Vote(1, 2, 3), Extra(1, 2, 3)); err != nil {
		t.Fatal(err)
	}
	if err := stream.Status(t); err != nil {
		t.Errorf("Raft: %v", err)
	}
	if peer.Count() != 2 || peer.Opened(BatchRaft) != 1 || peer.Opened(Raft) != 1 {
		t.Errorf("%d messages, %d and %d streams", peer.Count(), peer.Opened(BatchRaft), peer.Opened(Raft))
	}
}

func TestPeerEndsStreams(t *testing.T) {
	busy := status.Error(codes.ResourceExhausted, "busy")
	for name, test := range map[string]struct {
		options PeerOptions
		end     func(*Peer)
		code    codes.Code
		text    string
		taken   int
	}{
		"after one":   {options: PeerOptions{EndAfter: 1, EndWith: busy}, code: codes.ResourceExhausted, taken: 3},
		"by hand":     {end: func(p *Peer) { p.EndStreams(busy) }, code: codes.ResourceExhausted, taken: 3},
		"done":        {end: func(p *Peer) { p.EndStreams(nil) }, code: codes.OK, taken: 3},
		"stop":        {end: (*Peer).Stop, code: codes.Unavailable, taken: 3},
		"store id":    {options: PeerOptions{StoreID: 2}, code: codes.Unknown, text: "StoreNotMatch { to_store_id: 5, my_store_id: 2 }", taken: 1},
		"wrong store": {options: PeerOptions{WrongStore: true}, code: codes.Unknown, text: "StoreNotMatch"},
	} {
		t.Run(name, func(t *testing.T) {
			peer := NewPeer(t, test.options)
			stream := NewRaftClient(t, peer.Addr(), RaftClientOptions{}).Open(t, BatchRaft)
			if err := stream.Send(Heartbeat(1, 2, 3), Heartbeat(1, 5, 3), Heartbeat(1, 2, 3)); err != nil {
				t.Fatal(err)
			}
			peer.WaitMessages(t, test.taken)
			if test.end != nil {
				test.end(peer)
			}
			err := stream.Status(t)
			if status.Code(err) != test.code || err != nil && !strings.Contains(err.Error(), test.text) {
				t.Errorf("status: %v", err)
			}
			if peer.Count() != test.taken {
				t.Errorf("%d messages taken", peer.Count())
			}
		})
	}
}

func TestPeerThatStopsReading(t *testing.T) {
	peer := NewPeer(t, PeerOptions{
		NeverRead:     true,
		ServerOptions: []grpc.ServerOption{grpc.StaticStreamWindowSize(64 << 10), grpc.StaticConnWindowSize(64 << 10)},
	})
	stream := NewRaftClient(t, peer.Addr(), RaftClientOptions{}).Open(t, BatchRaft)
	peer.WaitOpen(t, BatchRaft, 1)
	const n = 64
	sent := make(chan error, 1)
	go func() {
		for range n {
			if err := stream.Send(Append(1, 2, 3, 1, 64<<10)); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	Never(t, 50*time.Millisecond, func() bool { return len(sent) > 0 || peer.Count() > 0 }, "something moved")
	peer.Resume()
	peer.WaitMessages(t, n)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	peer.Pause()
	peer.EndStreams(nil)
	if err := stream.Status(t); err != nil {
		t.Errorf("status: %v", err)
	}
}

func TestPeerRestarts(t *testing.T) {
	peer := NewPeer(t, PeerOptions{NoBatchRaft: true})
	address := peer.Addr()
	peer.Configure(func(o *PeerOptions) { o.NoBatchRaft, o.MaxRecv = false, 1000 })
	peer.Restart(t)
	if peer.Addr() != address {
		t.Fatalf("moved from %s to %s", address, peer.Addr())
	}
	stream := NewRaftClient(t, address, RaftClientOptions{Ping: true}).Open(t, BatchRaft)
	if err := stream.Send(Append(1, 2, 3, 1, 2000)); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if err := stream.Status(t); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("status: %v", err)
	}
}

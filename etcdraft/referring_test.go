package etcdraft

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/mem"
	"pgregory.net/rapid"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/rig"
)

// largePayload is the size from which on the tests refer to payloads.
const largePayload = 4 << 10

// encodeReferring writes a message as Sender does for a host that opted in to
// references to payloads, and brings it together as gRPC does.
func encodeReferring(t *rapid.T, header Header, m *raftpb.Message) []byte {
	q := queue.New(queue.Options{Messages: 1, Bytes: 1 << 30, Pool: new(queue.Pool), ReferTo: largePayload})
	stage := q.NewStage()
	var e encoder
	e.set(header, m)
	if err := stage.Push(queue.Message{Size: e.Size()}, &e); err != nil {
		t.Fatal(err)
	}
	stage.Flush()
	batch, _ := q.Take(queue.Limits{Age: time.Hour, Bare: true})
	defer batch.Buffers.Free()
	for _, entry := range m.GetEntries() {
		referred := slices.ContainsFunc(batch.Buffers, func(b mem.Buffer) bool {
			return b.Len() > 0 && b.Len() == len(entry.GetData()) && &b.ReadOnlyData()[0] == &entry.GetData()[0]
		})
		if referred != (len(entry.GetData()) >= largePayload) {
			t.Fatalf("a payload of %d bytes is referred to: %v", len(entry.GetData()), referred)
		}
	}
	return batch.Buffers.Materialize()
}

// C3: a host that opted in has its entries referred to, and they arrive as they
// are at kvproto's own server.
func TestC3ReferredEntriesArrive(t *testing.T) {
	peer := rig.NewPeer(t, rig.PeerOptions{KeepMessages: true})
	resolver := rig.NewResolver()
	resolver.Set(2, peer.Addr())
	client, err := raftmux.NewClient(raftmux.ClientOptions{
		StoreID: 1, Resolver: resolver, Router: rig.NewRouter[raftmux.SnapshotStatus](t), MaxMessageAge: time.Hour,
		ReferToPayloads: largePayload,
	})
	if err != nil {
		t.Fatal(err)
	}
	sender := NewSender(client.NewSender())
	sizes := []int{0, 100, largePayload - 1, largePayload, 16 << 10, 1 << 20}
	for _, size := range sizes {
		if err := sender.Send(simpleHeader, simple(raftpb.MsgApp, size)); err != nil {
			t.Fatal(err)
		}
	}
	sender.Flush()
	peer.WaitMessages(t, len(sizes))
	for i, got := range peer.Messages() {
		want := toKVProto(simpleHeader, simple(raftpb.MsgApp, sizes[i]))
		if len(got.Message.Message.Entries) != 1 ||
			!bytes.Equal(got.Message.Message.Entries[0].Data, want.Message.Entries[0].Data) || got.Message.Size() != want.Size() {
			t.Errorf("message %d of %d bytes came as another one", i, sizes[i])
		}
	}
	sender.Close()
	if err := client.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

package raftmux_test

import (
	"context"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/etcdraft"
	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/resolver/static"
)

// BenchmarkSendFlushEtcdraft is BenchmarkSendFlush through package etcdraft.
func BenchmarkSendFlushEtcdraft(b *testing.B) {
	heartbeat := &raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(11)), To: new(uint64(12)), Term: new(uint64(6)), Commit: new(uint64(100_000)),
	}
	shapes := map[string]*raftpb.Message{"heartbeat": heartbeat}
	for name, size := range map[string]int{"append128B": 128, "append1KiB": 1 << 10} {
		shapes[name] = &raftpb.Message{
			Type: raftpb.MsgApp.Enum(), From: new(uint64(11)), To: new(uint64(12)), Term: new(uint64(6)), LogTerm: new(uint64(6)),
			Index: new(uint64(100_000)), Commit: new(uint64(100_000)),
			Entries: []*raftpb.Entry{{Term: new(uint64(6)), Index: new(uint64(100_001)), Data: make([]byte, size)}},
		}
	}
	for _, name := range []string{"heartbeat", "append128B", "append1KiB"} {
		b.Run(name, func(b *testing.B) { sendFlushEtcdraft(b, shapes[name]) })
	}
}

func sendFlushEtcdraft(b *testing.B, message *raftpb.Message) {
	client, err := raftmux.NewClient(raftmux.ClientOptions{
		StoreID: here, Resolver: static.Stores{there: "nowhere:1"}, Router: rig.NewRouter[raftmux.SnapshotStatus](b),
		QueueMessages: 1 << 20, Transport: raftmux.StubTransport{},
	})
	if err != nil {
		b.Fatal(err)
	}
	header := etcdraft.Header{
		RegionID: 7, From: etcdraft.Peer{ID: 11, StoreID: here}, To: etcdraft.Peer{ID: 12, StoreID: there},
		Epoch: etcdraft.Epoch{ConfVer: 3, Version: 7},
	}
	sender := etcdraft.NewSender(client.NewSender())
	b.ReportAllocs()
	b.ResetTimer()
	const perFlush = 128
	for sent := 0; sent < b.N; {
		for i := 0; i < perFlush && sent < b.N; i++ {
			if sender.Send(header, message) != nil {
				sender.Flush() // full: the connection is behind
				continue
			}
			sent++
		}
		sender.Flush()
	}
	sender.Close()
	if err := client.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
}

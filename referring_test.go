package raftmux_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

func referring(o *raftmux.ClientOptions) { o.ReferToPayloads = 4 << 10 }

// C3, C17: payloads that are referred to arrive as they are at kvproto's own
// server, by both RPCs and over several connections, in order and amid small
// messages; and nothing is held of them afterwards.
func TestC3ReferredPayloadsArrive(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]rig.PeerOptions{
		"BatchRaft": {KeepMessages: true},
		"Raft":      {KeepMessages: true, NoBatchRaft: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peer := rig.NewPeer(t, options)
			c := newPropClient(t, peer.Addr(), referring, func(o *raftmux.ClientOptions) { o.ConnectionsPerStore = 2 })
			for region := range uint64(3) { // what is sent while it falls back is lost
				rig.Eventually(t, rig.WaitTimeout, func() bool {
					mustSend(t, c.sender, rig.Ack(region, 2, 3))
					c.sender.Flush()
					return peer.Regions()[region] > 0
				}, "the connection of region %d", region)
			}
			var sent []*raft_serverpb.RaftMessage
			for i, size := range slices.Repeat([]int{0, 100, 4 << 10, 16 << 10, 4095, 100_000, 16 << 10, 1 << 20}, 8) {
				m := rig.Append(uint64(i%3), 2, 3, 1+i%3, size)
				for j, entry := range m.Message.Entries {
					for k := range entry.Data {
						entry.Data[k] = byte(i + j + k/7)
					}
				}
				rig.Index(m, uint64(i))
				m.XXX_unrecognized = []byte{0xc8, 0x0c, 17} // field 201
				sent = append(sent, m)
				mustSend(t, c.sender, m)
				if i%5 == 0 {
					c.sender.Flush()
				}
			}
			c.sender.Flush()
			appends := func() []rig.Received {
				return slices.DeleteFunc(peer.Messages(), func(m rig.Received) bool { return len(m.Message.Message.Entries) == 0 })
			}
			rig.Eventually(t, rig.WaitTimeout, func() bool { return len(appends()) >= len(sent) }, "all arrive")
			last := map[uint64]uint64{}
			for _, got := range appends() {
				region, index := got.Message.RegionId, got.Message.Message.Index
				if index < last[region] {
					t.Errorf("message %d of region %d after %d", index, region, last[region])
				}
				last[region] = index
				if !bytes.Equal(marshal(t, got.Message), marshal(t, sent[index])) {
					t.Errorf("message %d came as another one", index)
				}
			}
			rig.Eventually(t, rig.WaitTimeout, func() bool { return held(c) == 0 }, "nothing is held once it is written")
		})
	}
}

func marshal(t *testing.T, m *raft_serverpb.RaftMessage) []byte {
	t.Helper()
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// C3, C17: payloads that a dead peer holds count in its share of the budget, and
// come back with the end of the generation.
func TestC3ReferredPayloadsCount(t *testing.T) {
	t.Parallel()
	peer := rig.NewPeer(t, rig.PeerOptions{NeverRead: true})
	c := newPropClient(t, peer.Addr(), referring, func(o *raftmux.ClientOptions) {
		o.QueueBytes, o.MaxMessageSize = 1<<20, 1<<20
		o.SendStallTimeout = time.Hour
	})
	m := rig.Append(1, 2, 3, 1, 32<<10)
	refused := func() bool {
		defer c.sender.Flush()
		return c.sender.Send(m) != nil
	}
	rig.Eventually(t, rig.WaitTimeout, refused, "the queue is full")
	status, _ := c.Store(2)
	bytes := held(c)
	for _, connection := range status.Connections {
		bytes += connection.Ledger.QueuedBytes
	}
	if bytes > 1<<20 || bytes < 1<<20-uint64(m.Size()) {
		t.Errorf("%d bytes are charged", bytes)
	}
	c.RemoveStore(2)
	peer.Resume()
	rig.Eventually(t, rig.WaitTimeout, func() bool { return !refused() }, "there is room again")
}

// An option that can't be, to the byte.
func TestReferToPayloadsAtLeast(t *testing.T) {
	t.Parallel()
	for value, field := range map[int]string{-1: "ReferToPayloads", 4095: "ReferToPayloads", 0: "", 4096: ""} {
		t.Run(fmt.Sprint(value), func(t *testing.T) {
			t.Parallel()
			client, err := raftmux.NewClient(raftmux.ClientOptions{
				StoreID: here, Resolver: rig.NewResolver(), Router: rig.NewRouter[raftmux.SnapshotStatus](t),
				ReferToPayloads: value,
			})
			if field != "" {
				wantOption(t, err, field)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_ = client.Close(t.Context())
		})
	}
}

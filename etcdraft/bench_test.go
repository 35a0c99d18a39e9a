package etcdraft

import (
	"bytes"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux"
)

const benchBatch = 128

func benchmarkEncode(b *testing.B, m *raftpb.Message) {
	var e encoder
	buffer := make([]byte, 0, 64<<10)
	b.ReportAllocs()
	for b.Loop() {
		buffer = buffer[:0]
		for range benchBatch {
			if Check(m) != nil || checkHeader(&simpleHeader, m) != nil {
				b.Fatal("refused")
			}
			e.set(simpleHeader, m)
			buffer = e.AppendTo(buffer)
		}
	}
	report(b, len(buffer))
}

func report(b *testing.B, bytes int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchBatch, "ns/msg")
	b.ReportMetric(float64(bytes)/benchBatch, "B/msg")
}

func BenchmarkEncodeHeartbeat(b *testing.B) { benchmarkEncode(b, simple(raftpb.MsgHeartbeat, 0)) }
func BenchmarkEncodeAppend128(b *testing.B) { benchmarkEncode(b, simple(raftpb.MsgApp, 128)) }

type taker struct{ messages int }

func (k *taker) Step(Header, *raftpb.Message) error { k.messages++; return nil }

func benchmarkReceive(b *testing.B, m *raftpb.Message) {
	handler := new(taker)
	receiver := NewReceiver(handler)()
	measureReceive(b, handler, receiver, encode(simpleHeader, m), receiver.Decode)
}

// benchmarkReceiveGiven is with the copy that a Server makes to give it away.
func benchmarkReceiveGiven(b *testing.B, m *raftpb.Message) {
	handler := new(taker)
	receiver := NewReceiver(handler)()
	measureReceive(b, handler, receiver, encode(simpleHeader, m), func(data []byte) (raftmux.Envelope, error) {
		return receiver.(raftmux.Keeper).DecodeGiven(bytes.Clone(data))
	})
}

func measureReceive(
	b *testing.B, handler *taker, receiver raftmux.Receiver, data []byte,
	decode func([]byte) (raftmux.Envelope, error),
) {
	b.ReportAllocs()
	for b.Loop() {
		for range benchBatch {
			if _, err := decode(data); err != nil {
				b.Fatal(err)
			}
		}
		receiver.Deliver()
	}
	report(b, len(data)*benchBatch)
	if handler.messages != b.N*benchBatch {
		b.Fatalf("%d messages delivered", handler.messages)
	}
}

func BenchmarkReceiveHeartbeat(b *testing.B) { benchmarkReceive(b, simple(raftpb.MsgHeartbeat, 0)) }
func BenchmarkReceiveAppend128(b *testing.B) { benchmarkReceive(b, simple(raftpb.MsgApp, 128)) }
func BenchmarkReceiveAppend16K(b *testing.B) { benchmarkReceive(b, simple(raftpb.MsgApp, 16<<10)) }
func BenchmarkReceiveAppend256K(b *testing.B) {
	benchmarkReceive(b, simple(raftpb.MsgApp, 256<<10))
}

func BenchmarkReceiveAppend16KGiven(b *testing.B) {
	benchmarkReceiveGiven(b, simple(raftpb.MsgApp, 16<<10))
}

func BenchmarkReceiveAppend256KGiven(b *testing.B) {
	benchmarkReceiveGiven(b, simple(raftpb.MsgApp, 256<<10))
}

// What hosts with many regions live by.
func TestAllocations(t *testing.T) {
	for name, test := range map[string]struct {
		m    *raftpb.Message
		most float64 // per message
	}{
		"heartbeat":  {simple(raftpb.MsgHeartbeat, 0), 0.2},
		"append 128": {simple(raftpb.MsgApp, 128), 0.5},
		"append 1K":  {simple(raftpb.MsgApp, 1<<10), 1},
		"append 16K": {simple(raftpb.MsgApp, 16<<10), 6},
	} {
		var e encoder
		buffer := make([]byte, 0, 32<<10)
		if n := testing.AllocsPerRun(100, func() {
			if Check(test.m) != nil {
				t.Error("refused")
			}
			e.set(simpleHeader, test.m)
			buffer = e.AppendTo(buffer[:0])
			e.clear()
		}); n != 0 {
			t.Errorf("%s: encoding allocates %v times", name, n)
		}
		receiver := NewReceiver(new(taker))()
		n := testing.AllocsPerRun(100, func() {
			for range 1000 {
				if _, err := receiver.Decode(buffer); err != nil {
					t.Fatal(err)
				}
			}
			receiver.Deliver()
		}) / 1000
		if n > test.most {
			t.Errorf("%s: receiving allocates %v times per message", name, n)
		}
	}
}

func BenchmarkReceiveAppend1K(b *testing.B) { benchmarkReceive(b, simple(raftpb.MsgApp, 1<<10)) }

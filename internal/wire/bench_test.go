package wire

import (
	"testing"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

const benchBatch = 128

// sink keeps what benchmarks decode from being allocated on the stack.
var sink *raft_serverpb.RaftMessage

// heartbeat and appendOf are what a busy store sends most.
func heartbeat(region uint64) *raft_serverpb.RaftMessage {
	return &raft_serverpb.RaftMessage{
		RegionId:    100000 + region,
		FromPeer:    &metapb.Peer{Id: 300000 + region, StoreId: 1},
		ToPeer:      &metapb.Peer{Id: 400000 + region, StoreId: 2},
		RegionEpoch: &metapb.RegionEpoch{ConfVer: 5, Version: 120},
		Message: &eraftpb.Message{
			MsgType: eraftpb.MessageType_MsgHeartbeat,
			From:    300000 + region, To: 400000 + region, Term: 17, Commit: 123456,
		},
	}
}

func appendOf(region uint64, entries, data int) *raft_serverpb.RaftMessage {
	m := heartbeat(region)
	m.Message.MsgType = eraftpb.MessageType_MsgAppend
	m.Message.LogTerm, m.Message.Index = 17, 123456
	for i := range entries {
		m.Message.Entries = append(m.Message.Entries, &eraftpb.Entry{
			Term: 17, Index: uint64(123457 + i), Data: make([]byte, data),
		})
	}
	return m
}

func mustMarshal(tb testing.TB, m interface{ Marshal() ([]byte, error) }) []byte {
	tb.Helper()
	b, err := m.Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func batchOf(tb testing.TB, build func(uint64) *raft_serverpb.RaftMessage) [][]byte {
	bodies := make([][]byte, benchBatch)
	for i := range bodies {
		bodies[i] = mustMarshal(tb, build(uint64(i)))
	}
	return bodies
}

// benchDecode measures as in production, where nothing is poisoned.
func benchDecode(b *testing.B, o DecoderOptions, bodies [][]byte) {
	d := NewDecoder(o)
	d.poison = false
	b.ReportAllocs()
	for b.Loop() {
		for _, body := range bodies {
			if _, err := d.Decode(body); err != nil {
				b.Fatal(err)
			}
		}
		d.Reset()
	}
	perMessage(b)
}

func benchGenerated(b *testing.B, bodies [][]byte) {
	b.ReportAllocs()
	for b.Loop() {
		for _, body := range bodies {
			m := new(raft_serverpb.RaftMessage)
			if err := m.Unmarshal(body); err != nil {
				b.Fatal(err)
			}
			sink = m
		}
	}
	perMessage(b)
}

func perMessage(b *testing.B) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchBatch, "ns/msg")
}

func append128(region uint64) *raft_serverpb.RaftMessage { return appendOf(region, 1, 128) }
func append1K(region uint64) *raft_serverpb.RaftMessage  { return appendOf(region, 1, 1<<10) }
func append16K(region uint64) *raft_serverpb.RaftMessage { return appendOf(region, 1, 16<<10) }
func appendMany(region uint64) *raft_serverpb.RaftMessage {
	return appendOf(region, 128, 100)
}

func BenchmarkDecodeHeartbeatLent(b *testing.B) {
	benchDecode(b, DecoderOptions{Lent: true}, batchOf(b, heartbeat))
}

func BenchmarkDecodeHeartbeatOwned(b *testing.B) {
	benchDecode(b, DecoderOptions{}, batchOf(b, heartbeat))
}

func BenchmarkDecodeHeartbeatGenerated(b *testing.B) { benchGenerated(b, batchOf(b, heartbeat)) }

func BenchmarkDecodeAppend128Lent(b *testing.B) {
	benchDecode(b, DecoderOptions{Lent: true}, batchOf(b, append128))
}

func BenchmarkDecodeAppend128Owned(b *testing.B) {
	benchDecode(b, DecoderOptions{}, batchOf(b, append128))
}

func BenchmarkDecodeAppend128Generated(b *testing.B) { benchGenerated(b, batchOf(b, append128)) }

func BenchmarkDecodeAppend1KOwned(b *testing.B) {
	benchDecode(b, DecoderOptions{}, batchOf(b, append1K))
}

func BenchmarkDecodeAppend1KGenerated(b *testing.B) { benchGenerated(b, batchOf(b, append1K)) }

func BenchmarkDecodeAppend16KOwned(b *testing.B) {
	benchDecode(b, DecoderOptions{}, batchOf(b, append16K))
}

func BenchmarkDecodeAppend16KGenerated(b *testing.B) { benchGenerated(b, batchOf(b, append16K)) }

func BenchmarkDecodeAppend128x100Owned(b *testing.B) {
	benchDecode(b, DecoderOptions{}, batchOf(b, appendMany))
}

func BenchmarkDecodeAppend128x100Generated(b *testing.B) { benchGenerated(b, batchOf(b, appendMany)) }

func BenchmarkReadFrames(b *testing.B) {
	var batch []byte
	for _, body := range batchOf(b, append128) {
		batch = append(AppendFrameHeader(batch, len(body)), body...)
	}
	batch = AppendObservedTime(batch, 1<<60)
	b.ReportAllocs()
	for b.Loop() {
		frames, n := ReadFrames(batch), 0
		for _, ok := frames.Next(); ok; _, ok = frames.Next() {
			n++
		}
		if n != benchBatch || frames.Err() != nil {
			b.Fatal(n, frames.Err())
		}
	}
	perMessage(b)
}

// BenchmarkEncode is the measuring and writing of a message, by the generated
// code and by a MessageEncoder.
func BenchmarkEncode(b *testing.B) {
	for _, shape := range []struct {
		name    string
		message *raft_serverpb.RaftMessage
	}{{"heartbeat", heartbeat(1234)}, {"append128B", append128(1234)}, {"append1KiB", append1K(1234)}} {
		buffer := make([]byte, 0, 4<<10)
		b.Run(shape.name+"/generated", func(b *testing.B) {
			for b.Loop() {
				size := shape.message.Size()
				if _, err := shape.message.MarshalToSizedBuffer(buffer[:size]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(shape.name+"/ours", func(b *testing.B) {
			var encoder MessageEncoder
			for b.Loop() {
				if _, ok := encoder.Measure(shape.message); !ok {
					b.Fatal("it is not taken")
				}
				encoder.AppendTo(buffer)
			}
		})
	}
}

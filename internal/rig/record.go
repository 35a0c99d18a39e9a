package rig

import (
	"maps"
	"slices"
	"sync"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
)

// RPC tells TiKV's two message streams apart.
type RPC string

// The streams, by the names of their methods.
const (
	BatchRaft RPC = "BatchRaft"
	Raft      RPC = "Raft"
)

// StreamInfo is what a peer recorded of one stream.
type StreamInfo struct {
	ID       int // 1, 2, 3 in the order in which streams were opened
	RPC      RPC
	Metadata metadata.MD
	Remote   string // the address of the other end, one per TCP connection
	Batches  int    // received; on Raft each message is one
	Messages int
	Bytes    int // encoded, without gRPC's framing
	Open     bool
}

// BatchInfo is what a peer recorded of one batch.
type BatchInfo struct {
	Stream       int // the ID of its stream
	Messages     int
	Bytes        int    // encoded, without gRPC's framing
	LastObserved uint64 // last_observed_time, 0 when it wasn't sent
}

// Received is a message, and the ID of the stream on which it came.
type Received struct {
	Stream  int
	Message *raft_serverpb.RaftMessage
}

// keptBatches bounds the list of batches.
const keptBatches = 1 << 16

// record is a peer's memory.
type record struct {
	mu       sync.Mutex
	streams  []*StreamInfo
	unserved map[RPC]int
	batches  []BatchInfo
	messages []Received
	regions  map[uint64]int
	total    int
	bytes    int64
}

func newRecord() *record {
	return &record{regions: make(map[uint64]int), unserved: make(map[RPC]int)}
}

func (r *record) opened(rpc RPC, md metadata.MD, remote string) *StreamInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &StreamInfo{ID: len(r.streams) + 1, RPC: rpc, Metadata: md, Remote: remote, Open: true}
	r.streams = append(r.streams, s)
	return s
}

func (r *record) ended(s *StreamInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Open = false
}

func (r *record) refused(rpc RPC) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unserved[rpc]++
}

// batch records the first taken messages of a batch.
func (r *record) batch(s *StreamInfo, b *tikvpb.BatchRaftMessage, size, taken int, keep bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Batches++
	s.Messages += taken
	s.Bytes += size
	r.total += taken
	r.bytes += int64(size)
	if len(r.batches) < keptBatches {
		r.batches = append(r.batches, BatchInfo{
			Stream:       s.ID,
			Messages:     len(b.GetMsgs()),
			Bytes:        size,
			LastObserved: lastObserved(b.XXX_unrecognized),
		})
	}
	for _, m := range b.GetMsgs()[:taken] {
		r.regions[m.GetRegionId()]++
		if keep {
			r.messages = append(r.messages, Received{Stream: s.ID, Message: m})
		}
	}
}

// lastObserved finds last_observed_time, field 13, which the served kvproto
// doesn't know, among the bytes that it didn't recognise.
func lastObserved(b []byte) (v uint64) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeField(b)
		if n < 0 {
			return 0
		}
		if num == 13 && typ == protowire.VarintType {
			_, _, tag := protowire.ConsumeTag(b)
			v, _ = protowire.ConsumeVarint(b[tag:])
		}
		b = b[n:]
	}
	return v
}

// Count returns how many messages came.
func (p *Peer) Count() int {
	p.record.mu.Lock()
	defer p.record.mu.Unlock()
	return p.record.total
}

// Bytes returns how many encoded bytes came.
func (p *Peer) Bytes() int64 {
	p.record.mu.Lock()
	defer p.record.mu.Unlock()
	return p.record.bytes
}

// Regions returns how many messages came for each region.
func (p *Peer) Regions() map[uint64]int {
	p.record.mu.Lock()
	defer p.record.mu.Unlock()
	return maps.Clone(p.record.regions)
}

// Messages returns the messages in the order in which they came. It is empty
// unless the options say KeepMessages.
func (p *Peer) Messages() []Received {
	p.record.mu.Lock()
	defer p.record.mu.Unlock()
	return slices.Clone(p.record.messages)
}

// Batches returns the first 65,536 batches, in the order in which they came.
func (p *Peer) Batches() []BatchInfo {
	p.record.mu.Lock()
	defer p.record.mu.Unlock()
	return slices.Clone(p.record.batches)
}

// Streams returns all streams ever served, in the order in which they were opened.
func (p *Peer) Streams() []StreamInfo {
	p.record.mu.Lock()
	defer p.record.mu.Unlock()
	streams := make([]StreamInfo, len(p.record.streams))
	for i, s := range p.record.streams {
		streams[i] = *s
	}
	return streams
}

// OpenStreams returns how many streams of the RPC are open now.
func (p *Peer) OpenStreams(rpc RPC) (n int) {
	for _, s := range p.Streams() {
		if s.RPC == rpc && s.Open {
			n++
		}
	}
	return n
}

// Opened returns how often the RPC was called, and whether the peer has it or
// answered UNIMPLEMENTED makes no difference.
func (p *Peer) Opened(rpc RPC) int {
	p.record.mu.Lock()
	defer p.record.mu.Unlock()
	n := p.record.unserved[rpc]
	for _, s := range p.record.streams {
		if s.RPC == rpc {
			n++
		}
	}
	return n
}

// Reset forgets what was received, but not the streams nor their order.
func (p *Peer) Reset() {
	r := p.record
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches, r.messages, r.total, r.bytes = nil, nil, 0, 0
	clear(r.regions)
}

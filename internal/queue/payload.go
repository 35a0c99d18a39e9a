package queue

import (
	"fmt"
	"slices"

	"google.golang.org/grpc/mem"

	"github.com/raftmux/raftmux/internal/wire"
)

// Referrer is an Encoder of messages whose payloads need not be copied.
type Referrer interface {
	Encoder
	// PayloadBytes returns the bytes of all payloads of at least that many.
	PayloadBytes(atLeast int) int
	// AppendReferring is AppendTo that leaves the payloads to payloads.Append.
	AppendReferring(buffer []byte, payloads *Payloads) []byte
}

// Payloads takes the payloads of the message that is being encoded. The large
// ones stay where they are: they belong to whoever sends the message, and must
// never change.
type Payloads struct {
	atLeast int
	found   []found
	bytes   int // of all that were found
}

// found is a payload that is referred to, and where in the buffer it belongs.
type found struct {
	at    int
	bytes []byte
}

// Append adds a payload to a message of which buffer holds what comes before. It
// copies one that is small and only remembers one that is large. A nil *Payloads
// copies all.
func (p *Payloads) Append(buffer, payload []byte) []byte {
	if p == nil || len(payload) < p.atLeast {
		return append(buffer, payload...)
	}
	p.found = append(p.found, found{at: len(buffer), bytes: payload})
	p.bytes += len(payload)
	return buffer
}

// ask returns how many bytes of a message are to be referred to; mostly 0, which
// must cost nothing.
func (p *Payloads) ask(encoder Encoder, size int) int {
	if p.atLeast == 0 || size < p.atLeast {
		return 0
	}
	return p.askReferrer(encoder, size)
}

func (p *Payloads) askReferrer(encoder Encoder, size int) int {
	referrer, ok := encoder.(Referrer)
	if !ok {
		return 0
	}
	return min(max(referrer.PayloadBytes(p.atLeast), 0), size)
}

// encode appends the message of an encoder that has announced so many bytes to be
// referred to. It returns nil if that refers to others, or puts them outside of
// its message.
func (p *Payloads) encode(buffer []byte, encoder Encoder, referred int) []byte {
	last := len(buffer)
	data := encoder.(Referrer).AppendReferring(buffer, p)
	if p.bytes != referred {
		return nil
	}
	for _, f := range p.found {
		if f.at < last || f.at > len(data) {
			return nil
		}
		last = f.at
	}
	return data
}

// maxKept is how many payloads there is memory kept for; a full chunk of the
// smallest that ClientOptions allows has as many.
const maxKept = 64

// reset lets go of what was found.
func (p *Payloads) reset() {
	p.found, p.bytes = emptied(p.found), 0
}

func emptied[T any](list []T) []T {
	if cap(list) > maxKept {
		return nil
	}
	clear(list)
	return list[:0]
}

// payload is a part of a chunk's content that is not in its data. It keeps the
// chunk while gRPC has a reference to it, so that what is lent comes back only
// when gRPC has let go of the payloads, too.
type payload struct {
	bytes []byte
	start int // where in the chunk's content it begins
	chunk *chunk
	seal  wire.Seal
}

// Get is there for mem.BufferPool, of which gRPC only uses Put here.
func (p *payload) Get(length int) *[]byte { return p.chunk.Get(length) }

// Put is called once for each buffer of the payload, when its last reference goes.
func (p *payload) Put(*[]byte) { p.chunk.whole.Free() }

// length returns the bytes of the chunk's content: its data, and the payloads
// where they belong.
func (c *chunk) length() int { return len(c.data) + c.referred }

// refer moves what was found in a message to the chunk, whose data is still
// without that message.
func (c *chunk) refer(payloads *Payloads) {
	for _, f := range payloads.found {
		c.payloads = append(c.payloads, payload{
			bytes: f.bytes, start: f.at + c.referred, chunk: c, seal: wire.SealOf(f.bytes),
		})
		c.referred += len(f.bytes)
	}
	payloads.reset()
}

// parts appends the bytes [from, to) of the content of a chunk that the queue
// owns, with references of their own. From one call to the next it moves forward.
func (c *chunk) parts(buffers mem.BufferSlice, from, to int) mem.BufferSlice {
	for ; c.passed < len(c.payloads); c.passed++ {
		p := &c.payloads[c.passed]
		if p.start >= to {
			break
		}
		if p.start >= from { // and not of a message that was dropped
			buffers = append(buffers, c.part(from-c.passedBytes, p.start-c.passedBytes), p.buffer())
			from = p.start + len(p.bytes)
		}
		c.passedBytes += len(p.bytes)
	}
	if from < to {
		buffers = append(buffers, c.part(from-c.passedBytes, to-c.passedBytes))
	}
	return buffers
}

func (p *payload) buffer() mem.Buffer {
	p.chunk.whole.Ref()
	return mem.NewBuffer(&p.bytes, p)
}

// dropPayloads lets go of the host's memory. A payload that has changed since
// Push panics where memory is poisoned: what was sent is not what was accepted.
func (c *chunk) dropPayloads() {
	for _, p := range c.payloads {
		if !p.seal.Holds(p.bytes) {
			i := slices.IndexFunc(c.records, func(r record) bool { return p.start < int(r.end) })
			panic(fmt.Sprintf("raftmux: a payload of %d bytes of region %d has changed since Send: "+
				"ClientOptions.ReferToPayloads is only for hosts whose entries never change",
				len(p.bytes), c.records[i].regionID))
		}
	}
	c.payloads = emptied(c.payloads)
	c.referred, c.passed, c.passedBytes = 0, 0, 0
}

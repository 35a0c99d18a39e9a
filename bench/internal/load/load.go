// Package load says what is sent: the same messages for every transport.
package load

import (
	"fmt"
	"math/rand/v2"
)

// Kind is what a message is to Raft.
type Kind uint8

// The kinds of messages.
const (
	Heartbeat Kind = iota
	HeartbeatResponse
	AppendResponse
	Append
)

// Message is one Raft message, in no library's terms.
type Message struct {
	Kind   Kind
	Region uint64
	Store  uint64 // where it goes
	Index  uint64 // the entry's
	Data   []byte // the entry's, nil if there is none
}

// The ids that all messages have in common.
const (
	FromStore  = 1
	FromPeer   = 11
	ToPeer     = 12
	FirstStore = 2 // stores are numbered from here on
	Term       = 6
	Commit     = 100_000
)

// Plan is what the workers of a sender do.
type Plan struct {
	Shape    string
	Regions  int
	Stores   int
	Workers  int
	Ring     int // messages that each worker has made beforehand and sends in turn
	PerFlush int // messages per flush and store
}

// Shapes returns the names of all shapes.
func Shapes() []string {
	return []string{"heartbeat", "128B", "1KiB", "16KiB", "256KiB", "mix"}
}

// Size returns the entry's size of an append's shape, and 0 for other shapes.
func Size(shape string) int {
	return map[string]int{"128B": 128, "1KiB": 1 << 10, "16KiB": 16 << 10, "256KiB": 256 << 10}[shape]
}

// arenaSize is the memory from which the entries of one worker are cut. It is
// larger than the caches, for an entry comes from a client's request, and isn't
// one that was sent a moment ago.
const arenaSize = 32 << 20

// Messages returns the ring of one worker. Two workers share no region unless
// there is only one.
func (p Plan) Messages(worker int) ([]Message, error) {
	if p.Shape != "heartbeat" && p.Shape != "mix" && Size(p.Shape) == 0 {
		return nil, fmt.Errorf("load: no shape is called %q", p.Shape)
	}
	random := rand.New(rand.NewPCG(1, uint64(worker)))
	entries := arena{worker: worker}
	messages := make([]Message, p.Ring)
	for i := range messages {
		m := p.message(random, &entries)
		m.Region = uint64((i*p.Workers+worker)%p.Regions) + 1
		m.Store = uint64(i/p.PerFlush%p.Stores) + FirstStore
		m.Index = Commit + uint64(i) + 1
		messages[i] = m
	}
	return messages, nil
}

func (p Plan) message(random *rand.Rand, entries *arena) Message {
	switch p.Shape {
	case "heartbeat":
		return Message{Kind: Heartbeat}
	case "mix":
		return mixed(random, entries)
	default:
		return Message{Kind: Append, Data: entries.next(Size(p.Shape))}
	}
}

// mixed returns what a store with many idle and some busy regions sends: of 100
// messages 60 are heartbeats and the responses to them, 20 the responses to
// appends, 20 appends, of which one in ten has more than 1 KiB.
func mixed(random *rand.Rand, entries *arena) Message {
	switch draw := random.IntN(100); {
	case draw < 30:
		return Message{Kind: Heartbeat}
	case draw < 60:
		return Message{Kind: HeartbeatResponse}
	case draw < 80:
		return Message{Kind: AppendResponse}
	case draw < 98:
		return Message{Kind: Append, Data: entries.next(128 + random.IntN(897))}
	default:
		return Message{Kind: Append, Data: entries.next(4 << 10)}
	}
}

// arena cuts entries from memory that begins anew when it is used up.
type arena struct {
	worker int
	bytes  []byte
	used   int
}

func (a *arena) next(size int) []byte {
	if a.bytes == nil {
		a.bytes = make([]byte, arenaSize)
		for i := range a.bytes {
			a.bytes[i] = byte(i*7 + a.worker)
		}
	}
	if a.used+size > len(a.bytes) {
		a.used = 0
	}
	a.used += size
	return a.bytes[a.used-size : a.used : a.used]
}

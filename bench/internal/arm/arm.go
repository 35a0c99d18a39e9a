// Package arm has the transports that are measured, each in a file of its own.
package arm

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/raftmux/raftmux/bench/internal/groups"
	"github.com/raftmux/raftmux/bench/internal/load"
	"github.com/raftmux/raftmux/bench/internal/measure"
)

// Arm is one transport with its settings.
type Arm struct {
	Name string
	// Serve starts the receiving half.
	Serve func(ServeOptions) (Receiver, error)
	// Dial starts the sending half. It is a Flooder or a Pinger.
	Dial func(DialOptions) (Sender, error)
	// Groups starts both halves of one of three stores with real Raft groups. It is
	// nil for those that carry no messages of several such.
	Groups groups.Start
}

// ServeOptions is what a receiving half is given.
type ServeOptions struct {
	Stores int    // as many receivers, numbered from load.FirstStore on
	Back   string // an address of the sender, for those who need one
	Folder string // for what is carried to a file
	Sink   *measure.Sink
}

// DialOptions is what a sending half is given.
type DialOptions struct {
	Endpoint Endpoint
	Workers  int
	Back     net.Listener // at ServeOptions.Back; the sender's to close
}

// Endpoint is where a receiving half is.
type Endpoint struct {
	Addresses   []string // by store
	Certificate []byte   // PEM, of those who have TLS
}

// Receiver is a receiving half. What it gets goes to the Sink.
type Receiver interface {
	Endpoint() Endpoint
	Close() error
}

// Sender is a sending half.
type Sender interface {
	Close() error
}

// Flooder sends what its workers are given.
type Flooder interface {
	Sender
	// Worker returns the handle of one goroutine, which has its messages made.
	Worker(number int, plan load.Plan) (Worker, error)
}

// Worker is one sending goroutine's handle.
type Worker interface {
	// Send hands over message i of the ring, or returns false if there is no
	// room for it.
	Send(i int) bool
	// Flush lets go what was handed over, and says how many messages of it were
	// refused only now.
	Flush() (refused int)
	// Close lets go of everything.
	Close()
}

// Stamper is a Worker whose messages can say when they were sent.
type Stamper interface {
	// Stamp puts a time into message i, which was sent a ring's length ago.
	Stamp(i int, unixNano int64)
}

// Pinger sends one message and waits for one that comes back.
type Pinger interface {
	Sender
	Ping() error
}

// Carrier sends files, several at once if they come so.
type Carrier interface {
	Sender
	// Carry returns when the file is where it goes to, and synced. A rate of 0 is
	// as fast as it goes.
	Carry(ctx context.Context, path string, bytesPerSecond int64) error
}

// Holder tells what its transport has been handed and has not let go of.
type Holder interface {
	// HeldBytes is the most that one connection holds.
	HeldBytes() uint64
}

// All returns the arms that carry messages from one process to another.
func All() []Arm {
	return []Arm{
		raftmuxArm("raftmux", lent),
		raftmuxArm("raftmux owned", owned),
		raftmuxArm("raftmux TLS", secured),
		raftmuxArm("raftmux referring", referring),
		etcdraftArm(),
		usualArm(),
		convertedArm(),
		rafthttpArm(),
		hashicorpArm("hashicorp 2", 2),
		hashicorpArm("hashicorp 130", 130),
		tcpArm(),
		rawtcpArm(),
	}
}

// Special returns the arms for figures that need something else at one end.
func Special() []Arm {
	return []Arm{
		echoArm("echo raftmux", nil),
		echoArm("echo tcp", new(tcpTransport)),
		bareEchoArm(),
		blockedArm(),
		connectionsArm("connections raftmux", nil),
		connectionsArm("connections bare", bareOptions()),
		connectionsArm("connections alike", alikeOptions()),
		snapshotArm(),
		copyArm(),
	}
}

// Find returns the arm with a name.
func Find(name string) (Arm, error) {
	for _, a := range append(All(), Special()...) {
		if a.Name == name {
			return a, nil
		}
	}
	return Arm{}, fmt.Errorf("arm: no transport is called %q", name)
}

// closers closes everything, the last first, and joins the errors.
type closers []func() error

func (c *closers) add(f func() error) { *c = append(*c, f) }

func (c *closers) Close() error {
	var all []error
	for i := len(*c) - 1; i >= 0; i-- {
		all = append(all, (*c)[i]())
	}
	*c = nil
	return errors.Join(all...)
}

// listen opens a port on loopback.
func listen() (net.Listener, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("arm: %w", err)
	}
	return listener, nil
}

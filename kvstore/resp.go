package kvstore

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tidwall/redcon"
)

const (
	// maxFlight bounds the commands of a connection that are under way.
	maxFlight = 1024
	// maxUnsent is how many bytes of values wait at most until the answers are sent. A
	// few bytes ask for a large value, so a client that sends many commands along with
	// the first, and reads nothing, would have a store keep more than it has memory.
	maxUnsent = 1 << 20
)

// respServer serves clients that speak RESP2, such as redis-cli. Each has a
// goroutine, by redcon.
type respServer struct {
	store    *Store
	listener net.Listener
	server   *redcon.Server

	refusing atomic.Bool
	done     chan struct{} // closed when serve returns
	open     sync.WaitGroup
	clients  atomic.Int64
	nextID   atomic.Int64
}

// respClient is what the server knows of a connection.
type respClient struct {
	id   int64
	name string
}

func newRESPServer(store *Store, listener net.Listener) *respServer {
	s := &respServer{store: store, listener: listener, done: make(chan struct{})}
	s.server = redcon.NewServerNetwork("tcp", listener.Addr().String(), s.handle, s.accept, s.closed)
	return s
}

// serve returns nil after close.
func (s *respServer) serve() error {
	defer close(s.done)
	return s.server.Serve(limitedListener{s.listener})
}

// refuse makes new requests fail, so that the workers can stop.
func (s *respServer) refuse() { s.refusing.Store(true) }

// close ends all connections and waits for their goroutines. It follows serve.
func (s *respServer) close() error {
	// redcon only knows its listener once it serves; closing it ourselves ends
	// serving, and with it the connections, whenever that began.
	err := s.server.Close()
	if err != nil {
		err = s.listener.Close()
	}
	<-s.done // nobody is accepted from here on
	s.open.Wait()
	return err
}

func (s *respServer) accept(conn redcon.Conn) bool {
	s.open.Add(1)
	s.clients.Add(1)
	conn.SetContext(&respClient{id: s.nextID.Add(1)})
	return true
}

func (s *respServer) closed(redcon.Conn, error) {
	s.clients.Add(-1)
	s.open.Done()
}

// handle answers one command, and those that the client sent along with it.
// Reads and writes of different keys run side by side; a second one of the same
// key, and any other command, waits for those before it.
func (s *respServer) handle(conn redcon.Conn, first redcon.Command) {
	var flight flight
	for _, cmd := range append([]redcon.Command{first}, conn.ReadPipeline()...) {
		if len(cmd.Args) == 0 {
			continue
		}
		name := strings.ToUpper(string(cmd.Args[0]))
		if op, ok := s.keyCommand(name, cmd.Args); ok {
			if flight.has(cmd.Args[1:]) || len(flight.commands) == maxFlight {
				flight.land(conn)
			}
			flight.take(s, op, name, cmd.Args)
			continue
		}
		flight.land(conn)
		if s.other(conn, name, cmd.Args) {
			return
		}
	}
	flight.land(conn)
}

// keyCommand says whether the command is a well-formed one about keys.
func (s *respServer) keyCommand(name string, args [][]byte) (operation, bool) {
	switch {
	case s.refusing.Load():
		return 0, false
	case name == "GET" && len(args) == 2:
		return 0, true
	case name == "SET" && len(args) == 3:
		return opSet, s.fits(args)
	case name == "DEL" && len(args) >= 2:
		return opDel, s.fits(args)
	}
	return 0, false
}

func (s *respServer) fits(args [][]byte) bool {
	size := 0
	for _, arg := range args[1:] {
		size += len(arg)
	}
	return size <= s.store.options.MaxValueSize
}

// flight are the requests of one connection that are under way, in order.
type flight struct {
	commands []flying
	keys     map[string]bool
	unsent   int // bytes of values that are answered and not sent
}

type flying struct {
	name     string
	requests []*request
}

func (f *flight) has(keys [][]byte) bool {
	for _, key := range keys {
		if f.keys[string(key)] {
			return true
		}
	}
	return false
}

func (f *flight) take(s *respServer, op operation, name string, args [][]byte) {
	if f.keys == nil {
		f.keys = map[string]bool{}
	}
	command := flying{name: name}
	keys, value := args[1:], []byte(nil)
	if op == opSet {
		keys, value = args[1:2], bytes.Clone(args[2])
	}
	for _, key := range keys {
		// A key named twice in one DEL is deleted, and counted, once. Commands before
		// this one have landed if they named any of its keys.
		if f.keys[string(key)] {
			continue
		}
		f.keys[string(key)] = true
		command.requests = append(command.requests, s.store.host.submit(op, bytes.Clone(key), value))
	}
	f.commands = append(f.commands, command)
}

// land waits for everything under way and writes the answers. It sends them when they
// have become much, for which it waits for the client to read; redcon sends the rest.
func (f *flight) land(conn redcon.Conn) {
	for _, command := range f.commands {
		if f.unsent += command.land(conn); f.unsent >= maxUnsent {
			f.unsent = 0
			_ = redcon.BaseWriter(conn).Flush() // whose error redcon comes upon, too
		}
	}
	f.commands = nil
	clear(f.keys)
}

// land returns how long the value is that it has answered with, if it has.
func (c *flying) land(conn redcon.Conn) (size int) {
	var last answer
	var failure error // the first
	done, deleted := 0, 0
	for _, r := range c.requests {
		last = <-r.done
		switch {
		case last.err == nil:
			done++
		case failure == nil:
			failure = last.err
		}
		if last.existed {
			deleted++
		}
	}
	switch {
	case failure != nil && len(c.requests) > 1:
		conn.WriteError(someFailed(failure, done, len(c.requests)))
	case failure != nil:
		conn.WriteError(failure.Error())
	case c.name == "SET":
		conn.WriteString("OK")
	case c.name == "DEL":
		conn.WriteInt(deleted)
	case last.value == nil:
		conn.WriteNull()
	default:
		conn.WriteBulk(last.value)
		return len(last.value)
	}
	return 0
}

// someFailed is the answer to a command of which some keys, or all, have failed: what
// is so of the first of these need not be so of the others.
func someFailed(first error, done, keys int) string {
	why := strings.TrimPrefix(first.Error(), ErrTryAgain.Error()+" ")
	why = strings.TrimSuffix(why, ", nothing was written")
	return fmt.Sprintf("%v %d of %d keys are dealt with, of the others some may be: %s", ErrTryAgain, done, keys, why)
}

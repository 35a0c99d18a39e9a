package arm

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/raftmux/raftmux/bench/internal/load"
	"github.com/raftmux/raftmux/bench/internal/measure"
)

// rawtcpArm is the limit of the machine: bytes that were encoded beforehand, a
// flush's worth per write, on one connection per worker. Each write begins with
// its length and the number of its messages, which is all that the receiver
// looks at.
func rawtcpArm() Arm {
	return Arm{Name: "raw tcp", Serve: serveRawtcp, Dial: dialRawtcp}
}

const (
	rawHeader = 8
	rawBuffer = 256 << 10
)

// acceptor serves each connection on a goroutine of its own.
type acceptor struct {
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  []net.Conn
}

// newAcceptor accepts from a listener, or from one of its own if that is nil.
func newAcceptor(listener net.Listener, serve func(net.Conn)) (*acceptor, error) {
	if listener == nil {
		var err error
		if listener, err = listen(); err != nil {
			return nil, err
		}
	}
	a := &acceptor{listener: listener}
	a.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil || !a.enter(conn) {
				return
			}
			a.running.Go(func() {
				serve(conn)
				_ = conn.Close() // it is of no more use, whatever it says
			})
		}
	})
	return a, nil
}

func (a *acceptor) enter(conn net.Conn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		_ = conn.Close() // nobody has read from it
		return false
	}
	a.conns = append(a.conns, conn)
	return true
}

// Close ends the connections and waits for those who serve them.
func (a *acceptor) Close() error {
	a.mu.Lock()
	a.closed = true
	for _, conn := range a.conns {
		_ = conn.Close() // it may be closed already
	}
	a.mu.Unlock()
	err := a.listener.Close()
	a.running.Wait()
	return err
}

type rawtcpReceiver struct{ *acceptor }

func serveRawtcp(o ServeOptions) (Receiver, error) {
	if o.Stores != 1 {
		return nil, errors.New("raw tcp: one peer only")
	}
	acceptor, err := newAcceptor(nil, func(conn net.Conn) { drain(conn, o.Sink.Counter()) })
	if err != nil {
		return nil, err
	}
	return rawtcpReceiver{acceptor}, nil
}

// drain reads until the connection ends.
func drain(conn net.Conn, counter *measure.Counter) {
	reader := bufio.NewReaderSize(conn, rawBuffer)
	body := make([]byte, rawBuffer)
	var header [rawHeader]byte
	for {
		if _, err := io.ReadFull(reader, header[:]); err != nil {
			return
		}
		left := int(binary.LittleEndian.Uint32(header[:]))
		for left > 0 {
			n, err := reader.Read(body[:min(left, len(body))])
			if err != nil {
				return
			}
			left -= n
		}
		counter.TakeMany(int(binary.LittleEndian.Uint32(header[4:])))
	}
}

// Endpoint implements Receiver.
func (r rawtcpReceiver) Endpoint() Endpoint {
	return Endpoint{Addresses: []string{r.listener.Addr().String()}}
}

type rawtcpSender struct{ address string }

func dialRawtcp(o DialOptions) (Sender, error) {
	return rawtcpSender{address: o.Endpoint.Addresses[0]}, closeUnused(o.Back)
}

// Close implements Sender.
func (rawtcpSender) Close() error { return nil }

// Worker implements Flooder.
func (s rawtcpSender) Worker(number int, plan load.Plan) (Worker, error) {
	messages, err := kvRing(number, plan)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		return nil, fmt.Errorf("raw tcp: %w", err)
	}
	w := &rawtcpWorker{conn: conn}
	var bytes []byte
	for from := 0; from+plan.PerFlush <= len(messages); from += plan.PerFlush {
		bytes = make([]byte, rawHeader, rawHeader+len(bytes))
		for _, message := range messages[from : from+plan.PerFlush] {
			body, err := message.Marshal()
			if err != nil {
				return nil, errors.Join(fmt.Errorf("raw tcp: %w", err), conn.Close())
			}
			bytes = append(bytes, body...)
		}
		binary.LittleEndian.PutUint32(bytes, uint32(len(bytes)-rawHeader))
		binary.LittleEndian.PutUint32(bytes[4:], uint32(plan.PerFlush))
		w.rounds = append(w.rounds, bytes)
		if len(w.rounds)*len(bytes) > rawMost {
			break
		}
	}
	return w, nil
}

// rawMost is the memory after which the rounds begin anew.
const rawMost = 64 << 20

type rawtcpWorker struct {
	conn   net.Conn
	rounds [][]byte
	next   int
	sent   int
}

// Send implements Worker. Which message it is doesn't matter: they go by rounds.
func (w *rawtcpWorker) Send(int) bool {
	w.sent++
	return true
}

// Flush implements Worker. A round that was cut short is refused.
func (w *rawtcpWorker) Flush() (refused int) {
	sent := w.sent
	w.sent = 0
	round := w.rounds[w.next%len(w.rounds)]
	if sent != int(binary.LittleEndian.Uint32(round[4:])) {
		return sent
	}
	w.next++
	if _, err := w.conn.Write(round); err != nil {
		return sent
	}
	return 0
}

// Close implements Worker.
func (w *rawtcpWorker) Close() { _ = w.conn.Close() }

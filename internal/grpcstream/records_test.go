package grpcstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
	"pgregory.net/rapid"

	"github.com/raftmux/raftmux/internal/rig"
)

// loopback returns both ends of a TCP connection, which is closed when the test ends.
func loopback(t *testing.T) (dialled, accepted net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	if dialled, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialled.Close() })
	if accepted, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = accepted.Close() })
	return dialled, accepted
}

// overTLS returns both ends of a connection; the client's is gathering, and
// writes to a recorder.
func overTLS(t *testing.T) (client net.Conn, server *tls.Conn, written *recorder) {
	t.Helper()
	certificate, pool := rig.Certificate(t)
	socket, accepted := loopback(t)
	server = tls.Server(accepted, &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"},
	})
	shaken := make(chan error, 1)
	go func() { shaken <- server.Handshake() }()
	written = &recorder{Conn: socket}
	transport := gathering{credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}), new(bursts)}
	client, info, err := transport.Clone().ClientHandshake(t.Context(), "127.0.0.1", written)
	if err := errors.Join(err, <-shaken); err != nil {
		t.Fatal(err)
	}
	if info.AuthType() != "tls" {
		t.Fatalf("the connection is %q", info.AuthType())
	}
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return client, server, written
}

// recorder counts the writes to a socket.
type recorder struct {
	net.Conn
	mu     sync.Mutex
	writes []int
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	r.writes = append(r.writes, len(p))
	r.mu.Unlock()
	return r.Conn.Write(p)
}

// since returns the sizes of the writes after the first n.
func (r *recorder) since(n int) []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writes[n:]
}

// Whatever is written arrives, and what is more than a record costs one write for
// each burst.
func TestBurstsAreWrittenAtOnce(t *testing.T) {
	client, server, written := overTLS(t)
	content := bytes.Repeat([]byte("0123456789abcde"), 40_000)
	rapid.Check(t, func(t *rapid.T) {
		// All the sizes that matter: around records, bursts, and what gRPC writes.
		size := max(0, rapid.SampledFrom([]int{
			0, recordSize, burstSize, tlsWriteBufferSize, 5 * burstSize,
		}).Draw(t, "about")+rapid.IntRange(-2, recordSize).Draw(t, "more"))
		sent := content[size%15:][:size]
		before := len(written.since(0))
		done := make(chan error, 1)
		go func() {
			n, err := client.Write(sent)
			if err == nil && n != size {
				err = io.ErrShortWrite
			}
			done <- err
		}()
		got := make([]byte, size)
		_, err := io.ReadFull(server, got)
		if err := errors.Join(err, <-done); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, sent) {
			t.Fatalf("%d bytes came as others", size)
		}
		if size <= recordSize {
			return // TLS begins with records of a packet
		}
		whole, rest := size/burstSize, size%burstSize
		writes := written.since(before)
		if rest == 0 && len(writes) != whole || rest > recordSize && len(writes) != whole+1 {
			t.Fatalf("%d bytes in writes of %v", size, writes)
		}
	})
}

// numbering is a TLS of the tests: it numbers its records, as TLS does, and who
// reads may write, too.
type numbering struct {
	net.Conn
	mu   sync.Mutex
	next uint32
}

func (c *numbering) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(p) > 0 {
		record := p[:min(len(p), recordSize)]
		if err := c.record(record); err != nil {
			return n, err
		}
		n, p = n+len(record), p[len(record):]
	}
	return n, nil
}

func (c *numbering) record(p []byte) error {
	head := binary.BigEndian.AppendUint32(nil, c.next)
	c.next++
	_, err := c.Conn.Write(append(binary.BigEndian.AppendUint32(head, uint32(len(p))), p...))
	return err
}

func (c *numbering) alert() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.record([]byte("!"))
}

// Close says good-bye, for as long as that takes.
func (c *numbering) Close() error { return errors.Join(c.alert(), c.Conn.Close()) }

// numbered are credentials of numbering connections.
type numbered struct {
	credentials.TransportCredentials
}

func (numbered) ClientHandshake(
	_ context.Context, _ string, socket net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	return &numbering{Conn: socket}, credentials.TLSInfo{}, nil
}

func overNumbering(t *testing.T, socket net.Conn) (*burstConn, *numbering) {
	t.Helper()
	client, _, err := gathering{numbered{}, new(bursts)}.ClientHandshake(t.Context(), "", socket)
	if err != nil {
		t.Fatal(err)
	}
	burst := client.(*burstConn)
	return burst, burst.Conn.(*numbering)
}

// Records that other goroutines write keep their place among those of a burst.
func TestRecordsKeepTheirOrder(t *testing.T) {
	const writes, alerts = 200, 2000
	ours, theirs := net.Pipe()
	client, inner := overNumbering(t, ours)
	var writing sync.WaitGroup
	for half := range 2 { // two may write, even if gRPC has only one that does
		writing.Go(func() {
			for i := half; i < writes; i += 2 {
				if _, err := client.Write(make([]byte, i*997%(3*burstSize))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writing.Go(func() {
		for range alerts {
			if err := inner.alert(); err != nil {
				t.Error(err)
			}
		}
	})
	go func() {
		writing.Wait()
		_ = ours.Close()
	}()
	want, sum := 0, 0
	for i := range writes {
		want += i * 997 % (3 * burstSize)
	}
	for next := uint32(0); ; next++ {
		head := make([]byte, 8)
		if _, err := io.ReadFull(theirs, head); err != nil {
			break
		}
		if number := binary.BigEndian.Uint32(head); number != next {
			t.Fatalf("record %d comes at place %d", number, next)
		}
		record := make([]byte, binary.BigEndian.Uint32(head[4:]))
		if _, err := io.ReadFull(theirs, record); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(record, []byte("!")) {
			sum += len(record)
		}
	}
	if err := theirs.Close(); err != nil {
		t.Error(err)
	}
	if sum != want {
		t.Errorf("%d bytes came of %d", sum, want)
	}
}

// breaking is a socket whose third write fails after half of it.
type breaking struct {
	net.Conn
	writes int
}

var errBroken = errors.New("broken")

func (b *breaking) Write(p []byte) (int, error) {
	b.writes++
	if b.writes == 3 {
		return len(p) / 2, errBroken
	}
	return len(p), nil
}

func (b *breaking) Close() error { return nil }

// A write that fails is the last: what came after it would be no stream of records.
func TestNothingIsWrittenAfterAFailure(t *testing.T) {
	socket := &breaking{}
	client, inner := overNumbering(t, socket)
	n, err := client.Write(make([]byte, 5*burstSize))
	if n != 2*burstSize || !errors.Is(err, errBroken) {
		t.Errorf("%d bytes were written, then %v", n, err)
	}
	for _, size := range []int{1, recordSize, burstSize} {
		if n, err := client.Write(make([]byte, size)); n != 0 || !errors.Is(err, errBroken) {
			t.Errorf("%d bytes were written after a failure: %v", n, err)
		}
	}
	if err := inner.alert(); !errors.Is(err, errBroken) {
		t.Errorf("an alert after a failure: %v", err)
	}
	if socket.writes != 3 {
		t.Errorf("%d writes, the third failed", socket.writes)
	}
}

// Close breaks off a burst that nobody reads, and doesn't wait to say good-bye.
func TestCloseBreaksABurstOff(t *testing.T) {
	ours, theirs := net.Pipe()
	client, _ := overNumbering(t, ours)
	written := make(chan error, 1)
	go func() {
		_, err := client.Write(make([]byte, burstSize))
		written <- err
	}()
	if _, err := io.ReadFull(theirs, make([]byte, 8)); err != nil { // so it has begun
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- client.Close() }()
	for _, c := range []chan error{written, closed} {
		select {
		case err := <-c:
			if err == nil {
				t.Error("no error, though the burst was broken off")
			}
		case <-time.After(rig.WaitTimeout):
			t.Fatal("it waits for one who doesn't read")
		}
	}
	_ = theirs.Close()
}

// channelz of gRPC asks the socket for its options.
func TestBurstConnHasTheSocket(t *testing.T) {
	socket, _ := loopback(t)
	client, _ := overNumbering(t, socket)
	if _, err := client.SyscallConn(); err != nil {
		t.Error(err)
	}
	client, _ = overNumbering(t, &breaking{})
	if _, err := client.SyscallConn(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("no socket: %v", err)
	}
}

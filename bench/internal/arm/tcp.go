package arm

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/bench/internal/load"
	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/wire"
)

// tcpArm is a plain framed stream behind the Client's stream port: our queue,
// our codec and our Server, without gRPC. Messages are lent.
//
// A stream is a connection. It begins with a line, the sending store's id and
// the stream's; the answer to it is the receiving store's id, in 8 bytes. Each
// batch goes behind its length, in 4 bytes. A byte from the receiver ends it all.
func tcpArm() Arm {
	return Arm{
		Name:  "tcp",
		Serve: serveTCP,
		Dial: func(o DialOptions) (Sender, error) {
			return dialRaftmux(o, func(options *raftmux.ClientOptions) { options.Transport = new(tcpTransport) })
		},
	}
}

// tcpTransport implements peer.Transport. It connects as streams are opened.
type tcpTransport struct{}

// Connect implements peer.Transport.
func (*tcpTransport) Connect(ctx context.Context, address string) (peer.Link, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &tcpLink{conn: conn}, nil
}

type tcpLink struct{ conn net.Conn }

// Open implements peer.Link. One stream is all that a link can carry.
func (l *tcpLink) Open(ctx context.Context, kind peer.Kind, id wire.StreamID) (peer.Stream, error) {
	if kind != peer.BatchRaft {
		return nil, peer.ErrUnimplemented
	}
	if _, err := fmt.Fprintf(l.conn, "%d %s\n", load.FromStore, id); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, l.Close)
	return &tcpStream{conn: l.conn, stop: stop}, nil
}

// Close implements peer.Link.
func (l *tcpLink) Close() { _ = l.conn.Close() }

// tcpStream implements peer.Stream.
type tcpStream struct {
	conn   net.Conn
	stop   func() bool
	length [4]byte
	parts  net.Buffers
}

// Send implements peer.Stream. The kernel has copied everything when it returns,
// so the buffers go back at once.
func (s *tcpStream) Send(batch queue.Batch) error {
	defer batch.Buffers.Free()
	binary.LittleEndian.PutUint32(s.length[:], uint32(batch.Bytes))
	s.parts = append(s.parts[:0], s.length[:])
	for _, buffer := range batch.Buffers {
		s.parts = append(s.parts, buffer.ReadOnlyData())
	}
	parts := s.parts // WriteTo moves it along
	_, err := parts.WriteTo(s.conn)
	clear(s.parts)
	if err != nil {
		_ = s.conn.Close() // Wait tells why
	}
	return err
}

// CloseSend implements peer.Stream.
func (s *tcpStream) CloseSend() {
	if conn, ok := s.conn.(*net.TCPConn); ok {
		_ = conn.CloseWrite() // a broken stream shows in Wait
	}
}

// Wait implements peer.Stream.
func (s *tcpStream) Wait(answered func(storeID uint64)) error {
	defer s.stop()
	var answer [8]byte
	if _, err := io.ReadFull(s.conn, answer[:]); err != nil {
		return err
	}
	answered(binary.LittleEndian.Uint64(answer[:]))
	_, err := io.ReadFull(s.conn, answer[:1])
	return err
}

// tcpReceiver is a raftmux.Server per store that is fed from connections.
type tcpReceiver struct {
	closers
	endpoint Endpoint
}

func serveTCP(o ServeOptions) (Receiver, error) {
	r := &tcpReceiver{}
	for i := range o.Stores {
		server, err := raftmux.NewServer(raftmux.ServerOptions{
			StoreID: uint64(load.FirstStore + i), Handler: newHost(o.Sink), LendMessages: true,
		})
		if err != nil {
			return nil, err
		}
		address, err := r.serveOn(server, nil)
		if err != nil {
			return nil, err
		}
		r.endpoint.Addresses = append(r.endpoint.Addresses, address)
	}
	return r, nil
}

// serveOn feeds a Server until the receiver is closed; listener may be nil.
func (r *tcpReceiver) serveOn(server *raftmux.Server, listener net.Listener) (address string, err error) {
	var service registrar
	server.Register(&service)
	handler, err := service.batchRaft()
	if err != nil {
		return "", err
	}
	memory := new(wire.Pool) // gRPC's own clears a MiB for a batch of 33 KiB
	acceptor, err := newAcceptor(listener, func(conn net.Conn) {
		stream, err := newServerStream(conn, memory)
		if err != nil {
			return // the sender has gone away, or is none of ours
		}
		if handler(nil, stream) == nil {
			_, _ = conn.Write([]byte{1}) // if it can't be told, the sender sees the end
		}
	})
	if err != nil {
		return "", err
	}
	r.add(acceptor.Close)
	r.add(func() error { return server.Close(context.Background()) })
	return acceptor.listener.Addr().String(), nil
}

// Endpoint implements Receiver.
func (r *tcpReceiver) Endpoint() Endpoint { return r.endpoint }

// registrar is a grpc.ServiceRegistrar that keeps what is registered.
type registrar struct{ streams []grpc.StreamDesc }

// RegisterService implements grpc.ServiceRegistrar.
func (r *registrar) RegisterService(service *grpc.ServiceDesc, _ any) { r.streams = service.Streams }

func (r *registrar) batchRaft() (grpc.StreamHandler, error) {
	for _, stream := range r.streams {
		if stream.StreamName == "BatchRaft" {
			return stream.Handler, nil
		}
	}
	return nil, errors.New("tcp: the server has no BatchRaft")
}

// serverStream is a grpc.ServerStream on a connection, as far as a Server needs one.
type serverStream struct {
	grpc.ServerStream
	ctx    context.Context
	conn   net.Conn
	reader *bufio.Reader
	memory mem.BufferPool
	length [4]byte
}

// tcpReadBuffer is what a small batch is read through. What is left of a large one
// goes straight to where it belongs, the more of it the smaller this is.
const tcpReadBuffer = 64 << 10

func newServerStream(conn net.Conn, memory mem.BufferPool) (*serverStream, error) {
	reader := bufio.NewReaderSize(conn, tcpReadBuffer)
	line, err := reader.ReadString('\n')
	if err != nil {
		return nil, err
	}
	source, id, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	ctx := metadata.NewIncomingContext(context.Background(),
		metadata.Pairs(wire.SourceStoreKey, source, wire.StreamKey, id))
	return &serverStream{ctx: ctx, conn: conn, reader: reader, memory: memory}, nil
}

// Context implements grpc.ServerStream.
func (s *serverStream) Context() context.Context { return s.ctx }

// SendHeader implements grpc.ServerStream: it answers with the store id.
func (s *serverStream) SendHeader(header metadata.MD) error {
	var storeID uint64
	if values := header.Get(wire.StoreKey); len(values) > 0 {
		var err error
		if storeID, err = strconv.ParseUint(values[0], 10, 64); err != nil {
			return err
		}
	}
	_, err := s.conn.Write(binary.LittleEndian.AppendUint64(nil, storeID))
	return err
}

// SendMsg implements grpc.ServerStream. The only message is Done, for which the
// byte at the end stands.
func (*serverStream) SendMsg(any) error { return nil }

// RecvMsg implements grpc.ServerStream.
func (s *serverStream) RecvMsg(message any) error {
	if _, err := io.ReadFull(s.reader, s.length[:]); err != nil {
		return err
	}
	body := s.memory.Get(int(binary.LittleEndian.Uint32(s.length[:])))
	if _, err := io.ReadFull(s.reader, *body); err != nil {
		s.memory.Put(body)
		return err
	}
	frame := mem.BufferSlice{mem.NewBuffer(body, s.memory)}
	defer frame.Free()
	return wire.Codec{}.Unmarshal(frame, message)
}

package arm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/bench/internal/load"
	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/wire"
)

// echoWait is how long a message may take there and back.
const echoWait = 5 * time.Second

// echoArm is the round trip through raftmux: each side has a Client and a Server.
func echoArm(name string, transport peer.Transport) Arm {
	use := func(o *raftmux.ClientOptions) { o.Transport = transport }
	return Arm{
		Name: name,
		Serve: func(o ServeOptions) (Receiver, error) {
			client, err := newClient(Endpoint{Addresses: []string{o.Back}}, func(options *raftmux.ClientOptions) {
				use(options)
				options.StoreID = echoStore
			})
			if err != nil {
				return nil, err
			}
			back := &echo{sender: client.NewSender(), message: load.Message{Region: 1, Store: load.FirstStore}.KV()}
			r, err := serveStore(echoStore, back, transport, nil)
			if err != nil {
				return nil, errors.Join(err, closeClient(client))
			}
			r.add(func() error { return closeClient(client) })
			return r, nil
		},
		Dial: func(o DialOptions) (Sender, error) { return dialEcho(o, transport, use) },
	}
}

// echoStore is the answering store; load.FirstStore is the asking one. Each is
// the first that the other knows.
const echoStore = load.FirstStore + 1

// storeServer is one Server, on gRPC or on plain connections.
type storeServer struct {
	closers
	endpoint Endpoint
}

func (s *storeServer) Endpoint() Endpoint { return s.endpoint }

// serveStore serves one store; listener may be nil.
func serveStore(storeID uint64, handler raftmux.Handler, transport peer.Transport, listener net.Listener) (*storeServer, error) {
	server, err := raftmux.NewServer(raftmux.ServerOptions{StoreID: storeID, Handler: handler, LendMessages: true})
	if err != nil {
		return nil, err
	}
	s := &storeServer{}
	if transport != nil {
		var plain tcpReceiver
		address, err := plain.serveOn(server, listener)
		s.closers, s.endpoint.Addresses = plain.closers, []string{address}
		return s, err
	}
	inner := grpc.NewServer(raftmux.GRPCServerOptions()...)
	server.Register(inner)
	grpcServer := &grpcReceiver{}
	if err := grpcServer.serveOn(inner, listener); err != nil {
		return nil, err
	}
	s.closers, s.endpoint = grpcServer.closers, grpcServer.endpoint
	s.add(func() error { return server.Close(context.Background()) })
	return s, nil
}

// echo answers each message by another.
type echo struct {
	sender  *raftmux.Sender
	message *raft_serverpb.RaftMessage
}

// Step implements raftmux.Handler.
func (e *echo) Step(*raft_serverpb.RaftMessage) error {
	err := e.sender.Send(e.message)
	e.sender.Flush()
	return err
}

type echoPinger struct {
	client  *raftmux.Client
	server  *storeServer
	sender  *raftmux.Sender
	message *raft_serverpb.RaftMessage
	back    signal
}

func dialEcho(o DialOptions, transport peer.Transport, use func(*raftmux.ClientOptions)) (Sender, error) {
	p := &echoPinger{back: make(signal, 1), message: load.Message{Region: 1, Store: echoStore}.KV()}
	endpoint := Endpoint{Addresses: []string{"", o.Endpoint.Addresses[0]}}
	client, err := newClient(endpoint, func(options *raftmux.ClientOptions) {
		use(options)
		options.StoreID = load.FirstStore
	})
	if err != nil {
		return nil, err
	}
	p.client, p.sender = client, client.NewSender()
	p.server, err = serveStore(load.FirstStore, p.back, transport, o.Back)
	if err != nil {
		return nil, errors.Join(err, closeClient(client))
	}
	return p, nil
}

// Ping implements Pinger.
func (p *echoPinger) Ping() error {
	if err := p.sender.Send(p.message); err != nil {
		return err
	}
	p.sender.Flush()
	return p.back.await()
}

// Close implements Sender.
func (p *echoPinger) Close() error {
	return errors.Join(closeClient(p.client), p.server.Close())
}

// signal is a raftmux.Handler that says that a message has come.
type signal chan struct{}

// Step implements raftmux.Handler.
func (s signal) Step(*raft_serverpb.RaftMessage) error {
	s <- struct{}{}
	return nil
}

func (s signal) await() error {
	timer := time.NewTimer(echoWait)
	defer timer.Stop()
	select {
	case <-s:
		return nil
	case <-timer.C:
		return errors.New("echo: nothing came back")
	}
}

// bareEchoArm is the round trip on a bare gRPC stream: the same bytes there and
// back, and nothing in between. Windows are raftmux's, for without them gRPC
// would add pings of its own to measure the link.
func bareEchoArm() Arm {
	return Arm{Name: "echo bare", Serve: serveBareEcho, Dial: dialBareEcho}
}

const bareMethod = "/bench.Echo/Stream"

func serveBareEcho(ServeOptions) (Receiver, error) {
	server := grpc.NewServer(raftmux.GRPCServerOptions()...)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Echo",
		HandlerType: (*any)(nil),
		Streams:     []grpc.StreamDesc{{StreamName: "Stream", ClientStreams: true, ServerStreams: true, Handler: bareEcho}},
	}, nil)
	r := &grpcReceiver{}
	return r, r.serve(server)
}

func bareEcho(_ any, stream grpc.ServerStream) error {
	var in wire.Incoming
	defer in.Release()
	for {
		if err := stream.RecvMsg(&in); err != nil {
			return err
		}
		if err := stream.SendMsg(copied(in.Bytes())); err != nil {
			return err
		}
	}
}

func copied(message []byte) *wire.Outgoing {
	return &wire.Outgoing{Buffers: mem.BufferSlice{mem.SliceBuffer(append([]byte(nil), message...))}}
}

type barePinger struct {
	conn    *grpc.ClientConn
	cancel  context.CancelFunc
	stream  grpc.ClientStream
	message []byte
	in      wire.Incoming
}

func dialBareEcho(o DialOptions) (Sender, error) {
	if err := closeUnused(o.Back); err != nil {
		return nil, err
	}
	message, err := load.Message{Region: 1, Store: echoStore}.KV().Marshal()
	if err != nil {
		return nil, fmt.Errorf("echo: %w", err)
	}
	conn, err := grpc.NewClient("passthrough:///"+o.Endpoint.Addresses[0],
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(raftmux.DefaultWindowSize),
		grpc.WithInitialConnWindowSize(raftmux.DefaultWindowSize),
	)
	if err != nil {
		return nil, fmt.Errorf("echo: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, bareMethod,
		grpc.ForceCodecV2(wire.Codec{}))
	if err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("echo: %w", err), conn.Close())
	}
	return &barePinger{conn: conn, cancel: cancel, stream: stream, message: message}, nil
}

// Ping implements Pinger.
func (p *barePinger) Ping() error {
	if err := p.stream.SendMsg(copied(p.message)); err != nil {
		return err
	}
	return p.stream.RecvMsg(&p.in)
}

// Close implements Sender.
func (p *barePinger) Close() error {
	p.cancel()
	p.in.Release()
	return p.conn.Close()
}

package arm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/bench/internal/load"
	"github.com/raftmux/raftmux/internal/wire"
)

// bareEchoArm is the round trip on a pair of bare gRPC streams, one for each
// direction on a connection of its own, as raftmux has them: the same bytes there
// and back, and nothing in between. Windows are raftmux's, for without them gRPC
// would add pings of its own to measure the link.
func bareEchoArm() Arm {
	return Arm{Name: "echo bare", Serve: serveBareEcho, Dial: dialBareEcho}
}

const bareMethod = "/bench.Echo/Stream"

// bareLeg is the stream of one direction, where it begins.
type bareLeg struct {
	conn   *grpc.ClientConn
	cancel context.CancelFunc
	stream grpc.ClientStream
}

func openLeg(address string) (*bareLeg, error) {
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(raftmux.DefaultWindowSize),
		grpc.WithInitialConnWindowSize(raftmux.DefaultWindowSize),
	)
	if err != nil {
		return nil, fmt.Errorf("echo: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, bareMethod, grpc.ForceCodecV2(wire.Codec{}))
	if err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("echo: %w", err), conn.Close())
	}
	return &bareLeg{conn: conn, cancel: cancel, stream: stream}, nil
}

func (l *bareLeg) send(message []byte) error {
	return l.stream.SendMsg(&wire.Outgoing{Buffers: mem.BufferSlice{mem.SliceBuffer(append([]byte(nil), message...))}})
}

func (l *bareLeg) close() error {
	l.cancel()
	return l.conn.Close()
}

// serveLeg serves the other end of a direction, and calls take for each message.
func serveLeg(r *grpcReceiver, listener net.Listener, take func(message []byte) error) error {
	server := grpc.NewServer(raftmux.GRPCServerOptions()...)
	handle := func(_ any, stream grpc.ServerStream) error {
		var in wire.Incoming
		defer in.Release()
		for {
			if err := stream.RecvMsg(&in); err != nil {
				return err
			}
			if err := take(in.Bytes()); err != nil {
				return err
			}
		}
	}
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Echo",
		HandlerType: (*any)(nil),
		Streams:     []grpc.StreamDesc{{StreamName: "Stream", ClientStreams: true, Handler: handle}},
	}, nil)
	return r.serveOn(server, listener)
}

// wayBack is the answering side's leg. It is opened by the first message: before,
// nobody listens there.
type wayBack struct {
	address string

	mu  sync.Mutex
	leg *bareLeg
}

func (w *wayBack) send(message []byte) (err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.leg == nil {
		if w.leg, err = openLeg(w.address); err != nil {
			return err
		}
	}
	return w.leg.send(message)
}

func (w *wayBack) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.leg == nil {
		return nil
	}
	return w.leg.close()
}

func serveBareEcho(o ServeOptions) (Receiver, error) {
	r, back := &grpcReceiver{}, &wayBack{address: o.Back}
	if err := serveLeg(r, nil, back.send); err != nil {
		return nil, err
	}
	r.add(back.close)
	return r, nil
}

type barePinger struct {
	*bareLeg
	receiver *grpcReceiver
	message  []byte
	back     signal
}

func dialBareEcho(o DialOptions) (Sender, error) {
	message, err := load.Message{Region: 1, Store: echoStore}.KV().Marshal()
	if err != nil {
		return nil, fmt.Errorf("echo: %w", err)
	}
	p := &barePinger{receiver: &grpcReceiver{}, message: message, back: make(signal, 1)}
	err = serveLeg(p.receiver, o.Back, func([]byte) error { return p.back.Step((*raft_serverpb.RaftMessage)(nil)) })
	if err != nil {
		return nil, err
	}
	if p.bareLeg, err = openLeg(o.Endpoint.Addresses[0]); err != nil {
		return nil, errors.Join(err, p.receiver.Close())
	}
	return p, nil
}

// Ping implements Pinger.
func (p *barePinger) Ping() error {
	if err := p.send(p.message); err != nil {
		return err
	}
	return p.back.await()
}

// Close implements Sender.
func (p *barePinger) Close() error {
	return errors.Join(p.close(), p.receiver.Close())
}

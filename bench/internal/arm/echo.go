package arm

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/bench/internal/load"
	"github.com/raftmux/raftmux/internal/peer"
)

// echoWait is how long a message may take there and back.
const echoWait = 5 * time.Second

// echoArm is the round trip through raftmux: each side has a Client and a Server.
func echoArm(name string, transport peer.Transport) Arm {
	return Arm{
		Name: name,
		Serve: func(o ServeOptions) (Receiver, error) {
			return serveEcho(o, raftmux.ServerOptions{}, transport)
		},
		Dial: func(o DialOptions) (Sender, error) { return dialEcho(o, transport) },
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
func serveStore(options raftmux.ServerOptions, transport peer.Transport, listener net.Listener) (*storeServer, error) {
	options.LendMessages = true
	server, err := raftmux.NewServer(options)
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

// serveEcho serves the answering store.
func serveEcho(o ServeOptions, options raftmux.ServerOptions, transport peer.Transport) (*storeServer, error) {
	client, err := newClient(Endpoint{Addresses: []string{o.Back}}, func(clientOptions *raftmux.ClientOptions) {
		clientOptions.StoreID, clientOptions.Transport = echoStore, transport
	})
	if err != nil {
		return nil, err
	}
	options.StoreID = echoStore
	options.Handler = &echo{sender: client.NewSender(), message: load.Message{Region: 1, Store: load.FirstStore}.KV()}
	s, err := serveStore(options, transport, nil)
	if err != nil {
		return nil, errors.Join(err, closeClient(client))
	}
	s.add(func() error { return closeClient(client) })
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

func dialEcho(o DialOptions, transport peer.Transport) (*echoPinger, error) {
	p := &echoPinger{back: make(signal, 1), message: load.Message{Region: 1, Store: echoStore}.KV()}
	endpoint := Endpoint{Addresses: []string{"", o.Endpoint.Addresses[0]}}
	client, err := newClient(endpoint, func(options *raftmux.ClientOptions) {
		options.StoreID, options.Transport = load.FirstStore, transport
	})
	if err != nil {
		return nil, err
	}
	p.client, p.sender = client, client.NewSender()
	p.server, err = serveStore(raftmux.ServerOptions{StoreID: load.FirstStore, Handler: p.back}, transport, o.Back)
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

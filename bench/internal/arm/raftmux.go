package arm

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/bench/internal/load"
	"github.com/raftmux/raftmux/bench/internal/measure"
	"github.com/raftmux/raftmux/resolver/static"
)

// mode is how a raftmux.Server gives messages to its host.
type mode uint8

const (
	lent mode = iota
	owned
	secured   // lent, over TLS 1.3
	referring // lent, and large payloads are not copied when they are sent
)

// raftmuxArm is this library with its defaults.
func raftmuxArm(name string, m mode) Arm {
	return Arm{
		Name: name,
		Serve: func(o ServeOptions) (Receiver, error) {
			return serveRaftmux(o, m == secured, func(handler *host) raftmux.ServerOptions {
				return raftmux.ServerOptions{Handler: handler, LendMessages: m != owned}
			})
		},
		Dial: func(o DialOptions) (Sender, error) {
			if m == referring {
				return dialRaftmux(o, referLarge)
			}
			return dialRaftmux(o, nil)
		},
	}
}

// referLarge lets large payloads be referred to.
func referLarge(o *raftmux.ClientOptions) { o.ReferToPayloads = 8 << 10 }

// grpcReceiver is one gRPC server for each store.
type grpcReceiver struct {
	closers
	endpoint Endpoint
}

func (r *grpcReceiver) Endpoint() Endpoint { return r.endpoint }

// serve adds a server that runs until the receiver is closed.
func (r *grpcReceiver) serve(server *grpc.Server) error { return r.serveOn(server, nil) }

// serveOn is serve with a listener of the caller's, if there is one.
func (r *grpcReceiver) serveOn(server *grpc.Server, listener net.Listener) error {
	if listener == nil {
		var err error
		if listener, err = listen(); err != nil {
			return err
		}
	}
	r.endpoint.Addresses = append(r.endpoint.Addresses, listener.Addr().String())
	var serving sync.WaitGroup
	var served error
	serving.Go(func() { served = server.Serve(listener) })
	r.add(func() error {
		server.Stop()
		serving.Wait()
		return served
	})
	return nil
}

func serveRaftmux(o ServeOptions, secure bool, options func(*host) raftmux.ServerOptions) (Receiver, error) {
	grpcOptions := raftmux.GRPCServerOptions()
	r := &grpcReceiver{}
	if secure {
		certificate, pem, err := newCertificate()
		if err != nil {
			return nil, err
		}
		r.endpoint.Certificate = pem
		grpcOptions = append(grpcOptions, grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate},
		})))
	}
	for i := range o.Stores {
		serverOptions := options(newHost(o.Sink))
		serverOptions.StoreID = uint64(load.FirstStore + i)
		server, err := raftmux.NewServer(serverOptions)
		if err != nil {
			return nil, err
		}
		inner := grpc.NewServer(grpcOptions...)
		server.Register(inner)
		if err := r.serve(inner); err != nil {
			return nil, err
		}
		r.add(func() error { return server.Close(context.Background()) })
	}
	return r, nil
}

// host is one receiving store. It counts by lane, as the lanes' streams run
// side by side.
type host struct {
	control, data *measure.Counter
}

func newHost(sink *measure.Sink) *host {
	return &host{control: sink.Counter(), data: sink.Counter()}
}

// Step implements raftmux.Handler.
func (h *host) Step(message *raft_serverpb.RaftMessage) error {
	body := message.Message
	switch body.MsgType {
	case eraftpb.MessageType_MsgHeartbeat, eraftpb.MessageType_MsgHeartbeatResponse:
		h.control.Take(body.Commit)
	default:
		h.data.Take(body.Commit)
	}
	return nil
}

// silent is a raftmux.Router that takes every report and does nothing.
type silent struct{}

func (silent) ReportUnreachable(uint64, uint64) bool                            { return true }
func (silent) ReportSnapshotStatus(uint64, uint64, raftmux.SnapshotStatus) bool { return true }
func (silent) StoreUnreachable(uint64) bool                                     { return true }
func (silent) StoreUp(uint64) bool                                              { return true }

// raftmuxSender is a raftmux.Client.
type raftmuxSender struct {
	client *raftmux.Client
}

// newClient returns a Client that knows the endpoint's stores; change may change
// its options.
func newClient(endpoint Endpoint, change func(*raftmux.ClientOptions)) (*raftmux.Client, error) {
	stores := make(static.Stores)
	for i, address := range endpoint.Addresses {
		stores[uint64(load.FirstStore+i)] = address
	}
	options := raftmux.ClientOptions{StoreID: load.FromStore, Resolver: stores, Router: silent{}}
	if endpoint.Certificate != nil {
		config, err := trust(endpoint.Certificate)
		if err != nil {
			return nil, err
		}
		options.Credentials = credentials.NewTLS(config)
	}
	if change != nil {
		change(&options)
	}
	return raftmux.NewClient(options)
}

func dialRaftmux(o DialOptions, change func(*raftmux.ClientOptions)) (Sender, error) {
	if err := closeUnused(o.Back); err != nil {
		return nil, err
	}
	client, err := newClient(o.Endpoint, change)
	if err != nil {
		return nil, err
	}
	return &raftmuxSender{client: client}, nil
}

// closeUnused closes the listener that an arm has no use for.
func closeUnused(back net.Listener) error {
	if back == nil {
		return nil
	}
	if err := back.Close(); err != nil {
		return fmt.Errorf("arm: %w", err)
	}
	return nil
}

// closeWait is how long a Client may send what is left when it closes: a receiver
// that reads nothing would hold it up.
const closeWait = 300 * time.Millisecond

// Close implements Sender.
func (s *raftmuxSender) Close() error { return closeClient(s.client) }

func closeClient(client *raftmux.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	return client.Close(ctx)
}

// HeldBytes implements Holder.
func (s *raftmuxSender) HeldBytes() uint64 {
	var most uint64
	for _, store := range s.client.Stores() {
		for _, connection := range store.Connections {
			most = max(most, connection.HeldBytes)
		}
	}
	return most
}

// Worker implements Flooder.
func (s *raftmuxSender) Worker(number int, plan load.Plan) (Worker, error) {
	messages, err := kvRing(number, plan)
	if err != nil {
		return nil, err
	}
	return &raftmuxWorker{ring: messages, sender: s.client.NewSender()}, nil
}

type raftmuxWorker struct {
	ring
	sender *raftmux.Sender
}

// Send implements Worker.
func (w *raftmuxWorker) Send(i int) bool { return w.sender.Send(w.ring[i]) == nil }

// Flush implements Worker.
func (w *raftmuxWorker) Flush() int {
	w.sender.Flush()
	return 0
}

// Close implements Worker.
func (w *raftmuxWorker) Close() { w.sender.Close() }

// ring is a worker's messages as kvproto has them.
type ring []*raft_serverpb.RaftMessage

func kvRing(number int, plan load.Plan) (ring, error) {
	messages, err := plan.Messages(number)
	if err != nil {
		return nil, err
	}
	made := make(ring, len(messages))
	for i, m := range messages {
		made[i] = m.KV()
	}
	return made, nil
}

// Stamp implements Stamper.
func (r ring) Stamp(i int, unixNano int64) { r[i].Message.Commit = uint64(unixNano) }

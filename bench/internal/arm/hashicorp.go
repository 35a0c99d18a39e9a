package arm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/raftmux/raftmux/bench/internal/load"
	"github.com/raftmux/raftmux/bench/internal/measure"
)

// hashicorpArm is hashicorp/raft's NetworkTransport: each worker has an append
// pipeline of its own, with so many requests in flight. Two is the default, 130
// what it was before 1.4.1.
func hashicorpArm(name string, inFlight int) Arm {
	return Arm{
		Name:  name,
		Serve: func(o ServeOptions) (Receiver, error) { return serveHashicorp(o, inFlight) },
		Dial:  func(o DialOptions) (Sender, error) { return dialHashicorp(o, inFlight) },
	}
}

func newNetworkTransport(inFlight int) (*raft.NetworkTransport, error) {
	transport, err := raft.NewTCPTransportWithConfig("127.0.0.1:0", nil, &raft.NetworkTransportConfig{
		MaxPool:         3,
		MaxRPCsInFlight: inFlight,
		Timeout:         10 * time.Second,
		Logger:          hclog.New(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Off}),
	})
	if err != nil {
		return nil, fmt.Errorf("hashicorp: %w", err)
	}
	return transport, nil
}

// hashicorpReceiver answers requests. Heartbeats take the handler's fast path.
type hashicorpReceiver struct {
	transport *raft.NetworkTransport
	counter   *measure.Counter
	cancel    context.CancelFunc
	running   sync.WaitGroup
}

func serveHashicorp(o ServeOptions, inFlight int) (Receiver, error) {
	if o.Stores != 1 {
		return nil, errors.New("hashicorp: one peer only")
	}
	transport, err := newNetworkTransport(inFlight)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &hashicorpReceiver{transport: transport, counter: o.Sink.Counter(), cancel: cancel}
	transport.SetHeartbeatHandler(r.answer)
	r.running.Go(func() {
		for {
			select {
			case rpc := <-transport.Consumer():
				r.answer(rpc)
			case <-ctx.Done():
				return
			}
		}
	})
	return r, nil
}

func (r *hashicorpReceiver) answer(rpc raft.RPC) {
	r.counter.TakeMany(1)
	rpc.Respond(&raft.AppendEntriesResponse{Term: load.Term, Success: true}, nil)
}

// Endpoint implements Receiver.
func (r *hashicorpReceiver) Endpoint() Endpoint {
	return Endpoint{Addresses: []string{string(r.transport.LocalAddr())}}
}

// Close implements Receiver.
func (r *hashicorpReceiver) Close() error {
	r.cancel()
	r.running.Wait()
	r.transport.CloseStreams()
	return r.transport.Close()
}

type hashicorpSender struct {
	transport *raft.NetworkTransport
	target    raft.ServerAddress
}

func dialHashicorp(o DialOptions, inFlight int) (Sender, error) {
	if err := closeUnused(o.Back); err != nil {
		return nil, err
	}
	transport, err := newNetworkTransport(inFlight)
	if err != nil {
		return nil, err
	}
	return &hashicorpSender{transport: transport, target: raft.ServerAddress(o.Endpoint.Addresses[0])}, nil
}

// Close implements Sender.
func (s *hashicorpSender) Close() error { return s.transport.Close() }

// Worker implements Flooder.
func (s *hashicorpSender) Worker(number int, plan load.Plan) (Worker, error) {
	messages, err := plan.Messages(number)
	if err != nil {
		return nil, err
	}
	pipeline, err := s.transport.AppendEntriesPipeline("receiver", s.target)
	if err != nil {
		return nil, fmt.Errorf("hashicorp: %w", err)
	}
	w := &hashicorpWorker{pipeline: pipeline, done: make(chan struct{})}
	for _, m := range messages {
		w.requests = append(w.requests, hashicorpRequest(m, s.transport.LocalAddr()))
	}
	w.running.Go(w.consume)
	return w, nil
}

// hashicorpRequest returns the request that has the message's entry, or a
// heartbeat: it knows no other appends, and responses are what it answers.
func hashicorpRequest(m load.Message, from raft.ServerAddress) *raft.AppendEntriesRequest {
	request := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("sender"), Addr: []byte(from)},
		Term:      load.Term,
	}
	if m.Kind == load.Append {
		request.PrevLogEntry, request.PrevLogTerm, request.LeaderCommitIndex = m.Index-1, load.Term, load.Commit
		request.Entries = []*raft.Log{{Index: m.Index, Term: load.Term, Type: raft.LogCommand, Data: m.Data}}
	}
	return request
}

type hashicorpWorker struct {
	requests []*raft.AppendEntriesRequest
	pipeline raft.AppendPipeline
	done     chan struct{}
	running  sync.WaitGroup
}

// consume takes the responses, which the pipeline waits for.
func (w *hashicorpWorker) consume() {
	for {
		select {
		case <-w.pipeline.Consumer():
		case <-w.done:
			return
		}
	}
}

// Send implements Worker. It blocks while too many requests are in flight.
func (w *hashicorpWorker) Send(i int) bool {
	_, err := w.pipeline.AppendEntries(w.requests[i], new(raft.AppendEntriesResponse))
	return err == nil
}

// Flush implements Worker.
func (*hashicorpWorker) Flush() int { return 0 }

// Close implements Worker.
func (w *hashicorpWorker) Close() {
	_ = w.pipeline.Close() // always nil
	close(w.done)
	w.running.Wait()
}

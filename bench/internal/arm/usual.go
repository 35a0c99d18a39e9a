package arm

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/bench/internal/load"
)

// Settings of the usual way. The queue is as long as raftmux's.
const (
	usualQueue = raftmux.DefaultQueueMessages
	usualBatch = raftmux.DefaultMaxBatchMessages
	usualLimit = 128 << 20 // receive limit, above every batch
)

// usualArm is the usual way: a channel per connection, and a goroutine that
// batches what is in it into the generated client, and the generated server.
func usualArm() Arm {
	return Arm{
		Name: "usual",
		Serve: func(o ServeOptions) (Receiver, error) {
			return serveUsual(o, func(h *host) tikvpb.TikvServer { return &usualServer{host: h} })
		},
		Dial: func(o DialOptions) (Sender, error) { return dialUsual(o) },
	}
}

func serveUsual(o ServeOptions, service func(*host) tikvpb.TikvServer) (Receiver, error) {
	r := &grpcReceiver{}
	for range o.Stores {
		if err := r.serve(newUsualServer(service(newHost(o.Sink)))); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func newUsualServer(service tikvpb.TikvServer) *grpc.Server {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(usualLimit),
		grpc.InitialWindowSize(raftmux.DefaultWindowSize),
		grpc.InitialConnWindowSize(raftmux.DefaultWindowSize),
	)
	tikvpb.RegisterTikvServer(server, service)
	return server
}

// usualServer has no methods but BatchRaft; the others are not called.
type usualServer struct {
	tikvpb.TikvServer
	host *host
}

// BatchRaft implements tikvpb.TikvServer.
func (s *usualServer) BatchRaft(stream tikvpb.Tikv_BatchRaftServer) error {
	for {
		batch, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, message := range batch.Msgs {
			if err := s.host.Step(message); err != nil {
				return err
			}
		}
	}
}

// usualSender has one connection per store.
type usualSender struct {
	closers
	queues  []chan *raft_serverpb.RaftMessage
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu   sync.Mutex
	errs []error
}

func dialUsual(o DialOptions) (*usualSender, error) {
	if err := closeUnused(o.Back); err != nil {
		return nil, err
	}
	return connectUsual(o.Endpoint.Addresses)
}

func connectUsual(addresses []string, more ...grpc.DialOption) (*usualSender, error) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &usualSender{cancel: cancel}
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(raftmux.DefaultWindowSize),
		grpc.WithInitialConnWindowSize(raftmux.DefaultWindowSize),
	}, more...)
	for _, address := range addresses {
		if err := s.connect(ctx, address, options); err != nil {
			return nil, errors.Join(fmt.Errorf("usual: %w", err), s.Close())
		}
	}
	return s, nil
}

// connect adds the connection to a store. One without an address is the own one.
func (s *usualSender) connect(ctx context.Context, address string, options []grpc.DialOption) error {
	queue := make(chan *raft_serverpb.RaftMessage, usualQueue)
	s.queues = append(s.queues, queue)
	if address == "" {
		return nil
	}
	conn, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		return err
	}
	s.add(conn.Close)
	stream, err := tikvpb.NewTikvClient(conn).BatchRaft(ctx)
	if err != nil {
		return err
	}
	s.running.Go(func() { s.fail(batch(ctx, queue, stream)) })
	return nil
}

// batch sends what is in the queue, as much as there is up to usualBatch.
func batch(ctx context.Context, queue <-chan *raft_serverpb.RaftMessage, stream tikvpb.Tikv_BatchRaftClient) error {
	var out tikvpb.BatchRaftMessage
	for {
		select {
		case message := <-queue:
			out.Msgs = append(out.Msgs[:0], message)
		case <-ctx.Done():
			return nil
		}
		for more := true; more && len(out.Msgs) < usualBatch; {
			select {
			case message := <-queue:
				out.Msgs = append(out.Msgs, message)
			default:
				more = false
			}
		}
		if err := stream.Send(&out); err != nil && ctx.Err() == nil {
			return fmt.Errorf("usual: %w", err)
		}
	}
}

func (s *usualSender) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, err)
}

// Close implements Sender.
func (s *usualSender) Close() error {
	s.cancel()
	s.running.Wait()
	return errors.Join(errors.Join(s.errs...), s.closers.Close())
}

// offer puts a message into the queue of its store unless that is full.
func (s *usualSender) offer(message *raft_serverpb.RaftMessage) bool {
	return s.offerTo(message.ToPeer.StoreId-load.FirstStore, message)
}

// offerTo is offer for a store by its place among the addresses.
func (s *usualSender) offerTo(store uint64, message *raft_serverpb.RaftMessage) bool {
	select {
	case s.queues[store] <- message:
		return true
	default:
		return false
	}
}

// Worker implements Flooder.
func (s *usualSender) Worker(number int, plan load.Plan) (Worker, error) {
	messages, err := kvRing(number, plan)
	if err != nil {
		return nil, err
	}
	return &usualWorker{ring: messages, sender: s}, nil
}

type usualWorker struct {
	ring
	sender *usualSender
}

// Send implements Worker.
func (w *usualWorker) Send(i int) bool { return w.sender.offer(w.ring[i]) }

// Flush implements Worker.
func (*usualWorker) Flush() int { return 0 }

// Close implements Worker.
func (*usualWorker) Close() {}

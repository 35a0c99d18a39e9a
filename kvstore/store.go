package kvstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/snapshot"
)

const (
	// closeTimeout bounds the transport's farewell when Close's context does not.
	closeTimeout = 5 * time.Second
	// serverCloseTimeout bounds the end of the streams that came in. No handler of
	// a Host waits for anything, so this is never reached by one that is well.
	serverCloseTimeout = 5 * time.Second
)

// backoffStep is shorter than raftmux's default: the stores are few, and a
// restarted one is of little use until the others have found it.
const backoffStep = 250 * time.Millisecond

// Store is one running store: a Host, raftmux at both ends of it, and a server
// for clients that speak RESP. It is safe for concurrent use.
type Store struct {
	options Options
	host    *Host
	client  *raftmux.Client
	server  *raftmux.Server
	grpc    *grpc.Server
	raft    net.Listener
	clients *respServer
	started time.Time

	snapshotSender   *snapshot.Sender
	snapshotReceiver *snapshot.Receiver

	ready   chan struct{} // closed when the regions are served
	asking  context.CancelFunc
	asked   sync.WaitGroup
	serving sync.WaitGroup
	once    sync.Once
	closed  error
}

// Open starts a store: a new one if its folder is empty, else where it stopped.
//
// A store whose folder is empty first asks the others whether they know it; see
// founding.go. Open doesn't wait for that: Ready tells when it is over, and Failed
// if one of them does, with an error that wraps ErrKnown.
func Open(options Options) (store *Store, err error) {
	options = options.withDefaults()
	if err := options.validate(); err != nil {
		return nil, errors.Join(err, closeListeners(options))
	}
	raft, clients, err := listen(options)
	if err != nil {
		return nil, err
	}
	s := &Store{options: options, raft: raft, started: time.Now(), ready: make(chan struct{}), asking: func() {}}
	s.clients = newRESPServer(s, clients)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.abandon())
		}
	}()
	if s.host, err = openHost(options); err != nil {
		return nil, err
	}
	isNew, err := s.host.affiliate()
	if err != nil {
		return nil, err
	}
	if err = s.openSnapshots(); err != nil {
		return nil, err
	}
	s.client, err = raftmux.NewClient(raftmux.ClientOptions{
		StoreID:             options.StoreID,
		Resolver:            s.host.directory,
		Router:              s.host,
		SnapshotSender:      s.snapshotSender,
		ConnectionsPerStore: options.ConnectionsPerStore,
		BackoffStep:         backoffStep,
		DialOptions:         s.host.affiliation.dialOptions(),
		Registerer:          options.Registerer,
		Logger:              options.Logger,
	})
	if err != nil {
		return nil, err
	}
	s.host.directory.onRetired = s.client.RemoveStore
	s.server, err = raftmux.NewServer(raftmux.ServerOptions{
		StoreID:          options.StoreID,
		NewReceiver:      newReceiver(s.host),
		SnapshotReceiver: s.snapshotReceiver,
		Registerer:       options.Registerer,
		Logger:           options.Logger,
	})
	if err != nil {
		return nil, err
	}
	s.grpc = grpc.NewServer(append(raftmux.GRPCServerOptions(), s.host.affiliation.serverOptions()...)...)
	s.server.Register(s.grpc)
	s.grpc.RegisterService(askDesc(), s.host)
	// With a folder that there was, or with nobody to ask, the store starts at once.
	mustAsk := isNew && len(s.host.directory.others()) > 0
	if !mustAsk {
		if err = s.begin(); err != nil {
			return nil, err
		}
	}
	s.serve()
	s.ask(isNew, mustAsk)
	return s, nil
}

// openSnapshots makes the two ends of snapshots, which keep their files with the
// regions' data.
func (s *Store) openSnapshots() (err error) {
	s.snapshotSender, err = snapshot.NewSender(snapshot.SenderOptions{
		StoreID:     s.options.StoreID,
		Source:      snapshotSource{s.host.files},
		Limiter:     snapshot.NewLimiter(max(0, s.options.SnapshotRate)),
		DialOptions: s.host.affiliation.dialOptions(),
		Registerer:  s.options.Registerer,
		Logger:      s.options.Logger,
	})
	if err != nil {
		return err
	}
	s.host.prechecks.ask = s.snapshotSender.Precheck
	if s.options.wrapPrecheck != nil {
		s.host.prechecks.ask = s.options.wrapPrecheck(s.host.prechecks.ask)
	}
	s.host.cancelSending = func(region uint64) { s.snapshotSender.Cancel(region) }
	s.snapshotReceiver, err = snapshot.NewReceiver(snapshot.ReceiverOptions{
		StoreID:      s.options.StoreID,
		Sink:         snapshotSink{s.host},
		MaxTransfers: s.options.snapshotPlaces,
		Registerer:   s.options.Registerer,
		Logger:       s.options.Logger,
	})
	return err
}

// begin makes the regions and sets them to work.
func (s *Store) begin() error {
	if err := s.host.load(); err != nil {
		return err
	}
	s.host.start(func() transport {
		sender := newTransport(s.client)
		if s.options.wrapTransport != nil {
			sender = s.options.wrapTransport(sender)
		}
		return sender
	})
	close(s.ready)
	return nil
}

// ask asks the other stores what they know of this one. A store that mustAsk
// begins when all have answered; any other only wants to hear that it was replaced.
func (s *Store) ask(isNew, mustAsk bool) {
	ctx, cancel := context.WithCancel(context.Background())
	s.asking = cancel
	s.asked.Go(func() { s.forgetStores(ctx) })
	s.asked.Go(func() {
		err := s.host.askAll(ctx, isNew)
		if err == nil && mustAsk {
			err = s.begin()
		}
		if err != nil && ctx.Err() == nil {
			s.host.fail(err)
		}
	})
}

// serve lets the others and the clients in.
func (s *Store) serve() {
	s.serving.Go(func() {
		if err := s.grpc.Serve(s.raft); err != nil {
			s.host.fail(fmt.Errorf("kvstore: serve %s: %w", s.raft.Addr(), err))
		}
	})
	s.serving.Go(func() {
		if err := s.clients.serve(); err != nil {
			s.host.fail(fmt.Errorf("kvstore: serve clients: %w", err))
		}
	})
}

// Ready is closed when the store serves its regions.
func (s *Store) Ready() <-chan struct{} { return s.ready }

// Addr returns the address where the other stores reach this one.
func (s *Store) Addr() string { return s.raft.Addr().String() }

// ClientAddr returns the address for clients.
func (s *Store) ClientAddr() string { return s.clients.listener.Addr().String() }

// Failed yields an error if the store can't go on, because its disk failed, say.
// It acknowledges nothing from then on; close it.
func (s *Store) Failed() <-chan error { return s.host.failed }

// Get reads a key, linearizably. The value is nil if there is none.
func (s *Store) Get(key []byte) ([]byte, error) {
	answer := <-s.host.submit(0, key, nil).done
	return answer.value, answer.err
}

// Set writes a key, unless that and the value are larger than Options.MaxValueSize. It
// keeps both until it returns.
func (s *Store) Set(key, value []byte) error {
	return (<-s.host.submit(opSet, key, value).done).err
}

// Delete removes a key and says whether it was there.
func (s *Store) Delete(key []byte) (existed bool, err error) {
	answer := <-s.host.submit(opDel, key, nil).done
	return answer.existed, answer.err
}

// handOverAgain is after what time regions that are still led here are handed
// over once more.
const handOverAgain = 100 * time.Millisecond

// HandOver gives the lead of all regions to other stores, so that nobody has to
// wait for an election when this one is closed. It returns when it leads none, or
// when ctx ends: there may be nobody who can take over.
func (s *Store) HandOver(ctx context.Context) {
	again := time.NewTicker(handOverAgain)
	defer again.Stop()
	for s.host.serving.Load() && s.leads() && len(s.host.directory.others()) > 0 {
		for _, w := range s.host.workers {
			w.inbox.push(item{kind: itemHandOver})
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

// leads says whether any region is led here.
func (s *Store) leads() bool {
	for i := range s.host.views {
		if s.host.views[i].leader.Load() == s.options.StoreID {
			return true
		}
	}
	return false
}

// Close stops taking requests, answers those under way, breaks off the snapshots
// that are on their way, tells the other stores what was flushed until ctx ends,
// and closes the Pebble. It is idempotent and leaves no goroutine.
func (s *Store) Close(ctx context.Context) error {
	s.once.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, closeTimeout)
		defer cancel()
		s.asking()
		s.asked.Wait()
		// The workers first: clients that wait get their answers from them.
		s.clients.refuse()
		s.host.stop()
		err := s.clients.close()
		// The Client would wait for snapshots, which take what they take.
		s.snapshotSender.Close()
		err = errors.Join(err, s.client.Close(ctx), s.closeServer())
		s.grpc.Stop()
		s.snapshotReceiver.Close()
		s.serving.Wait()
		s.closed = errors.Join(err, s.host.close())
	})
	return s.closed
}

// closeServer ends the streams that came in. It has time of its own: the Client may
// have used up all that there was, on a store that doesn't answer.
func (s *Store) closeServer() error {
	ctx, cancel := context.WithTimeout(context.Background(), serverCloseTimeout)
	defer cancel()
	return s.server.Close(ctx)
}

// abandon undoes an Open that failed half-way.
func (s *Store) abandon() error {
	err := errors.Join(s.raft.Close(), s.clients.listener.Close())
	if s.snapshotSender != nil {
		s.snapshotSender.Close()
	}
	if s.client != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		err = errors.Join(err, s.client.Close(ctx))
	}
	if s.server != nil {
		err = errors.Join(err, s.closeServer())
	}
	if s.snapshotReceiver != nil {
		s.snapshotReceiver.Close()
	}
	if s.host != nil {
		err = errors.Join(err, s.host.close())
	}
	return err
}

func listen(options Options) (raft, clients net.Listener, err error) {
	raft, clients = options.RaftListener, options.ClientListener
	if raft == nil {
		if raft, err = net.Listen("tcp", options.Addr); err != nil {
			return nil, nil, errors.Join(&AddressError{"Addr", options.Addr, err}, closeListeners(options))
		}
	}
	if clients == nil {
		if clients, err = net.Listen("tcp", options.ClientAddr); err != nil {
			return nil, nil, errors.Join(&AddressError{"ClientAddr", options.ClientAddr, err}, raft.Close())
		}
	}
	return raft, clients, nil
}

func closeListeners(options Options) error {
	var err error
	for _, listener := range []net.Listener{options.RaftListener, options.ClientListener} {
		if listener != nil {
			err = errors.Join(err, listener.Close())
		}
	}
	return err
}

package raftmux

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/raftmux/raftmux/internal/grpcstream"
	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/report"
)

// UntakenError is what Client.Close returns when the Router did not take every
// snapshot status and every unreachable report, even when asked once more. A
// *UntakenError is an error and has two fields:
//
//	Snapshots []struct { // statuses that were not taken, in the order in which they came
//		Peer   // RegionID, PeerID uint64
//		Status SnapshotStatus
//	}
//	Unreachable []struct { // peers whose report was not taken
//		RegionID, PeerID uint64
//	}
//
// The elements are of named types, of an internal package. For example:
//
//	var untaken *raftmux.UntakenError
//	if errors.As(err, &untaken) { log.Print(untaken.Snapshots, untaken.Unreachable) }
type UntakenError = report.UntakenError

// Client is a store's sending half. It owns the connections to all other
// stores, and is shared by all workers, each of which has a Sender. It is safe
// for concurrent use.
//
// Its goroutines number about two per connection and one per snapshot under
// way, never one per region or message.
type Client struct {
	options  ClientOptions
	stores   *peer.Set
	reporter *report.Reporter
	metrics  *clientMetrics

	tuningMu sync.Mutex
	tuning   Tuning // as it is now

	waitDials  func()    // waits for the Dialer
	unregister sync.Once // a second time it would be the metrics of another Client
}

// NewClient returns a Client, or an *OptionError that names a field. It
// connects to nobody yet: a store's connections come with its first message.
func NewClient(options ClientOptions) (*Client, error) {
	options = options.withDefaults()
	if err := options.validate(); err != nil {
		return nil, err
	}
	waitDials := func() {}
	if options.Transport == nil {
		transport := options.grpcTransport()
		options.Transport, waitDials = transport, transport.Wait
	}
	metrics := newClientMetrics()
	c := &Client{
		options:  options,
		reporter: report.New(options.Router),
		metrics:  metrics,
		tuning:   options.tuning(),

		waitDials: waitDials,
	}
	c.stores = peer.NewSet(c.peerOptions())
	if options.Registerer != nil {
		if err := metrics.register(options.Registerer, c.Stores); err != nil {
			_ = c.reporter.Close() // it was told nothing
			return nil, &OptionError{Field: "Registerer", Problem: registererProblem(err, "Client")}
		}
	}
	return c, nil
}

// connectionMinimum is what each connection may hold whatever the others do.
const connectionMinimum = 256 << 10

// shallowQueue is the bytes that are enough for a data connection that was full. It
// lasts until workers that were refused try again, on the fastest of connections, and
// still is little enough for a processor's caches.
const shallowQueue = 3 << 20

func (c *Client) peerOptions() *peer.Options {
	o := c.options
	return &peer.Options{
		StoreID:        o.StoreID,
		Incarnation:    uint64(time.Now().UnixNano()),
		Resolver:       o.Resolver,
		IsTombstone:    func(err error) bool { return errors.Is(err, ErrTombstone) },
		IsNotFound:     func(err error) bool { return errors.Is(err, ErrStoreNotFound) },
		BeforeResolve:  o.Hooks.BeforeResolve,
		SnapshotSender: o.SnapshotSender,
		MaxSnapshots:   o.MaxSnapshots,
		Reporter:       c.reporter,
		Metrics:        c.metrics,
		Logger:         o.Logger,
		Connections:    o.ConnectionsPerStore,
		QueueMessages:  o.QueueMessages,
		QueueBytes:     max(o.QueueBytes/o.ConnectionsPerStore, o.MaxMessageSize),
		QueueMinimum:   connectionMinimum,
		QueueShallow:   shallowQueue,
		StoreBytes:     o.QueueBytes,
		LargestMessage: o.MaxMessageSize,
		ReferTo:        o.ReferToPayloads,
		Budget:         queue.NewBudget(o.MemoryBudget),
		Pool:           new(queue.Pool),
		Limits:         o.tuning().limits(),
		BackoffStep:    o.BackoffStep,
		StallTimeout:   o.SendStallTimeout,
		ResolveTimeout: o.ConnectTimeout,
		Transport:      o.Transport,
	}
}

func (o ClientOptions) grpcTransport() *grpcstream.Transport {
	return grpcstream.New(grpcstream.Options{
		StoreID:          o.StoreID,
		ConnectTimeout:   o.ConnectTimeout,
		KeepaliveTime:    o.KeepaliveTime,
		KeepaliveTimeout: o.KeepaliveTimeout,
		WindowSize:       o.WindowSize,
		Dialer:           o.Dialer,
		Credentials:      o.Credentials,
		DialOptions:      o.DialOptions,
	})
}

// NewSender returns a worker's own handle. Close it when the worker ends.
func (c *Client) NewSender() *Sender {
	return &Sender{client: c, routes: make(map[uint64]*route), refused: make(map[refusal]int)}
}

// NewSharedSender returns a handle for callers that have no worker of their own.
func (c *Client) NewSharedSender() *SharedSender {
	return &SharedSender{sender: c.NewSender()}
}

// MaxMessageSize returns the encoded size above which a message is refused, for
// hosts that refuse it at propose time already.
func (c *Client) MaxMessageSize() int { return c.options.MaxMessageSize }

// RemoveStore forgets a store: its connections go away, what they hold is
// dropped and reported. A later message to it begins anew, with a look-up. It
// does not wait for the connections to end; Close does.
func (c *Client) RemoveStore(storeID uint64) { c.stores.Remove(storeID) }

// ReviveStore says that the id of a tombstone lives again: the next message to
// it is accepted, and begins with a look-up. Other stores are left as they are.
func (c *Client) ReviveStore(storeID uint64) { c.stores.Revive(storeID) }

// SetAllowlist pauses every store that is not listed: Send refuses messages to
// it with ErrPaused. What is queued already still leaves. Nil lifts the list.
func (c *Client) SetAllowlist(storeIDs []uint64) { c.stores.SetAllowlist(storeIDs) }

// Tune changes how batches are cut, from the next one on. Fields that are zero
// stay as they are. The error is an *OptionError, and nothing has changed then.
func (c *Client) Tune(tuning Tuning) error {
	c.tuningMu.Lock()
	defer c.tuningMu.Unlock()
	changed := c.options
	changed.MaxBatchMessages, changed.MaxBatchBytes, changed.MaxMessageAge =
		c.tuning.MaxBatchMessages, c.tuning.MaxBatchBytes, c.tuning.MaxMessageAge
	override(&changed.MaxBatchMessages, tuning.MaxBatchMessages)
	override(&changed.MaxBatchBytes, tuning.MaxBatchBytes)
	override(&changed.MaxMessageAge, tuning.MaxMessageAge)
	if err := changed.validate(); err != nil {
		return err
	}
	c.tuning = changed.tuning()
	c.stores.SetLimits(c.tuning.limits())
	return nil
}

// Close ends the Client. Messages that were flushed are sent until ctx ends;
// what was not flushed, and what remains, is dropped and reported. Snapshots
// under way may finish until ctx ends, and are then cancelled. A ctx without a
// deadline is given 10 seconds.
//
// It waits for every goroutine; no callback runs after it has returned. What the host
// does there isn't bounded by ctx: a Router, Resolver, Dialer or SnapshotSender that
// doesn't return is waited for, and the log says so 5 seconds after ctx has ended. It may
// be called again and from several goroutines, but not from a callback: every
// call waits and returns the same, nil or an *UntakenError with what the Router
// never took.
func (c *Client) Close(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		limited, cancel := context.WithTimeout(ctx, DefaultCloseTimeout)
		defer cancel()
		ctx = limited
	}
	closed := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { c.watchClose(ctx, closed) })
	c.stores.Close(ctx)
	c.waitDials()
	err := c.reporter.Close()
	c.unregister.Do(func() { c.metrics.unregister(c.options.Registerer) })
	close(closed)
	watch.Wait()
	return err
}

// closePatience is how long after its time Close may take before that is logged.
const closePatience = 5 * time.Second

// watchClose logs whom Close waits for, if that is for the host.
func (c *Client) watchClose(ctx context.Context, closed <-chan struct{}) {
	select {
	case <-closed:
		return
	case <-ctx.Done():
	}
	late := time.NewTimer(closePatience)
	defer late.Stop()
	select {
	case <-closed:
	case <-late.C:
		if call := c.reporter.Calling(); call != "" {
			c.options.Logger.Error("close waits for a callback of the Router that has not returned", "call", call)
			return
		}
		c.options.Logger.Error("close waits for a Resolver, Dialer or SnapshotSender that has not returned")
	}
}

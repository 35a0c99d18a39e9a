package raftmux

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/queue"
)

// Defaults of ClientOptions, and of ServerOptions.CloseTimeout.
const (
	DefaultConnectionsPerStore = 1
	DefaultQueueMessages       = 4096
	DefaultQueueBytes          = 64 << 20
	DefaultMaxBatchMessages    = 128
	DefaultMaxBatchBytes       = 480 << 10
	DefaultMaxMessageSize      = 64 << 20
	DefaultMaxMessageAge       = 800 * time.Millisecond
	DefaultBackoffStep         = time.Second
	DefaultConnectTimeout      = 5 * time.Second
	DefaultKeepaliveTime       = 10 * time.Second
	DefaultKeepaliveTimeout    = 3 * time.Second
	DefaultWindowSize          = 8 << 20
	DefaultMaxSnapshots        = 32
	DefaultMemoryBudget        = 512 << 20
	DefaultSendStallTimeout    = 10 * time.Second
	DefaultCloseTimeout        = 10 * time.Second
)

// ClientOptions configures a Client. StoreID, Resolver and Router are
// mandatory; every other field has a default, which its zero value stands for.
// Where TiKV has a configuration key for the same thing, it is named.
type ClientOptions struct {
	// StoreID is this store's id, never 0.
	StoreID uint64
	// Resolver finds the addresses of stores.
	Resolver Resolver
	// Router is told of failures.
	Router Router
	// SnapshotSender carries snapshot messages. Without one, every snapshot
	// message ends in SnapshotFailure.
	SnapshotSender SnapshotSender
	// MaxSnapshots bounds the snapshots under way at a time; one more ends in
	// SnapshotFailure at once. Default 32.
	MaxSnapshots int
	// Filter may take messages away at Send. Default none.
	Filter Filter

	// ConnectionsPerStore is the number of TCP connections to each store
	// (grpc-raft-conn-num) that share the data. A region always uses the same
	// one. One more carries heartbeats and votes, so these never wait behind
	// data. Default 1.
	ConnectionsPerStore int
	// QueueMessages bounds the messages that wait for one store, divided evenly
	// among its connections (raft-client-queue-size). Heartbeats and votes have
	// as much again, a quarter of it for votes alone. Default 4096.
	QueueMessages int
	// QueueBytes bounds the bytes that wait for one store, or that gRPC has not
	// let go of. A connection may use an even part of them, or MaxMessageSize if that
	// is more and the other connections leave it. However small the bound, there is
	// room for one message of that size, and for 256 KiB on each further connection,
	// or for one message if that is less.
	// Heartbeats and votes count only beyond their own 4 MiB. Default 64 MiB.
	//
	// That much is for bursts. Where more comes than leaves, a long queue would only
	// make messages old. So once a data connection was full, by its own bounds or by
	// MemoryBudget, it takes no message above 1 KiB while 3 MiB wait or are with gRPC.
	// That ends when none was refused for 5 s, or it was empty for a millisecond.
	QueueBytes int
	// MemoryBudget bounds those bytes for all stores together. A store may hold at
	// most half of what is free, so that dead ones leave room for the living. On
	// top of it each connection is sure of 256 KiB, and that of a store's
	// heartbeats and votes of 4 MiB. Snapshot messages are bounded by
	// MaxSnapshots instead. At least four times MaxMessageSize. Default 512 MiB.
	// Of the memory of messages that have left, up to 4 MiB are kept for the next.
	MemoryBudget int
	// MaxBatchMessages cuts batches by count (raft-msg-max-batch-size). At most
	// 1,048,576, above which a Server ends the stream. Default 128.
	MaxBatchMessages int
	// MaxBatchBytes cuts batches by their exact size on the wire
	// (max-grpc-send-msg-len). gRPC takes a batch whole, and one more while that
	// one is stuck, so this bounds what it holds of a stream whose peer has
	// stopped reading. Default 480 KiB, by which that is less than 1 MiB and which
	// costs nothing measurable; TiKV's is 10 MiB.
	MaxBatchBytes int
	// MaxMessageSize is the encoded size above which a message is refused
	// (max-message-size). One larger than MaxBatchBytes travels alone. Snapshot
	// messages have MaxSnapshotMessageSize instead. A Server takes no more than
	// 128 MiB at once, so neither may be above 127. Default 64 MiB.
	MaxMessageSize int
	// ReferToPayloads is the size from which on the payload of an entry is not copied
	// by Send, but referred to until gRPC has let go of it or the message was
	// dropped; at least 4 KiB. It is for hosts whose entries never change once they
	// are made: such a payload, and the memory around it if it is a part of
	// something larger, stays the host's and is neither to be written to nor to be
	// used again, ever, for nobody tells when it is free. Tests panic if one has
	// changed. It counts like any other in all bounds. Default 0: all is copied.
	ReferToPayloads int
	// MaxMessageAge is the age above which a waiting message is dropped and
	// reported in place of being sent (raft-msg-max-age). It is looked at when the
	// message's turn to leave comes, so as a rule not before it is flushed: what has
	// waited for longer until then is dropped. A message may count as being as old as
	// the first one that its Sender sent over the same connection since the last
	// Flush. Keep it below the election timeout. The default, 800 ms, suits the 1 s
	// that hosts of etcd's raft commonly use.
	MaxMessageAge time.Duration

	// BackoffStep spaces the attempts to reach a store (raft-client-backoff-step):
	// after n failures in a row the next attempt waits for BackoffStep x min(n, 5),
	// give or take a fifth. But after an attempt that lasted longer than that wait, it
	// waits for at most a fifth of BackoffStep. Default 1 s.
	BackoffStep time.Duration
	// SendStallTimeout is how long a stream may make no progress while it holds
	// messages, before it is broken: the peer is alive and has stopped reading.
	// A second is added for each MiB that it holds, so a slow link is not cut.
	// Default 10 s.
	SendStallTimeout time.Duration
	// ConnectTimeout bounds a look-up of the Resolver, and the making of a
	// connection. Default 5 s.
	ConnectTimeout time.Duration
	// KeepaliveTime is the time without traffic after which a connection is
	// probed (grpc-keepalive-time); gRPC raises less to 10 s. For addresses at which
	// a peer complains of too many probes, as gRPC's servers do unless they are told
	// what to allow, it is doubled each time, up to 10 minutes. Default 10 s.
	KeepaliveTime time.Duration
	// KeepaliveTimeout is the time that the probe's answer may take
	// (grpc-keepalive-timeout). Default 3 s.
	KeepaliveTimeout time.Duration
	// WindowSize is the HTTP/2 window of streams and connections
	// (grpc-stream-initial-window-size), at least 64 KiB. Default 8 MiB.
	WindowSize int
	// Credentials secure the connections. Default plaintext.
	Credentials credentials.TransportCredentials
	// Dialer makes the TCP connections. Return a plain *net.TCPConn where you
	// can: gRPC detects a dead peer faster on one. It must return once ctx has ended: a
	// connection isn't waited for longer, but each call that stays is a goroutine, for
	// which Close waits. Default net.Dialer.
	Dialer func(ctx context.Context, address string) (net.Conn, error)
	// DialOptions are added to those of every connection. A dialer among them
	// is ignored; see Dialer. Credentials belong in Credentials, which decide on the
	// sizes of buffers.
	DialOptions []grpc.DialOption

	// Registerer takes the metrics, until Close takes them out of it. One Client for
	// each Registerer: wrap it with prometheus.WrapRegistererWith for several.
	// Default none.
	Registerer prometheus.Registerer
	// Logger takes the log. Default none.
	Logger *slog.Logger
	// Hooks let tests of a host break things at chosen points. Default none.
	Hooks Hooks
	// Transport takes the place of gRPC. Its types are internal: it is there for
	// this project's own benchmarks. Default gRPC.
	Transport peer.Transport
}

// Tuning is the part of ClientOptions that may change while a Client runs; see
// there for the fields.
type Tuning struct {
	MaxBatchMessages int
	MaxBatchBytes    int
	MaxMessageAge    time.Duration
}

func (o ClientOptions) tuning() Tuning {
	return Tuning{MaxBatchMessages: o.MaxBatchMessages, MaxBatchBytes: o.MaxBatchBytes, MaxMessageAge: o.MaxMessageAge}
}

func (t Tuning) limits() queue.Limits {
	return queue.Limits{Messages: t.MaxBatchMessages, Bytes: t.MaxBatchBytes, Age: t.MaxMessageAge}
}

// Hooks let the tests of a host break things at chosen points. They are safe to
// set in production builds, where they cost nothing while they are nil. Each may
// be called from several goroutines at once.
type Hooks struct {
	// BeforeResolve is asked before each look-up of a store's address; an error
	// stands for the Resolver's answer.
	BeforeResolve func(storeID uint64) error
	// LoseSnapshot is asked at each accepted snapshot message; true makes the
	// store's connections vanish at that point, with all that they hold.
	LoseSnapshot func(envelope Envelope) bool
}

func (o ClientOptions) withDefaults() ClientOptions {
	setDefault(&o.MaxSnapshots, DefaultMaxSnapshots)
	setDefault(&o.ConnectionsPerStore, DefaultConnectionsPerStore)
	setDefault(&o.QueueMessages, DefaultQueueMessages)
	setDefault(&o.QueueBytes, DefaultQueueBytes)
	setDefault(&o.MaxBatchMessages, DefaultMaxBatchMessages)
	setDefault(&o.MaxBatchBytes, DefaultMaxBatchBytes)
	setDefault(&o.MaxMessageSize, DefaultMaxMessageSize)
	setDefault(&o.MaxMessageAge, DefaultMaxMessageAge)
	setDefault(&o.MemoryBudget, max(DefaultMemoryBudget, minBudgetMessages*o.MaxMessageSize))
	setDefault(&o.BackoffStep, DefaultBackoffStep)
	setDefault(&o.SendStallTimeout, DefaultSendStallTimeout)
	setDefault(&o.ConnectTimeout, DefaultConnectTimeout)
	setDefault(&o.KeepaliveTime, DefaultKeepaliveTime)
	setDefault(&o.KeepaliveTimeout, DefaultKeepaliveTimeout)
	setDefault(&o.WindowSize, DefaultWindowSize)
	if o.Dialer == nil {
		o.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "tcp", address)
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// minBudgetMessages is how many of the largest messages the budget must have
// room for, so that one queue, which gets a third, can hold one.
const minBudgetMessages = 4

// minReferToPayloads is the size below which copying a payload is cheaper than
// keeping account of it.
const minReferToPayloads = 4 << 10

func override[T int | time.Duration](field *T, value T) {
	if value != 0 {
		*field = value
	}
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// validate checks options whose defaults are filled in.
func (o ClientOptions) validate() error {
	switch {
	case o.StoreID == 0:
		return &OptionError{Field: "StoreID", Problem: "is mandatory and never 0"}
	case o.Resolver == nil:
		return &OptionError{Field: "Resolver", Problem: "is mandatory"}
	case o.Router == nil:
		return &OptionError{Field: "Router", Problem: "is mandatory"}
	}
	for _, field := range []struct {
		name    string
		value   int
		atLeast int
		atMost  int
	}{
		{"MaxSnapshots", o.MaxSnapshots, 1, 1 << 20},
		{"ConnectionsPerStore", o.ConnectionsPerStore, 1, 1024},
		{"QueueMessages", o.QueueMessages, o.ConnectionsPerStore, 1 << 24},
		{"QueueBytes", o.QueueBytes, 1, 1 << 40},
		{"MaxBatchMessages", o.MaxBatchMessages, 1, maxBatchMessages},
		{"MaxBatchBytes", o.MaxBatchBytes, 1, maxSendSize},
		{"MaxMessageSize", o.MaxMessageSize, 1, maxSendSize},
		{"MemoryBudget", o.MemoryBudget, minBudgetMessages * o.MaxMessageSize, 1 << 40},
		{"WindowSize", o.WindowSize, 64 << 10, 1 << 30},
	} {
		if field.value < field.atLeast || field.value > field.atMost {
			return &OptionError{
				Field:   field.name,
				Problem: fmt.Sprintf("is %d, must be between %d and %d", field.value, field.atLeast, field.atMost),
			}
		}
	}
	if o.ReferToPayloads != 0 && o.ReferToPayloads < minReferToPayloads {
		return &OptionError{
			Field:   "ReferToPayloads",
			Problem: fmt.Sprintf("is %d, must be 0 or at least %d", o.ReferToPayloads, minReferToPayloads),
		}
	}
	for _, field := range []struct {
		name  string
		value time.Duration
	}{
		{"MaxMessageAge", o.MaxMessageAge},
		{"BackoffStep", o.BackoffStep},
		{"SendStallTimeout", o.SendStallTimeout},
		{"ConnectTimeout", o.ConnectTimeout},
		{"KeepaliveTime", o.KeepaliveTime},
		{"KeepaliveTimeout", o.KeepaliveTimeout},
	} {
		if err := validateDuration(field.name, field.value); err != nil {
			return err
		}
	}
	return nil
}

func validateDuration(name string, value time.Duration) error {
	if value < minDuration || value > maxDuration {
		return &OptionError{Field: name, Problem: fmt.Sprintf("is %v, must be between %v and %v", value, minDuration, maxDuration)}
	}
	return nil
}

// No duration can sensibly be below minDuration: it is a number that lacks its unit.
// maxDuration is more than any, and can be multiplied.
const (
	minDuration = time.Millisecond
	maxDuration = 30 * 24 * time.Hour
)

// ServerOptions configures a Server. StoreID and one of Handler and NewReceiver
// are mandatory; every other field has a default, which its zero value stands for.
type ServerOptions struct {
	// StoreID is this store's id, never 0. A batch with a message for another
	// store ends its stream.
	StoreID uint64
	// Handler takes the messages as kvproto has them.
	Handler Handler
	// LendMessages lends messages to Handler for the time of the call only, and
	// uses their memory again; nothing may be kept, by the host or by a Raft
	// library behind it. Default false: messages are the host's to keep.
	LendMessages bool
	// NewReceiver makes a Receiver for each stream, in place of Handler.
	NewReceiver func() Receiver
	// HighWater says whether the host is above its memory high-water mark. It is
	// asked once per batch, by each stream's goroutine, and must not block. While
	// it says so, appends are refused, and everything else passes: heartbeats and
	// votes keep the leaders in office, and responses let memory go. Default never.
	HighWater func() bool
	// AppendRefused is told of each append that was refused for that reason, by
	// the stream's goroutine; it must not block. Default nobody is.
	AppendRefused func(Envelope)
	// SnapshotReceiver takes the snapshots that peers send by Tikv.Snapshot.
	// Without one, that method answers UNIMPLEMENTED.
	SnapshotReceiver SnapshotReceiver
	// CloseTimeout is how long Server.Close waits for a Handler that has not
	// returned, if its ctx has no deadline. Default 10 s.
	CloseTimeout time.Duration
	// Registerer takes the metrics, until Close takes them out of it. One Server for
	// each Registerer: wrap it with prometheus.WrapRegistererWith for several.
	// Default none.
	Registerer prometheus.Registerer
	// Logger takes the log. Default none.
	Logger *slog.Logger
}

func (o ServerOptions) withDefaults() ServerOptions {
	setDefault(&o.CloseTimeout, DefaultCloseTimeout)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// validate checks options whose defaults are filled in.
func (o ServerOptions) validate() error {
	switch {
	case o.StoreID == 0:
		return &OptionError{Field: "StoreID", Problem: "is mandatory and never 0"}
	case o.Handler == nil && o.NewReceiver == nil:
		return &OptionError{Field: "Handler", Problem: "is mandatory, unless NewReceiver is given"}
	case o.Handler != nil && o.NewReceiver != nil:
		return &OptionError{Field: "NewReceiver", Problem: "is given beside Handler; one of them is enough"}
	case o.LendMessages && o.Handler == nil:
		return &OptionError{Field: "LendMessages", Problem: "goes with Handler only"}
	case o.AppendRefused != nil && o.HighWater == nil:
		return &OptionError{Field: "AppendRefused", Problem: "is given without HighWater, which is why appends are refused"}
	}
	return validateDuration("CloseTimeout", o.CloseTimeout)
}

package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// Defaults of the options.
const (
	DefaultMaxTransfers     = 32
	DefaultRate             = 100 << 20
	DefaultStallTimeout     = 30 * time.Second
	DefaultMinRate          = 1 << 20
	DefaultGrace            = time.Minute
	DefaultConnectTimeout   = 5 * time.Second
	DefaultKeepaliveTime    = 10 * time.Second
	DefaultKeepaliveTimeout = 3 * time.Second
	DefaultWindowSize       = 8 << 20
	DefaultMaxPartials      = 8
	DefaultPartialLife      = 2 * time.Minute
	DefaultReservationLife  = 30 * time.Second
)

// SenderOptions configures a Sender. StoreID and Source are mandatory; every
// other field has a default, which its zero value stands for. Where TiKV has a
// configuration key for the same thing, it is named.
type SenderOptions struct {
	// StoreID is this store's id, never 0.
	StoreID uint64
	// Source has the data.
	Source Source
	// MaxTransfers bounds the snapshots under way at a time
	// (concurrent-send-snap-limit); one more fails at once. Default 32.
	MaxTransfers int
	// Limiter bounds the bytes per second (snap-io-max-bytes-per-sec). Share one
	// between all Senders of a process. Default 100 MiB/s for this Sender, TiKV's;
	// NewLimiter(0) lifts it.
	Limiter *Limiter

	// StallTimeout is how long a connected transfer may go without moving a byte
	// before it fails. Time spent waiting for Limiter doesn't count. Default 30 s.
	StallTimeout time.Duration
	// MinRate and Grace bound the whole of a transfer: it fails once it has taken
	// Grace and a second for each MinRate bytes of its message and its data. The time
	// for which Limiter held it back doesn't count; Source's opening of the data, the
	// connecting, and the receiver's commit do. Default 1 MiB/s and a minute.
	MinRate int64
	Grace   time.Duration

	// ConnectTimeout bounds the making of a connection. Default 5 s.
	ConnectTimeout time.Duration
	// KeepaliveTime and KeepaliveTimeout are those of raftmux.ClientOptions.
	// Default 10 s and 3 s.
	KeepaliveTime, KeepaliveTimeout time.Duration
	// WindowSize is the HTTP/2 window, at least 64 KiB. Default 8 MiB.
	WindowSize int
	// Credentials secure the connections. Default plaintext.
	Credentials credentials.TransportCredentials
	// Dialer makes the TCP connections, one for each transfer. Default net.Dialer.
	Dialer func(ctx context.Context, address string) (net.Conn, error)
	// DialOptions are added to those of every connection. A dialer among them is
	// ignored; see Dialer.
	DialOptions []grpc.DialOption

	// Registerer takes the metrics. Default none.
	Registerer prometheus.Registerer
	// Logger takes the log. Default none.
	Logger *slog.Logger
}

func (o SenderOptions) withDefaults() SenderOptions {
	setDefault(&o.MaxTransfers, DefaultMaxTransfers)
	setDefault(&o.StallTimeout, DefaultStallTimeout)
	setDefault(&o.MinRate, DefaultMinRate)
	setDefault(&o.Grace, DefaultGrace)
	setDefault(&o.ConnectTimeout, DefaultConnectTimeout)
	setDefault(&o.KeepaliveTime, DefaultKeepaliveTime)
	setDefault(&o.KeepaliveTimeout, DefaultKeepaliveTimeout)
	setDefault(&o.WindowSize, DefaultWindowSize)
	if o.Limiter == nil {
		o.Limiter = NewLimiter(DefaultRate)
	}
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

// validate checks options whose defaults are filled in.
func (o SenderOptions) validate() error {
	switch {
	case o.StoreID == 0:
		return &OptionError{Field: "StoreID", Problem: "is mandatory and never 0"}
	case o.Source == nil:
		return &OptionError{Field: "Source", Problem: "is mandatory"}
	}
	return cmp.Or(
		inRange("MaxTransfers", o.MaxTransfers, 1, 1<<20),
		inRange("StallTimeout", o.StallTimeout, time.Millisecond, 24*time.Hour),
		inRange("MinRate", o.MinRate, 1, 1<<40),
		inRange("Grace", o.Grace, time.Millisecond, 24*time.Hour),
		inRange("ConnectTimeout", o.ConnectTimeout, time.Millisecond, time.Hour),
		inRange("KeepaliveTime", o.KeepaliveTime, time.Millisecond, 24*time.Hour),
		inRange("KeepaliveTimeout", o.KeepaliveTimeout, time.Millisecond, time.Hour),
		inRange("WindowSize", o.WindowSize, 64<<10, 1<<30),
	)
}

// ReceiverOptions configures a Receiver. StoreID and Sink are mandatory; every
// other field has a default, which its zero value stands for.
type ReceiverOptions struct {
	// StoreID is this store's id, never 0. A snapshot for another is refused.
	StoreID uint64
	// Sink takes the snapshots.
	Sink Sink
	// MaxTransfers bounds the snapshots under way and the room reserved for more
	// (concurrent-recv-snap-limit). Default 32.
	MaxTransfers int
	// StallTimeout is how long a sender may send nothing before its stream is
	// ended. gRPC tells of a chunk, or of a message with its Inline data, once it has
	// come whole, so raise it for large ones by slow links. The time that Sink takes
	// doesn't count. Default 30 s.
	StallTimeout time.Duration
	// MaxPartials bounds the broken transfers that are kept so that they can be
	// resumed; -1 keeps none. Default 8.
	MaxPartials int
	// PartialLife is for how long each is kept. Default 2 minutes.
	PartialLife time.Duration
	// ReservationLife is for how long room is kept for a snapshot that was asked
	// for by Sender.Precheck. Default 30 s.
	ReservationLife time.Duration

	// Registerer takes the metrics. Default none.
	Registerer prometheus.Registerer
	// Logger takes the log. Default none.
	Logger *slog.Logger
}

func (o ReceiverOptions) withDefaults() ReceiverOptions {
	setDefault(&o.MaxTransfers, DefaultMaxTransfers)
	setDefault(&o.StallTimeout, DefaultStallTimeout)
	setDefault(&o.MaxPartials, DefaultMaxPartials)
	setDefault(&o.PartialLife, DefaultPartialLife)
	setDefault(&o.ReservationLife, DefaultReservationLife)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// validate checks options whose defaults are filled in.
func (o ReceiverOptions) validate() error {
	switch {
	case o.StoreID == 0:
		return &OptionError{Field: "StoreID", Problem: "is mandatory and never 0"}
	case o.Sink == nil:
		return &OptionError{Field: "Sink", Problem: "is mandatory"}
	}
	if inline, ok := o.Sink.(Inline); ok && inline.Deliver == nil {
		return &OptionError{Field: "Sink", Problem: "is an Inline without Deliver, by which nobody gets the snapshots"}
	}
	return cmp.Or(
		inRange("MaxTransfers", o.MaxTransfers, 1, 1<<20),
		inRange("StallTimeout", o.StallTimeout, time.Millisecond, 24*time.Hour),
		inRange("MaxPartials", o.MaxPartials, -1, 1<<20),
		inRange("PartialLife", o.PartialLife, time.Millisecond, 24*time.Hour),
		inRange("ReservationLife", o.ReservationLife, time.Millisecond, 24*time.Hour),
	)
}

// inRange returns nil or an *OptionError. Durations are written as such.
func inRange[T int | int64 | time.Duration](name string, value, from, to T) error {
	if value >= from && value <= to {
		return nil
	}
	return &OptionError{Field: name, Problem: fmt.Sprintf("is %v, must be between %v and %v", value, from, to)}
}

func setDefault[T int | int64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

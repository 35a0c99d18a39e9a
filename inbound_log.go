package raftmux

import (
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/peer"
)

// say logs what is the matter with a stream and who sent it, as far as that has said. It
// will be so again at the next one, so once a minute will do.
func (in *inbound) say(gate *minutely, level slog.Level, message string, err error) {
	if gate.may(time.Now()) {
		in.server.options.Logger.Log(in.stream.Context(), level, message,
			"source_store_id", in.source, "addr", in.address(), "err", err)
	}
}

// whose says whose stream it is, as far as that is known.
func (in *inbound) whose() string {
	if in.source != "" {
		return "store " + in.source
	}
	return in.address()
}

// address returns the address that the stream comes from, "" if gRPC doesn't say.
func (in *inbound) address() string {
	if p, ok := peer.FromContext(in.stream.Context()); ok {
		return p.Addr.String()
	}
	return ""
}

// minutely lets something happen once a minute at most. It is safe for concurrent use.
type minutely struct {
	mu   sync.Mutex
	last time.Time
}

func (m *minutely) may(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.last.IsZero() && now.Sub(m.last) < time.Minute {
		return false
	}
	m.last = now
	return true
}

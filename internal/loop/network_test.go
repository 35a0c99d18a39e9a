package loop

import (
	"context"
	"net"
)

// network is what lies between the stores, and knows what can go wrong with it.
type network interface {
	// listen opens the socket at which a store is reached.
	listen(store uint64) net.Listener
	// address returns where a store finds another one, which listens already.
	address(from, to uint64) string
	// dialer makes the connections of a store. Nil is raftmux's own.
	dialer(store uint64) func(ctx context.Context, address string) (net.Conn, error)
	// faults are the kinds of them that the cluster can be shown.
	faults(c *cluster) []faultKind
}

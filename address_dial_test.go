package raftmux_test

import (
	"context"
	"net"
	"testing"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// S13: the Dialer is called with whatever address the Resolver has returned, and the
// authority is that address, escaped where it must be.
func TestS13AnyAddressIsDialled(t *testing.T) {
	t.Parallel()
	for address, authority := range map[string]string{
		"store-two:20160":        "store-two:20160",
		"10.0.0.2:20160":         "10.0.0.2:20160",
		"[2001:db8::2]:20160":    "[2001:db8::2]:20160",
		"[fe80::1%eth0]:20160":   "[fe80::1%25eth0]:20160",
		"store?two#a%41/b:20160": "store%3Ftwo%23a%2541%2Fb:20160",
		"unix:/run/store two":    "unix:%2Frun%2Fstore%20two",
	} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			peer := rig.NewPeer(t, rig.PeerOptions{})
			h := newSending(t, func(o *raftmux.ClientOptions) {
				o.Dialer = func(ctx context.Context, dialled string) (net.Conn, error) {
					if dialled != address {
						t.Errorf("dialled %q", dialled)
					}
					return new(net.Dialer).DialContext(ctx, "tcp", peer.Addr())
				}
			})
			h.resolver.Set(there, address)
			sendAll(t, h.sender(t), rig.Ack(1, there, 2))
			peer.WaitMessages(t, 1)
			if got := peer.Streams()[0].Metadata.Get(":authority"); len(got) != 1 || got[0] != authority {
				t.Errorf("authority %q, not %q", got, authority)
			}
		})
	}
}

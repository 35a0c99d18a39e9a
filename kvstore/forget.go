package kvstore

import (
	"context"
	"time"

	"github.com/raftmux/raftmux"
)

// Why a store that has no peer any more is forgotten
//
// The Client keeps up its connections to each store that it was ever given a message
// for, and dials one that is away for as long as it runs. A store that was replaced is
// a tombstone, but one whose last peer was taken out by RemovePeer may live on, with
// peers that have not heard of it and are told when they ask; so may one that a peer
// hears of which waits for its first snapshot. So a store is forgotten when it has no
// peer in any region of this one, and has been sent nothing for a while either. A
// message to it begins anew: it is found again as soon as it is of use again.

// forgetAfter is after what time, or twice that, a store is forgotten. It is longer
// than what passes between two questions of a peer in doubt, or a store that is away
// would be dialled without any backoff.
const forgetAfter = 2 * doubtAfter * tickInterval

// forgetStores forgets them until ctx ends.
func (s *Store) forgetStores(ctx context.Context) {
	look := time.NewTicker(s.options.forgetAfter)
	defer look.Stop()
	useless := map[uint64]uint64{} // by store: how many messages it was sent until the last look
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		still := map[uint64]uint64{}
		for _, store := range s.client.Stores() {
			id, sent := store.StoreID, messagesTo(store)
			if s.host.directory.hasPeers(id) || s.host.directory.isRetired(id) {
				continue
			}
			if before, known := useless[id]; !known || before != sent {
				still[id] = sent
				continue
			}
			// First, for should it come up again, that is told later.
			s.host.directory.setUp(id, false)
			s.client.RemoveStore(id)
		}
		useless = still
	}
}

// messagesTo returns how many messages the Client has taken for a store.
func messagesTo(store raftmux.StoreStatus) (n uint64) {
	for _, connection := range store.Connections {
		n += connection.Ledger.Accepted
	}
	return n
}

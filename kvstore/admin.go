package kvstore

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
)

// Peers returns who the peers of a region are, as far as this store has applied.
func (s *Store) Peers(region uint64) (*Descriptor, error) {
	if err := s.checkRegion(region); err != nil {
		return nil, err
	}
	value, err := getCopy(s.host.db, regionKey(region, partDescriptor))
	if err != nil {
		return nil, err
	}
	switch {
	case value != nil:
		return decodeDescriptor(value)
	case s.host.views[region-1].role.Load() == uint32(roleWaiting):
		return nil, fmt.Errorf("%w region %d waits for its first snapshot on store %d", ErrTryAgain, region, s.options.StoreID)
	}
	return nil, badChange("region %d has no replica on store %d", region, s.options.StoreID)
}

// AddLearner adds a peer without a vote to a region that this store leads, on a
// store that has none of it, and returns its id. The other stores learn the
// address with it, so one at which another store answers is refused, and so is
// any but that at which the store is known to answer. The peer gets the data by a snapshot.
func (s *Store) AddLearner(region, store uint64, address string) (peer uint64, err error) {
	if err := s.checkRegion(region); err != nil { // before anyone is asked
		return 0, err
	}
	if err := checkStore(store, address); err != nil {
		return 0, inRegion(region, err)
	}
	if err := s.host.checkAddress(store, address); err != nil {
		return 0, inRegion(region, badChange("%v", err))
	}
	c := peerChange{kind: raftpb.ConfChangeAddLearnerNode}
	c.body.StoreID, c.body.Address = store, address
	return s.change(region, c)
}

// Promote makes a learner, once it has caught up, a voter. This store has to lead.
func (s *Store) Promote(region, peer uint64) error {
	_, err := s.change(region, peerChange{kind: raftpb.ConfChangeAddNode, peer: peer})
	return err
}

// RemovePeer takes a peer out of a region that this store leads. Its id is used
// up; its store destroys what it had. A leader that is asked to take itself out
// hands over the lead instead, and says to whom.
func (s *Store) RemovePeer(region, peer uint64) error {
	_, err := s.change(region, peerChange{kind: raftpb.ConfChangeRemoveNode, peer: peer})
	return err
}

func (s *Store) change(region uint64, c peerChange) (peer uint64, err error) {
	if err := s.checkRegion(region); err != nil {
		return 0, err
	}
	answer := <-s.host.dispatch(s.host.newChange(region, c)).done
	return answer.peer, answer.err
}

func (s *Store) checkRegion(region uint64) error {
	if region == 0 || region > uint64(s.options.Regions) {
		return badChange("there is no region %d, they are 1 to %d", region, s.options.Regions)
	}
	if !s.host.serving.Load() {
		return errStarting
	}
	return nil
}

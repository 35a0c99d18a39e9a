package kvstore

import (
	"encoding/json"
	"errors"
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
// address with it. The peer gets the data by a snapshot.
func (s *Store) AddLearner(region, store uint64, address string) (peer uint64, err error) {
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

// ReplaceStore orders every region that this store has a replica of to do without
// the old store, which is gone for good, and to have a peer on the new one
// instead. It returns how many regions have something to do, as soon as all of
// them have noted the order; their leaders then carry it out, whatever crashes.
// It may be given again, and to other stores for the regions that they have.
//
// There is no way back, so nothing is ordered if it can only be a mistake: this store
// is not gone, and of a new store that has a vote already beside the old one, a region
// would get no other replica.
func (s *Store) ReplaceStore(oldStore, newStore uint64, address string) (regions int, err error) {
	if err := checkStore(newStore, address); err != nil {
		return 0, err
	}
	if oldStore == s.options.StoreID && oldStore != newStore {
		return 0, badChange("store %d is to be replaced by %d and is the one that was asked, so it is not gone; stop it for good and ask another, or see which store is lost",
			oldStore, newStore)
	}
	order, err := json.Marshal(Replacement{Old: oldStore, New: newStore, Address: address})
	if err != nil {
		return 0, err
	}
	var replicas []uint64 // of which regions there are some here
	for i := range s.host.views {
		if s.host.views[i].role.Load() != uint32(roleNone) {
			replicas = append(replicas, uint64(i+1))
		}
	}
	if len(replicas) == 0 {
		return 0, badChange("store %d has no replica of any region, ask one that has", s.options.StoreID)
	}
	for _, region := range replicas {
		if err := s.checkSubstitute(region, oldStore, newStore); err != nil {
			return 0, err
		}
	}
	requests := make([]*request, 0, len(replicas))
	for _, region := range replicas {
		requests = append(requests, s.host.dispatch(&request{op: opReplace, region: region, value: order}))
	}
	return landOrders(requests)
}

// checkSubstitute refuses an order by which a region would lose a voter and gain none,
// as far as this store has applied.
func (s *Store) checkSubstitute(region, oldStore, newStore uint64) error {
	value, err := getCopy(s.host.db, regionKey(region, partDescriptor))
	if err != nil || value == nil {
		return err // it waits for its first snapshot
	}
	d, err := decodeDescriptor(value)
	if err != nil {
		return inRegion(region, err)
	}
	has := d.on(newStore)
	if oldStore == newStore || d.on(oldStore) == nil || has == nil || has.Role != Voter {
		return nil
	}
	return inRegion(region, badChange("store %d, which is to replace %d, has voter %d already; name a store that has none, or take peer %d out by RAFT.REMOVE if store %d is lost",
		newStore, oldStore, has.ID, d.on(oldStore).ID, oldStore))
}

// landOrders waits until all regions have answered an order to replace a store. Of
// what went wrong it returns what giving the order again doesn't mend, if there is that.
func landOrders(requests []*request) (regions int, err error) {
	failed := 0
	for _, request := range requests {
		answer := <-request.done
		switch {
		case answer.err != nil:
			failed++
			if err == nil || !errors.Is(answer.err, ErrTryAgain) {
				err = answer.err
			}
		case answer.existed:
			regions++
		}
	}
	switch {
	case err == nil:
		return regions, nil
	case errors.Is(err, ErrTryAgain):
		return regions, fmt.Errorf("%w (%d of %d regions have not taken the order; give it again)", err, failed, len(requests))
	default:
		return regions, fmt.Errorf("%w (%d of %d regions have not taken the order)", err, failed, len(requests))
	}
}

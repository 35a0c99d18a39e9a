package kvstore

import (
	"encoding/json"
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
	if value == nil {
		return nil, badChange("region %d has no replica on store %d", region, s.options.StoreID)
	}
	return decodeDescriptor(value)
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
func (s *Store) ReplaceStore(oldStore, newStore uint64, address string) (regions int, err error) {
	if err := checkStore(newStore, address); err != nil {
		return 0, err
	}
	order, err := json.Marshal(Replacement{Old: oldStore, New: newStore, Address: address})
	if err != nil {
		return 0, err
	}
	var requests []*request
	for i := range s.host.views {
		if s.host.views[i].role.Load() != uint32(roleNone) {
			requests = append(requests, s.host.dispatch(&request{op: opReplace, region: uint64(i + 1), value: order}))
		}
	}
	if len(requests) == 0 {
		return 0, badChange("store %d has no replica of any region, ask one that has", s.options.StoreID)
	}
	failed := 0
	for _, request := range requests {
		answer := <-request.done
		switch {
		case answer.err != nil:
			failed++
			err = answer.err
		case answer.existed:
			regions++
		}
	}
	if err != nil {
		return regions, fmt.Errorf("%w (%d of %d regions have not taken the order; give it again)", err, failed, len(requests))
	}
	return regions, nil
}

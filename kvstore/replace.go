package kvstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// ReplaceStore orders every region that this store has a replica of to do without
// the old store, which is gone for good, and to have a peer on the new one
// instead. It returns how many regions have something to do, as soon as all of
// them have noted the order; their leaders then carry it out, whatever crashes.
// It may be given again, and to other stores for the regions that they have.
//
// There is no way back, so nothing is ordered if it can only be a mistake: this store
// is not gone; of a new store that has a vote already beside the old one, a region
// would get no other replica; another store than the new one, or one of another cluster,
// is at the address; or the voters that stay in a region, as far as they can be reached,
// are no majority. For the same reason it is refused if the old store answers, or if this
// one has never heard of it; what that hides ForceReplaceStore is for. An address that was
// mistyped is mended by the order with the right one.
func (s *Store) ReplaceStore(oldStore, newStore uint64, address string) (regions int, err error) {
	return s.replaceStore(oldStore, newStore, address, false)
}

// ForceReplaceStore is ReplaceStore for an old store that answers, though it has to
// go, or that this one has never heard of, though another one waits for it. One that
// answers isn't told: stop it.
func (s *Store) ForceReplaceStore(oldStore, newStore uint64, address string) (regions int, err error) {
	return s.replaceStore(oldStore, newStore, address, true)
}

func (s *Store) replaceStore(oldStore, newStore uint64, address string, force bool) (regions int, err error) {
	if err := checkStore(newStore, address); err != nil {
		return 0, err
	}
	if err := checkStoreID(oldStore); err != nil {
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
	known := s.host.directory.knows(oldStore)
	there := s.whoIsThere()
	for _, region := range replicas {
		d, err := s.descriptorOf(region)
		if err != nil {
			return 0, err
		}
		if err := checkSubstitute(d, oldStore, newStore); err != nil {
			return 0, inRegion(region, err)
		}
		if err := checkMajority(d, oldStore, there); err != nil {
			return 0, inRegion(region, err)
		}
		known = known || d.names(oldStore)
	}
	// Whoever is to go, who comes must be the one that is meant.
	if oldStore != newStore {
		if err := s.host.checkAddress(newStore, address); err != nil {
			return 0, badChange("%v; see which store is to replace %d", err, oldStore)
		}
	}
	// Where an order was noted, no other harm comes of giving it again.
	if !force && oldStore != newStore && !s.host.directory.isRetired(oldStore) {
		if err := s.checkLost(oldStore, known); err != nil {
			return 0, err
		}
	}
	requests := make([]*request, 0, len(replicas))
	for _, region := range replicas {
		requests = append(requests, s.host.dispatch(&request{op: opReplace, region: region, value: order}))
	}
	return landOrders(requests)
}

// descriptorOf returns a region's descriptor as far as this store has applied it, an
// empty one if the region waits for its first snapshot.
func (s *Store) descriptorOf(region uint64) (*Descriptor, error) {
	value, err := getCopy(s.host.db, regionKey(region, partDescriptor))
	if err != nil || value == nil {
		return &Descriptor{}, err
	}
	d, err := decodeDescriptor(value)
	if err != nil {
		return nil, inRegion(region, err)
	}
	return d, nil
}

// names says whether a region has a store, or has an order about it, or had one.
func (d *Descriptor) names(store uint64) bool {
	under := d.Replacement
	return d.on(store) != nil || slices.Contains(d.Retired, store) || under != nil && (under.Old == store || under.New == store)
}

// whoIsThere returns what says whether a store can be reached. Each is asked once.
func (s *Store) whoIsThere() func(store uint64) bool {
	asked := map[uint64]bool{s.options.StoreID: true}
	q := question{Store: s.options.StoreID, Regions: s.options.Regions}
	return func(store uint64) bool {
		if there, ok := asked[store]; ok {
			return there
		}
		there := s.host.directory.upFor(store) > 0
		if address := s.host.directory.addressOf(store); !there && address != "" {
			r, err := s.host.ask(context.Background(), address, q, false)
			there = err == nil && r.Store == store && r.Serving
		}
		asked[store] = there
		return there
	}
}

// checkMajority refuses an order that would leave a region without a majority, with no
// way to get one: of the voters that stay, more than half must be there.
func checkMajority(d *Descriptor, oldStore uint64, there func(store uint64) bool) error {
	if old := d.on(oldStore); old == nil || old.Role != Voter {
		return nil
	}
	stay, present := 0, 0
	for _, peer := range d.Peers {
		if peer.Role != Voter || peer.StoreID == oldStore {
			continue
		}
		stay++
		if there(peer.StoreID) {
			present++
		}
	}
	switch {
	case stay == 0:
		return badChange("store %d has the only voter; give the region another first, by RAFT.ADDLEARNER and RAFT.PROMOTE", oldStore)
	case present <= stay/2:
		return badChange("without store %d there are %d voters, of which %d can be reached, which is no majority; see to it that the others run, or see which store is lost",
			oldStore, stay, present)
	}
	return nil
}

// checkSubstitute refuses an order by which a region would lose a voter and gain none.
func checkSubstitute(d *Descriptor, oldStore, newStore uint64) error {
	has := d.on(newStore)
	if oldStore == newStore || d.on(oldStore) == nil || has == nil || has.Role != Voter {
		return nil
	}
	return badChange("store %d, which is to replace %d, has voter %d already; name a store that has none, or take peer %d out by RAFT.REMOVE if store %d is lost",
		newStore, oldStore, has.ID, d.on(oldStore).ID, oldStore)
}

// checkLost refuses an order about a store that isn't lost, as far as that can be
// told from here, or about a wrong one. A store that lost its folder, and was started
// all the same, answers and doesn't serve.
func (s *Store) checkLost(oldStore uint64, known bool) error {
	const force = "add FORCE, or use ForceReplaceStore"
	if !known {
		return badChange("store %d, which is to be replaced, is one that store %d has never heard of; see which store is lost, or, if one that starts waits for it, %s",
			oldStore, s.options.StoreID, force)
	}
	h := s.host
	q := question{Store: s.options.StoreID, Regions: s.options.Regions}
	if at := h.directory.others()[oldStore]; at != "" {
		if r, err := h.ask(context.Background(), at, q, false); err == nil && r.Store == oldStore && r.Serving {
			return badChange("store %d, which is to be replaced, is not gone, it answers at %s; stop it for good, or see which store is lost, or, if it has to go all the same, %s",
				oldStore, at, force)
		}
	}
	return nil
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

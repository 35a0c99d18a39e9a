package kvstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
)

// ErrChange is wrapped by the error of a membership change that the region, as
// it is, has no use for. It is a *ChangeError.
var ErrChange = errors.New("BADCHANGE")

// ChangeError says which region has no use for a change, and why. It wraps
// ErrChange.
type ChangeError struct {
	// Region is the region's id, 0 if the change would be wrong in any.
	Region uint64
	// Problem says what is wrong.
	Problem string
}

// Error implements error. The first word is what clients tell errors apart by.
func (e *ChangeError) Error() string {
	if e.Region == 0 {
		return fmt.Sprintf("%v %s", ErrChange, e.Problem)
	}
	return fmt.Sprintf("%v region %d: %s", ErrChange, e.Region, e.Problem)
}

// Unwrap returns ErrChange.
func (e *ChangeError) Unwrap() error { return ErrChange }

func badChange(format string, args ...any) error {
	return &ChangeError{Problem: fmt.Sprintf(format, args...)}
}

// inRegion says which region a refusal is from.
func inRegion(region uint64, err error) error {
	var change *ChangeError
	if errors.As(err, &change) {
		return &ChangeError{Region: region, Problem: change.Problem}
	}
	return fmt.Errorf("%w (region %d)", err, region)
}

// Role is what a peer does in its region.
type Role string

// The roles of a peer. A Learner has the data and no vote.
const (
	Voter   Role = "voter"
	Learner Role = "learner"
)

// Peer is one replica of a region.
type Peer struct {
	// ID is the peer's id. It is given once and never again.
	ID uint64 `json:"id"`
	// StoreID is where the peer is; a store has one of a region at most.
	StoreID uint64 `json:"store"`
	// Address is the store's, for the other stores.
	Address string `json:"address"`
	// Role is the peer's.
	Role Role `json:"role"`
}

// Replacement is the order to have a store's peer taken out and one on another
// store put in. The region's leader carries it out, step by step.
type Replacement struct {
	Old     uint64 `json:"old"`
	New     uint64 `json:"new"`
	Address string `json:"address"`
}

// Descriptor says who the peers of a region are. It is part of the region's
// state machine: it changes by entries of the log and by nothing else, and is on
// disk in the batch that has the entry's index as applied.
type Descriptor struct {
	// Peers are in the order of their ids.
	Peers []Peer `json:"peers"`
	// ConfVer counts the changes of Peers.
	ConfVer uint64 `json:"conf_ver"`
	// LastPeer is the highest id that was ever given. An id up to it that isn't
	// among Peers was taken out, for good.
	LastPeer uint64 `json:"last_peer"`
	// Replacement is what the leader has to do, nil if there is nothing.
	Replacement *Replacement `json:"replacement,omitempty"`
	// Retired are the stores that were replaced, in order; their ids are used up.
	Retired []uint64 `json:"retired,omitempty"`
}

// foundingDescriptor is that of a new cluster's region: a voter on each store.
func foundingDescriptor(region uint64, stores []uint64, addresses map[uint64]string) *Descriptor {
	d := &Descriptor{ConfVer: 1, LastPeer: lastFoundingPeer(region)}
	for _, store := range stores {
		d.Peers = append(d.Peers, Peer{ID: PeerID(region, store), StoreID: store, Address: addresses[store], Role: Voter})
	}
	return d
}

func (d *Descriptor) encode() ([]byte, error) { return json.Marshal(d) }

func decodeDescriptor(value []byte) (*Descriptor, error) {
	d := &Descriptor{}
	if err := json.Unmarshal(value, d); err != nil {
		return nil, fmt.Errorf("kvstore: malformed descriptor: %w", err)
	}
	return d, nil
}

// peer returns the peer with an id, nil if there is none.
func (d *Descriptor) peer(id uint64) *Peer {
	for i := range d.Peers {
		if d.Peers[i].ID == id {
			return &d.Peers[i]
		}
	}
	return nil
}

// on returns the peer on a store, nil if there is none.
func (d *Descriptor) on(store uint64) *Peer {
	for i := range d.Peers {
		if d.Peers[i].StoreID == store {
			return &d.Peers[i]
		}
	}
	return nil
}

// gone says whether a peer was taken out.
func (d *Descriptor) gone(id uint64) bool { return id <= d.LastPeer && d.peer(id) == nil }

// confState is what Raft knows of the descriptor.
func (d *Descriptor) confState() *raftpb.ConfState {
	state := &raftpb.ConfState{}
	for _, peer := range d.Peers {
		if peer.Role == Learner {
			state.Learners = append(state.Learners, peer.ID)
		} else {
			state.Voters = append(state.Voters, peer.ID)
		}
	}
	return state
}

// voterStores returns the stores of the voters in order.
func (d *Descriptor) voterStores() []uint64 {
	var stores []uint64
	for _, peer := range d.Peers {
		if peer.Role == Voter {
			stores = append(stores, peer.StoreID)
		}
	}
	slices.Sort(stores)
	return stores
}

func (d *Descriptor) clone() *Descriptor {
	c := *d
	c.Peers = slices.Clone(d.Peers)
	return &c
}

// peerChange is one step of a membership change: the content of a conf change.
type peerChange struct {
	kind raftpb.ConfChangeType
	peer uint64
	body changeBody
}

// changeBody is what a conf change carries besides its type and its peer.
type changeBody struct {
	StoreID uint64 `json:"store,omitempty"`
	Address string `json:"address,omitempty"`
	// By names the request, so that who asked gets the answer.
	By [3]uint64 `json:"by"`
}

func (c peerChange) encode() (*raftpb.ConfChange, error) {
	body, err := json.Marshal(c.body)
	return &raftpb.ConfChange{Type: c.kind.Enum(), NodeId: new(c.peer), Context: body}, err
}

func decodeChange(entry *raftpb.ConfChange) (c peerChange, err error) {
	c.kind, c.peer = entry.GetType(), entry.GetNodeId()
	err = json.Unmarshal(entry.GetContext(), &c.body)
	return c, err
}

// with returns the descriptor after a change, or an error that wraps ErrChange.
// It depends on nothing but the two: it is asked by the leader before it
// proposes the change, and once more by every replica that applies it.
func (d *Descriptor) with(c peerChange) (*Descriptor, error) {
	next := d.clone()
	next.ConfVer++
	peer := next.peer(c.peer)
	switch c.kind {
	case raftpb.ConfChangeAddLearnerNode:
		if err := d.checkNew(c); err != nil {
			return nil, err
		}
		next.LastPeer = c.peer
		next.Peers = append(next.Peers, Peer{ID: c.peer, StoreID: c.body.StoreID, Address: c.body.Address, Role: Learner})
	case raftpb.ConfChangeAddNode:
		if peer == nil {
			return nil, badChange("there is no peer %d; a new one begins as a learner", c.peer)
		}
		if peer.Role == Voter {
			return nil, badChange("peer %d is a voter already", c.peer)
		}
		peer.Role = Voter
	case raftpb.ConfChangeRemoveNode:
		if peer == nil {
			return nil, badChange("there is no peer %d", c.peer)
		}
		if peer.Role == Voter && len(d.voterStores()) == 1 {
			return nil, badChange("peer %d is the only voter", c.peer)
		}
		next.Peers = slices.DeleteFunc(next.Peers, func(p Peer) bool { return p.ID == c.peer })
	default:
		return nil, badChange("of an unknown kind, %v", c.kind)
	}
	if r := next.Replacement; r != nil && next.on(r.Old) == nil && next.on(r.New) != nil && next.on(r.New).Role == Voter {
		next.Replacement = nil // done
	}
	return next, nil
}

func (d *Descriptor) checkNew(c peerChange) error {
	if err := checkStore(c.body.StoreID, c.body.Address); err != nil {
		return err
	}
	if has := d.on(c.body.StoreID); has != nil {
		return badChange("store %d has peer %d already", c.body.StoreID, has.ID)
	}
	if slices.Contains(d.Retired, c.body.StoreID) {
		return badChange("store %d was replaced, its id is used up", c.body.StoreID)
	}
	if c.peer <= d.LastPeer {
		return badChange("peer id %d was given before", c.peer)
	}
	return nil
}

func checkStore(store uint64, address string) error {
	if err := checkStoreID(store); err != nil {
		return err
	}
	if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
		return badChange("the address %q of store %d is not host:port", address, store)
	}
	return nil
}

func checkStoreID(store uint64) error {
	if store == 0 || store >= maxStoreID {
		return badChange("store id %d is not from 1 to %d", store, maxStoreID-1)
	}
	return nil
}

// replacing returns the descriptor with an order to replace a store, or an error
// that wraps ErrChange, or ErrTryAgain while another store is being replaced.
// Given once more, the order changes nothing.
func (d *Descriptor) replacing(r Replacement) (*Descriptor, error) {
	if err := checkStore(r.New, r.Address); err != nil {
		return nil, err
	}
	under := d.Replacement
	switch {
	case r.Old == r.New:
		return nil, badChange("store %d can't replace itself", r.Old)
	case slices.Contains(d.Retired, r.New):
		return nil, badChange("store %d was replaced, its id is used up", r.New)
	case d.on(r.Old) == nil && slices.Contains(d.Retired, r.Old) && (under == nil || under.New == r.New):
		return d.at(r), nil // it is being done, or it is done
	case under != nil && under.Old != r.Old && under.New != r.Old:
		return nil, fmt.Errorf("%w store %d is being replaced by %d; wait for that", ErrTryAgain, under.Old, under.New)
	case under != nil && under.New == r.Old && d.on(under.Old) != nil && d.on(r.Old) != nil:
		return nil, fmt.Errorf("%w store %d is to be replaced by %d and is not out yet; wait for that", ErrTryAgain, under.Old, under.New)
	}
	next := d.clone()
	next.Retired = retire(d.Retired, r.Old)
	switch {
	case under != nil && under.New == r.Old && d.on(r.Old) == nil:
		r.Old = under.Old // the substitute is lost before it came in
		next.Replacement = &r
	case under != nil && under.Old == r.Old && under.New != r.New && d.on(r.Old) == nil:
		r.Old = under.New // another substitute: what there is of the first must go
		next.Replacement = &r
	case d.on(r.Old) != nil, under != nil:
		next.Replacement = &r
	}
	return next, nil
}

// at returns the descriptor with another address of the substitute, if it has not come
// in: the one of the first order may have been mistyped.
func (d *Descriptor) at(r Replacement) *Descriptor {
	if d.Replacement == nil || d.Replacement.Address == r.Address {
		return d
	}
	next := d.clone()
	next.Replacement = &Replacement{Old: d.Replacement.Old, New: r.New, Address: r.Address}
	if peer := next.on(r.New); peer != nil {
		peer.Address = r.Address
	}
	return next
}

// retire adds a store to those that are gone.
func retire(stores []uint64, store uint64) []uint64 {
	at, found := slices.BinarySearch(stores, store)
	if found {
		return stores
	}
	return slices.Insert(slices.Clone(stores), at, store)
}

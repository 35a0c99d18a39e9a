package kvstore

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
)

// identity is what a store's folder was made for. Raft relies on it: a replica
// that comes back as another one, or with other voters, breaks its region.
type identity struct {
	Format  int    `json:"format"`
	StoreID uint64 `json:"store_id"`
	// Joined says that the store came to a cluster that there was. Stores are those
	// that founded the cluster together with this one, if it didn't.
	Joined  bool     `json:"joined,omitempty"`
	Stores  []uint64 `json:"stores,omitempty"`
	Regions int      `json:"regions"`
	// Cluster is the id of the cluster; see affiliation.go.
	Cluster string `json:"cluster,omitempty"`
}

// identityFormat is 3 since the identity names the cluster.
const identityFormat = 3

// claim makes the folder this store's, or checks that it is, and counts the
// start. It returns the count, which is on disk by then.
//
// Whoever claims a new folder has to know that the store was never there before:
// see founding.go.
func claim(db *pebble.DB, want identity, addresses map[uint64]string) (incarnation uint64, err error) {
	have, err := readIdentity(db)
	if err != nil {
		return 0, err
	}
	batch := db.NewBatch()
	defer func() { _ = batch.Close() }()
	if have == nil {
		if want.Joined {
			want.Stores = nil // whoever there is, tells
		} else if err := found(batch, want, addresses); err != nil {
			return 0, err
		}
		value, err := json.Marshal(want)
		if err != nil {
			return 0, err
		}
		if err := batch.Set(metaKey("identity"), value, nil); err != nil {
			return 0, err
		}
	} else if err := have.check(want); err != nil {
		return 0, err
	}
	value, err := getCopy(db, metaKey("incarnation"))
	if err != nil {
		return 0, err
	}
	if len(value) == 8 {
		incarnation = binary.BigEndian.Uint64(value)
	}
	incarnation++
	if err := batch.Set(metaKey("incarnation"), binary.BigEndian.AppendUint64(nil, incarnation), nil); err != nil {
		return 0, err
	}
	return incarnation, batch.Commit(pebble.Sync)
}

// found makes the regions of a new cluster: a voter on each store, and a log that
// begins behind a first entry that all of them agree on.
func found(batch *pebble.Batch, want identity, addresses map[uint64]string) error {
	begin := position{foundingIndex, foundingTerm}
	hardState := &raftpb.HardState{Term: new(uint64(foundingTerm)), Vote: new(uint64(0)), Commit: new(uint64(foundingIndex))}
	for id := uint64(1); id <= uint64(want.Regions); id++ {
		descriptor, err := foundingDescriptor(id, want.Stores, addresses).encode()
		if err != nil {
			return err
		}
		for part, value := range map[byte][]byte{
			partApplied:    binary.BigEndian.AppendUint64(nil, foundingIndex),
			partDescriptor: descriptor,
			partPeer:       binary.BigEndian.AppendUint64(nil, PeerID(id, want.StoreID)),
			partTruncated:  encodePosition(begin),
			partHardState:  encodeHardState(hardState),
		} {
			if err := batch.Set(regionKey(id, part), value, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// readIdentity returns nil for a new folder.
func readIdentity(db *pebble.DB) (*identity, error) {
	value, err := getCopy(db, metaKey("identity"))
	if err != nil || value == nil {
		return nil, err
	}
	have := &identity{}
	if err := json.Unmarshal(value, have); err != nil {
		return nil, fmt.Errorf("kvstore: the folder's identity: %w", err)
	}
	return have, nil
}

func (have *identity) check(want identity) error {
	switch {
	case have.Format < want.Format:
		return fmt.Errorf("kvstore: store %d: the folder has format %d, of an older version of this program, which writes %d and can't go on with it: "+
			"go on with the older version, or begin anew", have.StoreID, have.Format, want.Format)
	case have.Format > want.Format:
		return fmt.Errorf("kvstore: store %d: the folder has format %d, of a newer version of this program, which writes %d", have.StoreID, have.Format, want.Format)
	case have.Cluster == "":
		return fmt.Errorf("kvstore: store %d: the folder's identity doesn't name its cluster", have.StoreID)
	case have.StoreID != want.StoreID:
		return fmt.Errorf("kvstore: the folder belongs to store %d, not to store %d", have.StoreID, want.StoreID)
	case have.Regions != want.Regions:
		return fmt.Errorf("kvstore: the folder has %d regions, %d are asked for; the number can't change", have.Regions, want.Regions)
	case !have.Joined && !slices.Equal(have.Stores, want.Stores):
		return fmt.Errorf("kvstore: the folder's regions are on stores %v, not on %v; the stores that begin a cluster can't change", have.Stores, want.Stores)
	}
	return nil
}

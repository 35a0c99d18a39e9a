package kvstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/cockroachdb/pebble/v2"
)

// Replicas reads a stopped store's folder, to check what is really there. It
// knows nothing of the store that wrote it but the layout.
type Replicas struct {
	db       *pebble.DB
	identity identity
}

// Inspect opens the folder of a store that isn't running, read-only.
func Inspect(options Options) (*Replicas, error) {
	options = options.withDefaults()
	db, err := openPebble(options, true)
	if err != nil {
		return nil, err
	}
	have, err := readIdentity(db)
	if err == nil && have == nil {
		err = fmt.Errorf("kvstore: %s is not a store's folder", options.Dir)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Replicas{db: db, identity: *have}, nil
}

// Close ends the inspection.
func (r *Replicas) Close() error { return r.db.Close() }

// Regions returns the number of regions.
func (r *Replicas) Regions() int { return r.identity.Regions }

// Get returns a key's value, nil if there is none.
func (r *Replicas) Get(key []byte) ([]byte, error) {
	return getCopy(r.db, dataKey(RegionOf(key, r.identity.Regions), key))
}

// Each calls visit with every key and value, which are lent until it returns.
func (r *Replicas) Each(visit func(region uint64, key, value []byte) error) error {
	for region := uint64(1); region <= uint64(r.identity.Regions); region++ {
		err := r.scan(region, partData, func(key, value []byte) error { return visit(region, key, value) })
		if err != nil {
			return err
		}
	}
	return nil
}

// Digest returns a hash of a region's replica: data, dedup table, descriptor and
// applied index. Replicas of a region that have applied the same entries have the same.
func (r *Replicas) Digest(region uint64) (uint64, error) {
	digest := fnv.New64a()
	add := func(key, value []byte) error {
		var size [4]byte
		for _, part := range [][]byte{key, value} {
			binary.BigEndian.PutUint32(size[:], uint32(len(part)))
			_, _ = digest.Write(size[:])
			_, _ = digest.Write(part)
		}
		return nil
	}
	for _, part := range []byte{partApplied, partDescriptor, partDedup, partData} {
		if err := r.scan(region, part, add); err != nil {
			return 0, err
		}
	}
	return digest.Sum64(), nil
}

// scan visits one part of a region; keys come without their prefix.
func (r *Replicas) scan(region uint64, part byte, visit func(key, value []byte) error) (err error) {
	iterator, err := r.db.NewIter(&pebble.IterOptions{
		LowerBound: regionKey(region, part),
		UpperBound: partEnd(region, part),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, iterator.Close()) }()
	for valid := iterator.First(); valid; valid = iterator.Next() {
		if err := visit(iterator.Key()[regionPrefixLen:], iterator.Value()); err != nil {
			return err
		}
	}
	return iterator.Error()
}

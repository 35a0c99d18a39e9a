package kvstore

import (
	"encoding/binary"
	"hash/fnv"
)

// The keys of one store's Pebble.
//
//	m identity            the store's identity, JSON; see identity.go
//	m incarnation         how often the store was started
//	m address/ID          where another store is; see directory.go
//	m met/ID              another store has sent something
//
// The state machine of a region, which is equal on all replicas that have
// applied the same, and which a snapshot holds:
//
//	r region a            the applied index
//	r region c            the descriptor: who its peers are, JSON
//	r region d store      what was applied of one store's writes; see dedup.go
//	r region k key        the data
//
// And what is this store's own:
//
//	r region l index      the log
//	r region p            the id of the peer that this store has
//	r region t            where the log begins: index and term before its first entry
//	r region v            the hard state: term, vote, commit
//	r region x            the highest peer id that this store had and has no more
//
// Numbers are 8 bytes, big endian, so that Pebble keeps a region together and
// its log in order. The letters are chosen so that the state machine is one
// range, all that goes with a peer is one, and the tombstone is behind both.
const (
	kindMeta   = 'm'
	kindRegion = 'r'

	partApplied    = 'a'
	partDescriptor = 'c'
	partDedup      = 'd'
	partData       = 'k'
	partLog        = 'l'
	partPeer       = 'p'
	partTruncated  = 't'
	partHardState  = 'v'
	partTombstone  = 'x'
)

const regionPrefixLen = 1 + 8 + 1

func metaKey(name string) []byte { return append([]byte{kindMeta}, name...) }

// appendRegionPart appends the prefix of one part of a region.
func appendRegionPart(buffer []byte, region uint64, part byte) []byte {
	buffer = append(buffer, kindRegion)
	buffer = binary.BigEndian.AppendUint64(buffer, region)
	return append(buffer, part)
}

func regionKey(region uint64, part byte) []byte {
	return appendRegionPart(make([]byte, 0, regionPrefixLen+8), region, part)
}

func dedupKey(region, store uint64) []byte {
	return binary.BigEndian.AppendUint64(regionKey(region, partDedup), store)
}

func logKey(region, index uint64) []byte {
	return binary.BigEndian.AppendUint64(regionKey(region, partLog), index)
}

func dataKey(region uint64, key []byte) []byte {
	buffer := make([]byte, 0, regionPrefixLen+len(key))
	return append(appendRegionPart(buffer, region, partData), key...)
}

// partEnd returns the first key behind a part of a region.
func partEnd(region uint64, part byte) []byte { return regionKey(region, part+1) }

// RegionOf returns the region of a key, from 1 to regions.
func RegionOf(key []byte, regions int) uint64 {
	hash := fnv.New64a()
	_, _ = hash.Write(key)
	return hash.Sum64()%uint64(regions) + 1
}

// PeerID returns the id of the peer that a region has on one of the stores that
// founded the cluster. Peers that come later are numbered upwards from there by
// the region's descriptor, so no id ever stands for two.
func PeerID(region, store uint64) uint64 { return region<<20 + store }

// maxStoreID bounds the ids of stores, so that peer ids are unique.
const maxStoreID = 1000

// lastFoundingPeer is what a region's peer ids are counted on from.
func lastFoundingPeer(region uint64) uint64 { return PeerID(region, maxStoreID) }

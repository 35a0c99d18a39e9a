package kvstore

import (
	"encoding/binary"
	"hash/fnv"
)

// The keys of one store's Pebble.
//
//	m identity            the store's identity, JSON; see identity.go
//	m incarnation         how often the store was started
//	r region a            the applied index
//	r region d store      what was applied of one store's writes; see dedup.go
//	r region h            the hard state
//	r region k key        the data
//	r region l index      the log
//
// Numbers are 8 bytes, big endian, so that Pebble keeps a region together and
// its log in order.
const (
	kindMeta   = 'm'
	kindRegion = 'r'

	partApplied   = 'a'
	partDedup     = 'd'
	partHardState = 'h'
	partData      = 'k'
	partLog       = 'l'
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

// PeerID returns the id of a region's peer on a store. It is the same on every
// store and in every run: peers never move and never come back with another disk.
func PeerID(region, store uint64) uint64 { return region*maxStoreID + store }

// maxStoreID bounds the ids of stores, so that peer ids are unique.
const maxStoreID = 1000

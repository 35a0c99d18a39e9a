package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/raftmux/raftmux/kvstore"
)

// verdict is what the check of all folders found.
type verdict struct {
	acked    int64
	lost     map[string][]uint64 // acknowledged writes that are missing, by key: where
	wrong    int64               // values that nobody wrote under their key
	unasked  int64               // keys that nobody wrote
	unknown  int64               // writes of unknown outcome
	took     int64               // those of them that took effect
	unequal  int                 // regions whose replicas differ
	compared int                 // regions compared
}

// err is nil if everything is as it must be.
func (v *verdict) err() error {
	switch {
	case len(v.lost) > 0:
		key := slices.Min(slices.Collect(maps.Keys(v.lost)))
		return fmt.Errorf("%d acknowledged writes are lost; %s, for one, is missing on %s", len(v.lost), key, storesText(v.lost[key]))
	case v.wrong > 0 || v.unasked > 0:
		return fmt.Errorf("%d values are wrong and %d keys are nobody's", v.wrong, v.unasked)
	case v.unequal > 0:
		return fmt.Errorf("the replicas of %d regions differ", v.unequal)
	}
	return nil
}

func storesText(ids []uint64) string {
	if len(ids) == 1 {
		return fmt.Sprintf("store %d", ids[0])
	}
	return "stores " + strings.Trim(fmt.Sprint(ids), "[]")
}

// check reads each stopped store's folder, directly: every acknowledged write
// must be in each, nothing else may be, and the replicas of a region must be equal.
func check(load *workload, children []*child) (*verdict, error) {
	v := &verdict{acked: load.acked(), lost: map[string][]uint64{}, unknown: int64(len(load.writers))}
	var digests []uint64
	for i, s := range children {
		replicas, err := kvstore.Inspect(kvstore.Options{Dir: s.dir})
		if err != nil {
			return nil, fmt.Errorf("check store %d: %w", s.id, err)
		}
		err = v.checkStore(load, s.id, replicas, i == 0)
		if err == nil {
			digests, err = v.compare(replicas, digests)
		}
		if closing := replicas.Close(); err == nil {
			err = closing
		}
		if err != nil {
			return nil, fmt.Errorf("check store %d: %w", s.id, err)
		}
	}
	return v, nil
}

func (v *verdict) checkStore(load *workload, store uint64, replicas *kvstore.Replicas, first bool) error {
	found := make([][]bool, len(load.writers))
	for id, w := range load.writers {
		found[id] = make([]bool, w.acked.Load())
	}
	err := replicas.Each(func(region uint64, key, value []byte) error {
		id, n, ok := parseKey(string(key))
		switch {
		case !ok || id >= len(load.writers) || n > int64(len(found[id])) ||
			region != kvstore.RegionOf(key, replicas.Regions()):
			v.unasked++
		case string(value) != load.value(id, n):
			v.wrong++
		case n == int64(len(found[id])):
			if first {
				v.took++
			}
		default:
			found[id][n] = true
		}
		return nil
	})
	for id := range found {
		for n, there := range found[id] {
			if !there {
				key := load.key(id, int64(n))
				v.lost[key] = append(v.lost[key], store)
			}
		}
	}
	return err
}

// compare compares the store's replicas with those of the store before.
func (v *verdict) compare(replicas *kvstore.Replicas, before []uint64) ([]uint64, error) {
	v.compared = replicas.Regions()
	var digests []uint64
	for region := uint64(1); region <= uint64(replicas.Regions()); region++ {
		digest, err := replicas.Digest(region)
		if err != nil {
			return nil, err
		}
		if before != nil && before[region-1] != digest {
			v.unequal++
		}
		digests = append(digests, digest)
	}
	return digests, nil
}

package kvstore

import (
	"context"
	"fmt"

	"github.com/raftmux/raftmux"
)

// staticResolver knows the stores' addresses from the start. It implements raftmux.Resolver.
type staticResolver map[uint64]string

// Resolve implements raftmux.Resolver. There is nowhere else to look if the
// address is stale.
func (r staticResolver) Resolve(_ context.Context, storeID uint64, _ string) (string, error) {
	if address, ok := r[storeID]; ok {
		return address, nil
	}
	return "", fmt.Errorf("kvstore: store %d: %w", storeID, raftmux.ErrStoreNotFound)
}

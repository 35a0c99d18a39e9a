// Package static resolves stores whose addresses are known in advance.
package static

import (
	"context"
	"fmt"

	"github.com/raftmux/raftmux"
)

// Stores maps store ids to addresses (host:port). It implements
// raftmux.Resolver; a store that is not listed is not found. It must not change
// while a Client uses it.
type Stores map[uint64]string

// Resolve implements raftmux.Resolver. There is no cache to look past, so stale
// changes nothing.
func (s Stores) Resolve(_ context.Context, storeID uint64, _ string) (string, error) {
	address, ok := s[storeID]
	if !ok {
		return "", fmt.Errorf("%w: store %d is not listed", raftmux.ErrStoreNotFound, storeID)
	}
	return address, nil
}

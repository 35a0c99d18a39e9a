package kvstore

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// sayAwaited is how often a store that can't begin says for whom it waits.
const sayAwaited = 10 * time.Second

// awaited are the stores that a new one has to hear from before it begins, with their
// addresses. It is safe for concurrent use.
type awaited struct {
	mu     sync.Mutex
	stores map[uint64]string
}

func (a *awaited) set(stores map[uint64]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stores = stores
}

// ids returns theirs, in order.
func (a *awaited) ids() []uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.stores))
}

// String lists them for people.
func (a *awaited) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var texts []string
	for _, store := range slices.Sorted(maps.Keys(a.stores)) {
		texts = append(texts, fmt.Sprintf("store %d at %s", store, a.stores[store]))
	}
	return strings.Join(texts, ", ")
}

// sayAwaited says which stores don't answer: some of them may be named nowhere but by
// other stores, and one that is lost is waited for until somebody says that it is.
func (h *Host) sayAwaited() {
	if stores := h.awaited.String(); stores != "" {
		h.options.Logger.Info("the store waits for others to say that it is new; RAFT.REPLACE of one that is lost, at a store that runs, frees it",
			"store_id", h.options.StoreID, "waits_for", stores)
	}
}

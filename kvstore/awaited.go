package kvstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// sayAwaited is how often a store that can't begin says for whom it waits.
const sayAwaited = 10 * time.Second

// awaited are the stores that a new one has to hear from before it begins. It is safe for
// concurrent use.
type awaited struct {
	mu     sync.Mutex
	stores map[uint64]silence
}

// silence is where a store was asked, and why that was no answer of its.
type silence struct{ address, why string }

// noAnswer says why a store at an address didn't answer: err, or another that did.
func noAnswer(address string, err error, answered uint64) silence {
	switch {
	case errors.Is(err, context.DeadlineExceeded), status.Code(err) == codes.DeadlineExceeded:
		return silence{address, "no answer"}
	case err == nil:
		return silence{address, fmt.Sprintf("store %d answers there", answered)}
	}
	why := status.Convert(err).Message()
	// gRPC says the like of it around each failed dial, in quotes of its own.
	if _, dialed, ok := strings.Cut(why, "while dialing: "); ok {
		why = strings.TrimSuffix(dialed, `"`)
	}
	return silence{address, why}
}

func (a *awaited) set(stores map[uint64]silence) {
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
		s := a.stores[store]
		texts = append(texts, fmt.Sprintf("store %d at %s (%s)", store, s.address, s.why))
	}
	return strings.Join(texts, ", ")
}

// sayAwaited says which stores don't answer: some of them may be named nowhere but by
// other stores, and one that is lost is waited for until somebody says that it is.
func (h *Host) sayAwaited() {
	if stores := h.awaited.String(); stores != "" {
		h.options.Logger.Info("the store waits for others to say that it is new; if one of them is lost for good, RAFT.REPLACE at a store that runs frees it",
			"own_store_id", h.options.StoreID, "waits_for", stores)
	}
}

package kvstore

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Why a cluster has an identity
//
// The ids of stores, regions and peers are the same in every cluster. So a store
// that lost its folder, and was then started with Options.Peers that name only
// itself, would have nobody to ask whether it was there before (see founding.go),
// found a cluster of its own, and be taken by the others for the member that they
// knew; and what it adds to its own regions would destroy theirs.
//
// A cluster's id is drawn from what founded it, so that the founders need not
// agree on anything: the ids of their stores, and the number of regions.
// Addresses may change, so they don't count. One that founds alone asks nobody,
// not even when it does so for the second time, so chance is part of its id. A
// store that joins learns the id from those that it asks. From then on it is in
// the folder.
//
// Each stream and each question names the sender's cluster, and each answer the
// receiver's (interceptors.go). A store of another cluster is refused by whoever
// notices first, and so is one that names none: it is of a version that can't be
// told from a stranger, and whose folder this one couldn't read either.

// ErrOtherCluster is wrapped by the error of two stores that are not of the same
// cluster. It is a *ClusterError.
var ErrOtherCluster = errors.New("not of the same cluster")

// ClusterError says which two stores are not of the same cluster.
type ClusterError struct {
	// Store is the one that noticed, and Cluster the id of its cluster.
	Store   uint64
	Cluster string
	// Other is the store at the other end, 0 if it didn't say, and OtherCluster
	// the id of its cluster, likewise empty.
	Other        uint64
	OtherCluster string
}

// Error implements error.
func (e *ClusterError) Error() string {
	other := "the other one"
	if e.Other != 0 {
		other = fmt.Sprintf("store %d", e.Other)
	}
	of := "names none"
	if e.OtherCluster != "" {
		of = "is of cluster " + e.OtherCluster
	}
	return fmt.Sprintf("kvstore: %v: store %d is of cluster %s, %s %s", ErrOtherCluster, e.Store, e.Cluster, other, of)
}

// Unwrap returns ErrOtherCluster.
func (e *ClusterError) Unwrap() error { return ErrOtherCluster }

// GRPCStatus makes it the answer to a stream or a call.
func (e *ClusterError) GRPCStatus() *status.Status {
	return status.New(codes.FailedPrecondition, e.Error())
}

// newClusterID returns the id of the cluster that these stores, in order, found.
func newClusterID(stores []uint64, regions int) string {
	text := []byte("raftmux kvstore cluster 1")
	text = binary.BigEndian.AppendUint64(text, uint64(regions))
	for _, store := range stores {
		text = binary.BigEndian.AppendUint64(text, store)
	}
	if len(stores) == 1 {
		text = append(text, rand.Text()...)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// affiliation is the cluster that a store is of, and what it has to do with others.
// It is safe for concurrent use.
type affiliation struct {
	store  uint64
	logger *slog.Logger

	refusals atomic.Uint64

	mu      sync.Mutex
	cluster string // empty until a store that joins has heard of it
	last    *ClusterError
	logged  map[uint64]time.Time // by the other store, which is less than maxStoreID
}

func newAffiliation(store uint64, logger *slog.Logger) *affiliation {
	return &affiliation{store: store, logger: logger, logged: map[uint64]time.Time{}}
}

// id returns the id of the cluster, empty if it isn't known yet.
func (a *affiliation) id() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cluster
}

// settle notes the id of the cluster. It can't change any more.
func (a *affiliation) settle(cluster string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cluster = cluster
}

// join notes the cluster that another store says it is of, if any, unless this
// one is of another.
func (a *affiliation) join(other uint64, cluster string) error {
	a.mu.Lock()
	if a.cluster == "" {
		a.cluster = cluster
	}
	a.mu.Unlock()
	if cluster == "" {
		return nil // it joins, too
	}
	return a.check(other, cluster)
}

// check compares another store's cluster with the own one, and notes a difference.
func (a *affiliation) check(other uint64, cluster string) error {
	own := a.id()
	if cluster == own {
		return nil
	}
	err := &ClusterError{Store: a.store, Cluster: own, Other: other, OtherCluster: cluster}
	a.note(err)
	return err
}

// refusalQuiet is for how long the log says no more of the same store.
const refusalQuiet = time.Minute

// note counts a refusal, of this store's or by another, and logs it now and then:
// the other one is going to try again for as long as both run.
func (a *affiliation) note(err *ClusterError) {
	count := a.refusals.Add(1)
	a.mu.Lock()
	a.last = err
	before, seen := a.logged[err.Other]
	quiet := seen && time.Since(before) < refusalQuiet
	if !quiet {
		a.logged[err.Other] = time.Now()
	}
	a.mu.Unlock()
	if !quiet {
		a.logger.Warn("store of another cluster; has one of them lost its folder, and begun anew?",
			"store_id", err.Other, "refusals", count, "err", err)
	}
}

// lastRefusal returns the latest, nil if there was none.
func (a *affiliation) lastRefusal() *ClusterError {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// Package kvstore is raftmux's reference host: a small, strict, sharded
// key-value store that shows how a host drives many Raft groups over raftmux.
//
// A Store is one process. It holds a replica of some of N regions, of all of them
// to begin with, each a go.etcd.io/raft RawNode; a key belongs to the region that
// its hash names.
// A few workers own the regions (region modulo workers); there is no goroutine
// per region. One turn of a worker's loop is:
//
//	inbox ── step ──> RawNodes ── Ready ──> one Pebble batch ── synced ──┐
//	   ^                                                                 v
//	   └── messages, writes, reads, ticks, reports      Send... Flush, acknowledge, Advance
//
// so however many regions had something to do, they share one synced write and
// one Flush of the worker's Sender.
//
// # What is promised
//
// A write is acknowledged after its entry was committed by a majority, each of
// whom had synced it, and after this store has synced its effect. It is applied
// once, however often it was proposed: see dedup.go. A read is linearizable: it
// is answered at an index that the leader confirmed with a majority after the
// read began (ReadIndex), at whichever store it was asked.
//
// A write or a read for a region that is led elsewhere goes there by Raft's own
// forwarding (MsgProp, MsgReadIndex). Such a message may get lost, so the store
// that took the request repeats it, under the same id, until it is answered or
// Options.RequestTimeout is over. It then says TRYAGAIN, and whether the write
// may still happen.
//
// # Who the peers are
//
// Each region has a Descriptor: its peers, their stores and those stores'
// addresses. It is part of the region's state machine, so it changes by log entries
// (Raft's conf changes) and is on disk in the batch that has them as applied.
// Changes are proposed by the leader (membership.go), one at a time and one peer at
// a time: AddLearner, Promote once the learner has caught up, RemovePeer. A peer's
// id is never given again; a store that had a peer and has it no more keeps the id
// as a tombstone, so no late message brings it back. A peer that was taken out and
// did not hear of it asks the others sooner or later, for votes or outright, and
// is told by kvproto's is_tombstone; it then destroys what it had.
//
// A store that has no peer any more is forgotten after a while, so it is not dialled for
// good if it is away, and found again when it gets one (forget.go).
//
// ReplaceStore orders all regions to have a peer on one store in the place of
// another that is gone for good. The order is a log entry, too, so whoever leads
// carries it out, step by step, and the old store's id is a tombstone at each
// raftmux.Client once no region there has a peer on it: until then an old store that
// lives may be needed to take itself out. An order about a store that answers, or that nobody
// has heard of, is taken for a mistake, for there is no way back: ForceReplaceStore.
//
// # Snapshots
//
// Each replica gives up the older half of its log when that has more than
// Options.MaxLogEntries or MaxLogBytes (compact.go). A peer that needs what is
// gone, or is new, gets a snapshot: the region's state machine, read from a Pebble
// snapshot into a sorted table (outgoing.go), carried by package snapshot beside
// the streams, and put into the receiver's Pebble in place of all that the region
// had, together with the Raft state that goes with it, in one atomic step
// (incoming.go). None is made before the receiver has said that it has room for it,
// which it keeps for a while (room.go); voters that fell behind, and peers that
// replace lost ones, come before learners. After a crash at any point the region is
// as it was before or as it is after. Files under way are in the folder's subfolder
// snapshots, which is emptied at the start.
//
// # A disk that is lost
//
// Raft has no place for a voter that forgot its vote. So a store with an empty
// folder asks all stores that it is told of, and those that they know, whether they
// ever heard of it, and starts only when all have said no (founding.go); otherwise Store.Failed yields
// ErrKnown. For the same reason a cluster begins when all of its stores are there.
// Who lost the folder joins as a new store (Options.Join), and ReplaceStore does
// the rest; the new store begins once it hears that the old one is gone for good.
//
// One that is told of nobody has nobody to ask. It founds a cluster of its own, with
// the same ids in it, so each cluster has an identity (affiliation.go): it is on disk,
// a store that joins learns it, and all that two stores open to each other, the
// streams of messages, those of snapshots and the questions, names it at both ends. A
// store of another cluster, or one that names none, is refused with an error that
// wraps ErrOtherCluster, in the log now and then, and always in INFO.
//
// # What is not here
//
// Nothing places regions, or notices by itself that a store is gone for good:
// that is for an operator to say. Regions don't split. A store that was replaced
// while it still ran isn't told before it starts again. If all that founded a cluster,
// and were more than one, lose their folders at a time and begin anew together, they
// have the old identity: stores that joined since would take them for the members
// that they were.
package kvstore

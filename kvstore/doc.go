// Package kvstore is raftmux's reference host: a small, strict, sharded
// key-value store that shows how a host drives many Raft groups over raftmux.
//
// A Store is one process. It holds one replica of each of N regions, each a
// go.etcd.io/raft RawNode; a key belongs to the region that its hash names.
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
// # What is not here
//
// The log is never compacted, so a snapshot is never needed or sent; a store's
// disk grows with what was written. The regions' peers are fixed when a store's
// folder is made. A store that lost its folder must come back under a new id:
// Raft has no place for a voter that forgot its vote.
package kvstore

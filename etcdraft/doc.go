// Package etcdraft carries the messages of go.etcd.io/raft over raftmux: those of
// version 3.7 and later, where they are pointers.
//
// # Sending
//
// Each worker that drives regions has a Sender of its own. It gives it what a
// Ready holds, region by region, and flushes once per round:
//
//	sender := etcdraft.NewSender(client.NewSender())
//	for _, region := range regions {
//		if !region.node.HasReady() {
//			continue
//		}
//		ready := region.node.Ready()
//		region.guard.Observe(ready)
//		// ... make entries and hard state durable ...
//		sender.SendAll(region.group, region.node, ready.Messages)
//		// ... apply ...
//		region.node.Advance(ready)
//	}
//	sender.Flush()
//
// SendAll makes the calls that Raft needs for messages that were refused on the
// spot. What is lost later is told to the raftmux.Router of the Client, which
// calls the same methods of the node: ReportUnreachable for a peer, or for all
// peers of a store, and ReportSnapshot for each MsgSnap, whatever became of it.
// Without them Raft goes on believing that what it sent has arrived.
//
// A message is encoded while Send runs and not kept: it stays the caller's, and
// so do its entries.
//
// # Receiving
//
// A raftmux.Server takes NewReceiver(handler) in its options. The handler finds
// the region, and hands the message to the worker that drives it, which steps it
// past its Guard:
//
//	if err := region.guard.Check(region.node, message); err != nil {
//		// log it: see below
//	} else if err := region.node.Step(message); err != nil {
//		// log it
//	}
//
// Received messages are the host's for good. Raft keeps them, whole and in
// parts, so their memory is never used again. One part that is kept, an entry in
// the log say, pins at most 64 KiB beyond itself.
//
// # Snapshots
//
// A MsgSnap doesn't ride the stream (unless it is for a witness, and what other senders
// do is for the Handler to see): the Client hands it to its SnapshotSender, the
// Server takes it by its SnapshotReceiver. A host that sets neither has all of them end
// in a failure, and a peer that is behind the end of the leader's log never catches up.
// Package snapshot has both. Where a snapshot's data is in its message:
//
//	inline := snapshot.Inline{Deliver: func(_ context.Context, m *raft_serverpb.RaftMessage) error {
//		return etcdraft.Deliver(handler, m)
//	}}
//	sender, err := snapshot.NewSender(snapshot.SenderOptions{StoreID: 1, Source: inline})
//	receiver, err := snapshot.NewReceiver(snapshot.ReceiverOptions{StoreID: 1, Sink: inline})
//
// and the two are raftmux.ClientOptions.SnapshotSender and
// raftmux.ServerOptions.SnapshotReceiver. Data that is too large for that, above some
// MiB, belongs into files, or whatever else a host has a snapshot.Source and a
// snapshot.Sink for; Deliver then is for what Raft has to know.
//
// # What is refused
//
// RawNode.Step panics on messages that no correct peer sends, and a process with
// thousands of regions can't die of one. Check refuses those that are wrong in
// themselves, both when sending and when receiving; Guard refuses those that are
// wrong for the node that is to take them, which only the host can ask.
//
// A refusal at Send is a mistake of the host: a peer without a store, say, or a
// message for a local thread, which a host with raft.Config.AsyncStorageWrites has
// to take out of Ready.Messages first. A refusal at the receiver says that the sender is broken,
// hostile or of another kind. A refusal by Guard, of a MsgHeartbeat above all,
// mostly says that this peer has lost its disk and came back under its old id:
// stop it, remove it from the group, and add it as a new peer. If it is each
// MsgPreVote of a new group, then its log began with a snapshot and its HardState
// without a term; see Guard.Check. In each case log
// the error and drop the message, which is what a network may do at any time;
// never step it. Only ErrReadyFirst is no fault: the Guard has to see the node's
// Ready before it can tell.
//
// Neither of them validates what Step only passes on: an entry's data is for the
// host to distrust when it applies it, conf changes included, and a snapshot's too.
//
// # Leases
//
// No transport makes raft.ReadOnlyLeaseBased a safe lease: a leader looks at its
// quorum once per election timeout, so it may serve reads for almost two, and
// another can be elected after one. Hosts that need leases keep their own, as
// internal/loop does in its test: from the tick at which an entry of the own
// term was proposed that then was committed, for less than an election timeout.
//
// # The wire
//
// On the wire a message is a raft_serverpb.RaftMessage of kvproto with an
// eraftpb.Message inside, written from and read into *raftpb.Message directly.
// The two Messages share fields 1 to 12. Fields 13 and up mean different things
// in each, and are neither written nor read. Scalars have no presence in
// eraftpb: what is received equals what was sent by its getters, with absent
// where 0 was.
//
// The data of entries passes unchanged, and that is as far as compatibility
// goes: in a ConfChange AddLearner is 3 in raftpb and 2 in eraftpb, and the
// fields context and sync_log of eraftpb's entries are dropped. So a proxy or a
// probe may speak to TiKV by this package, but a group must not be shared by
// etcd's raft and TiKV's.
//
// The Receiver refuses what isn't a Raft message (TiKV sends some that carry
// only an extra_msg, say), and a message that contradicts its header: whose To
// is not to_peer, or whose From is not from_peer, unless it is one that followers
// pass on to the leader. It passes over unknown fields and those of RaftMessage
// that are not in Header, without parsing them. Where a peer writes one field
// twice, the last one stands, as protobuf wants it, except that two Raft messages
// in one RaftMessage are refused.
package etcdraft

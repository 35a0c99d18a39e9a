// Package snapshot sends and receives the data of Raft snapshots: once, whole,
// and never in the way of other messages.
//
// A snapshot travels by kvproto's Tikv.Snapshot, on a TCP connection of its own:
// the Raft message first, then the data in chunks of 1 MiB, or of less if a limit
// on the rate would have them come in jerks. A TiKV, or anything that speaks its
// protocol, may be at the other end.
//
// # What a host does
//
// A Sender is given to raftmux's Client, a Receiver to its Server. The data is the
// host's: it has a Source, which opens what belongs to a snapshot message, and a
// Sink, which takes it. For hosts that keep snapshots in files there are FileSource
// and FileStore:
//
//	sender, err := snapshot.NewSender(snapshot.SenderOptions{
//		StoreID: 1,
//		Source: snapshot.FileSource(func(_ context.Context, m *raft_serverpb.RaftMessage) (string, error) {
//			return pathOf(m), nil // built when Raft asked for the snapshot
//		}),
//	})
//	client, err := raftmux.NewClient(raftmux.ClientOptions{SnapshotSender: sender, ...})
//
//	store, err := snapshot.OpenFileStore(snapshot.FileStoreOptions{
//		Dir: "snapshots",
//		Deliver: func(ctx context.Context, m *raft_serverpb.RaftMessage, path string) error {
//			return mailbox.Put(m, path) // to be applied, and m stepped into Raft
//		},
//	})
//	receiver, err := snapshot.NewReceiver(snapshot.ReceiverOptions{StoreID: 2, Sink: store})
//	server, err := raftmux.NewServer(raftmux.ServerOptions{SnapshotReceiver: receiver, ...})
//
// A host whose snapshots are small has them in their messages, and uses Inline as
// both:
//
//	inline := snapshot.Inline{Deliver: func(_ context.Context, m *raft_serverpb.RaftMessage) error {
//		return mailbox.Put(m) // to be stepped into Raft
//	}}
//	sender, err := snapshot.NewSender(snapshot.SenderOptions{StoreID: 1, Source: inline})
//	receiver, err := snapshot.NewReceiver(snapshot.ReceiverOptions{StoreID: 2, Sink: inline})
//
// A host that shuts down closes the Client before the Sender, and the Server before
// the Receiver.
//
// # What is guaranteed
//
// SendSnapshot returns once for each snapshot, and nil only when the receiver's
// sink has committed it. A sink is asked to commit only when the sender has said
// that there is no more, and the data has the size that was announced; between
// raftmux stores, its checksum too. Whatever goes wrong, what was written is
// discarded, or kept for a while to be resumed.
//
// A transfer fails when nothing moves for StallTimeout, and when it takes longer
// than its size allows. It can be cancelled by region. The number of transfers is
// bounded at both ends, and the rate of a process by a Limiter. Memory doesn't
// grow with the size of a snapshot.
//
// # Between raftmux stores
//
// Each chunk says where it belongs and has the CRC32C of all data up to its end, in
// fields that other peers skip. The receiver keeps what it has verified of a broken
// transfer, and says so in the headers when the same snapshot comes again; the
// sender goes on from there, if the checksum of what it has itself is the same.
// Before it builds a snapshot a leader may ask whether it may come, see
// Sender.Precheck.
package snapshot

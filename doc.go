// Package raftmux carries the messages of many Raft groups between stores over
// a handful of gRPC connections.
//
// A store is a process that hosts peers of regions; a region is one Raft group.
// The sending half of a store is a Client, shared by all its workers, each of
// which has a Sender:
//
//	client, err := raftmux.NewClient(raftmux.ClientOptions{StoreID: 1, Resolver: resolver, Router: host})
//	sender := client.NewSender()
//	for each round of the worker {
//		for each message { err := sender.Send(message) }
//		sender.Flush()
//	}
//
// The receiving half is a Server, a service on a grpc.Server:
//
//	server, err := raftmux.NewServer(raftmux.ServerOptions{StoreID: 1, Handler: host})
//	grpcServer := grpc.NewServer(raftmux.GRPCServerOptions()...)
//	server.Register(grpcServer)
//
// # What is promised
//
// Send and Flush never block, dial or resolve, whatever state any peer is in.
// Send answers nil, and then the message is accounted for: it is handed to a
// stream, or dropped and reported. Or it answers a *SendError that says why not,
// and then it is up to the caller to tell its Raft. Delivery is at most once;
// the messages of one region to one store, sent by one Sender, arrive in order.
//
// Reports come by Router: ReportUnreachable for a peer whose messages were
// dropped, StoreUnreachable when a stream broke and an unknown part of what it
// carried is gone or when no connection to a store can be made, StoreUp when it is
// reached, ReportSnapshotStatus exactly once for each snapshot message. A failed
// look-up of a store's address is reported by ReportUnreachable alone. Pass all of
// them on to the Raft library, which otherwise waits for answers that don't come.
//
// # The wire
//
// The wire protocol is TiKV's: tikvpb.Tikv/BatchRaft of kvproto, and Raft for
// peers that don't know it. Any kvproto peer works at the other end. That a
// message arrives doesn't mean that it is understood: a peer built on etcd's
// raft can't join a TiKV region, because their state machines and snapshots
// differ.
//
// Hosts built on go.etcd.io/raft use package etcdraft, which needs no kvproto
// message in between.
package raftmux

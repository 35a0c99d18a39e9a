// Package rig is the test rig of raftmux: everything a test needs to play the
// rest of a cluster, in one process and without root.
//
//   - [Proxy] is a TCP proxy that breaks in all the ways a network does.
//   - [Peer] is a store that speaks TiKV's wire protocol by kvproto's own
//     generated code and gRPC's default codec, none of ours.
//   - [RaftClient] is such a store's sending half.
//   - [Resolver] and [Router] are the host's side, scripted and recorded.
//   - [CountingDialer] counts the writes of a gRPC connection, and holds them.
//   - [Heartbeat], [Append] and their like build messages.
//
// Only tests import it, and it imports nothing of raftmux, so that tests inside
// and outside of every package of the module can use it. Whatever a constructor
// starts is waited for in Close, and Close is registered with the test's Cleanup.
package rig

// Package loop has no code of its own. Its tests put Raft in the loop: stores
// with a thousand groups of go.etcd.io/raft each, in one process, that reach each
// other by raftmux alone, through proxies that break, or over a real network that
// does:
//
//	RAFTMUX_NETNS=1 go test -v -run TestRaftInNamespaces ./internal/loop
//
// They also measure, in memory, what the choice of lanes costs Raft.
package loop

// Package netns makes real networks for tests: namespaces of the kernel's own,
// joined by cables, routers and switches that can be broken and shaped. Its own
// tests are of raftmux over such a network. They need Linux, root, and iproute2,
// and say so where they are skipped. They measure, so they want the machine for
// themselves:
//
//	RAFTMUX_NETNS=1 go test -v ./internal/netns
//
// Package internal/loop has Raft over the same.
package netns

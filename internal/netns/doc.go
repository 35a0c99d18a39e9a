// Package netns holds tests over a real network: namespaces of the kernel's own,
// joined by a cable that can be pulled and shaped. They need Linux, root, and
// iproute2, and say so where they are skipped. They measure, so they want the machine
// for themselves:
//
//	RAFTMUX_NETNS=1 go test -v ./internal/netns
package netns

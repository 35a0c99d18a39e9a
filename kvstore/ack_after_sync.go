//go:build !raftmux_ack_before_sync

package kvstore

// ackBeforeSync is false in every build that is meant to be used. The build tag
// raftmux_ack_before_sync makes it true: writes are then acknowledged before they
// are synced, and `raftmux demo` must find that acknowledged writes are lost.
const ackBeforeSync = false

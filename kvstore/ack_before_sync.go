//go:build raftmux_ack_before_sync

package kvstore

// ackBeforeSync breaks the store on purpose; see ack_after_sync.go.
const ackBeforeSync = true

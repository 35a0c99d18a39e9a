package raftmux

import (
	"sync"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

// SharedSender is a Sender that is safe for concurrent use, at the price of a
// lock that all its callers share. See Sender for the methods.
type SharedSender struct {
	mu     sync.Mutex
	sender *Sender
}

// Send is Sender.Send.
func (s *SharedSender) Send(message *raft_serverpb.RaftMessage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sender.Send(message)
}

// SendEncoded is Sender.SendEncoded.
func (s *SharedSender) SendEncoded(envelope Envelope, encoder Encoder) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sender.SendEncoded(envelope, encoder)
}

// NeedFlush is Sender.NeedFlush.
func (s *SharedSender) NeedFlush() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sender.NeedFlush()
}

// CountRefused is Sender.CountRefused.
func (s *SharedSender) CountRefused(storeID uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sender.CountRefused(storeID, err)
}

// Flush is Sender.Flush. It flushes what all callers sent.
func (s *SharedSender) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sender.Flush()
}

// Close is Sender.Close.
func (s *SharedSender) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sender.Close()
}

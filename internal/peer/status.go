package peer

import "github.com/raftmux/raftmux/internal/queue"

// Status is a store's state at one moment.
type Status struct {
	StoreID     uint64
	Tombstone   bool
	Paused      bool
	Up          bool // a generation is up
	Down        bool // none is, and the host was told of the store before
	Address     string
	Connections []ConnectionStatus
	Snapshots   queue.Ledger
}

// ConnectionStatus is a connection's state at one moment.
type ConnectionStatus struct {
	Lane       string
	Index      int
	Generation uint64
	Open       bool
	Ledger     queue.Ledger
}

// Status returns the store's state.
func (s *Store) Status() Status {
	address := s.address()
	s.mu.Lock()
	status := Status{
		StoreID:   s.id,
		Tombstone: s.Tombstone(),
		Paused:    s.Paused(),
		Up:        s.reach.up > 0,
		Down:      s.reach.up == 0 && s.reach.told != toldNothing,
		Address:   address,
		Snapshots: s.snapshots,
	}
	connections := s.used()
	s.mu.Unlock()
	for _, c := range connections {
		status.Connections = append(status.Connections, ConnectionStatus{
			Lane:       c.lane.String(),
			Index:      c.index,
			Generation: c.generation.Load(),
			Open:       c.open.Load(),
			Ledger:     c.queue.Ledger(),
		})
	}
	return status
}

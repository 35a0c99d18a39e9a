package kvstore

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tidwall/redcon"
)

// The commands that change who the peers are:
//
//	RAFT.PEERS region                      the peers, one line each
//	RAFT.ADDLEARNER region store address   adds a peer, returns its id
//	RAFT.PROMOTE region peer               makes a learner a voter
//	RAFT.REMOVE region peer                takes a peer out
//	RAFT.REPLACE old-store new-store address [FORCE]
//	                                       has all regions replace a lost store,
//	                                       returns how many have to; by force even
//	                                       one that answers, or is unknown
//
// The middle three go to the store that leads the region; an error says which one
// that is. Errors begin with NOTLEADER, with TRYAGAIN if the same may succeed later,
// or with BADCHANGE if it won't.

// admin answers one of them. It waits until the change is applied here.
func (s *respServer) admin(conn redcon.Conn, name string, args [][]byte) {
	force := name == "RAFT.REPLACE" && len(args) == 5 && strings.EqualFold(string(args[4]), "FORCE")
	if force {
		args = args[:4]
	}
	want := map[string]int{"RAFT.PEERS": 1, "RAFT.ADDLEARNER": 3, "RAFT.PROMOTE": 2, "RAFT.REMOVE": 2, "RAFT.REPLACE": 3}
	if len(args)-1 != want[name] {
		wrongArguments(conn, name)
		return
	}
	if s.refusing.Load() {
		conn.WriteError("TRYAGAIN the store is shutting down, nothing was changed")
		return
	}
	numbers := make([]uint64, min(len(args)-1, 2))
	for i := range numbers {
		n, err := strconv.ParseUint(string(args[i+1]), 10, 63)
		if err != nil {
			conn.WriteError(fmt.Sprintf("ERR '%.64s' is not a number", args[i+1]))
			return
		}
		numbers[i] = n
	}
	switch name {
	case "RAFT.PEERS":
		s.peers(conn, numbers[0])
	case "RAFT.ADDLEARNER":
		peer, err := s.store.AddLearner(numbers[0], numbers[1], string(args[3]))
		writeNumber(conn, int64(peer), err)
	case "RAFT.PROMOTE":
		writeOK(conn, s.store.Promote(numbers[0], numbers[1]))
	case "RAFT.REMOVE":
		writeOK(conn, s.store.RemovePeer(numbers[0], numbers[1]))
	case "RAFT.REPLACE":
		regions, err := s.store.replaceStore(numbers[0], numbers[1], string(args[3]), force)
		writeNumber(conn, int64(regions), err)
	}
}

// peers writes one line per peer.
func (s *respServer) peers(conn redcon.Conn, region uint64) {
	d, err := s.store.Peers(region)
	if err != nil {
		conn.WriteError(err.Error())
		return
	}
	leader := s.store.host.views[region-1].leader.Load()
	conn.WriteArray(len(d.Peers))
	for _, peer := range d.Peers {
		line := fmt.Sprintf("peer=%d store=%d role=%s address=%s", peer.ID, peer.StoreID, peer.Role, peer.Address)
		if peer.StoreID == leader {
			line += " leader"
		}
		conn.WriteBulkString(line)
	}
}

func writeNumber(conn redcon.Conn, n int64, err error) {
	if err != nil {
		conn.WriteError(err.Error())
		return
	}
	conn.WriteInt64(n)
}

func writeOK(conn redcon.Conn, err error) {
	if err != nil {
		conn.WriteError(err.Error())
		return
	}
	conn.WriteString("OK")
}

package kvstore

import (
	"strings"
	"testing"
	"time"
)

// A store that joins hears of stores that nobody named to it, and says for which of
// them it waits until one is said to be lost.
func TestStoreSaysForWhomItWaits(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 1, sayAwaited: time.Nanosecond})
	mustSet(t, c.stores[1], "key", "value")
	c.lose(3)
	book, logger := newLogBook()
	c.options.Logger = logger
	joining := c.join(4)
	eventually(t, 30*time.Second, "the log names the lost store", func() bool {
		return book.count("RAFT.REPLACE of one that is lost", `waits_for="store 3 at `+c.peers[3]+`"`) > 0
	})
	eventually(t, 30*time.Second, "INFO has it", func() bool {
		return strings.Contains(joining.info([]string{"stores"}), "\r\nawaited_stores:3\r\n")
	})
	eventually(t, 30*time.Second, "the order is given", func() bool {
		_, err := c.stores[1].ReplaceStore(3, 4, c.peers[4])
		return err == nil
	})
	<-joining.Ready()
	eventually(t, 30*time.Second, "nobody is awaited", func() bool {
		return strings.Contains(joining.info([]string{"stores"}), "\r\nawaited_stores:\r\n")
	})
}

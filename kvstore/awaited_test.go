package kvstore

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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
		return book.count("RAFT.REPLACE at a store that runs",
			`waits_for="store 3 at `+c.peers[3]+` (dial tcp `+c.peers[3]+`: connect: connection refused)"`) > 0
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

func TestNoAnswer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	for why, err := range map[string]error{
		"store 9 answers there": nil,
		"no answer":             status.Error(codes.DeadlineExceeded, "..."),
		"refuses":               status.Error(codes.Unimplemented, "refuses"),
		"dial tcp: lookup nosuch.invalid: no such host": status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial tcp: lookup nosuch.invalid: no such host"`),
		"malformed": errors.New("malformed"),
	} {
		if got := noAnswer("a:1", err, 9); got != (silence{"a:1", why}) {
			t.Errorf("%v: %+v", err, got)
		}
	}
	if got := noAnswer("a:1", ctx.Err(), 9); got.why != "no answer" {
		t.Errorf("%+v", got)
	}
}

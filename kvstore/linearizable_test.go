package kvstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/redis/go-redis/v9"
)

// kvInput and kvOutput are one operation of a history, on one key.
type kvInput struct {
	op         operation // 0 reads
	key, value string
}

type kvOutput struct {
	unknown bool // of a write that got no answer
	exists  bool // the key, when it was read, or before it was deleted
	value   string
}

// kvState is one key's.
type kvState struct {
	exists bool
	value  string
}

// kvModel is a map, one key of it at a time.
func kvModel() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byKey := map[string][]porcupine.Operation{}
			for _, operation := range history {
				key := operation.Input.(kvInput).key
				byKey[key] = append(byKey[key], operation)
			}
			var parts [][]porcupine.Operation
			for _, part := range byKey {
				parts = append(parts, part)
			}
			return parts
		},
		Init: func() any { return kvState{} },
		Step: func(state, input, output any) (bool, any) {
			before, in, out := state.(kvState), input.(kvInput), output.(kvOutput)
			switch in.op {
			case opSet:
				return true, kvState{exists: true, value: in.value}
			case opDel:
				return out.unknown || out.exists == before.exists, kvState{}
			default:
				return out.exists == before.exists && out.value == before.value, before
			}
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
	}
}

// history collects operations of many clients.
type history struct {
	begin time.Time
	mu    sync.Mutex
	done  []porcupine.Operation
}

// perform does one operation and records it. A read without an answer says
// nothing, nor does a write of which the store says that it did nothing. Any
// other write without an answer may have taken effect at any later time, or never.
func (h *history) perform(client *redis.Client, id int, in kvInput) {
	ctx := context.Background()
	called := time.Since(h.begin)
	var out kvOutput
	var err error
	switch in.op {
	case opSet:
		err = client.Set(ctx, in.key, in.value, 0).Err()
	case opDel:
		var n int64
		n, err = client.Del(ctx, in.key).Result()
		out.exists = n == 1
	default:
		out.value, err = client.Get(ctx, in.key).Result()
		out.exists = err == nil
		if errors.Is(err, redis.Nil) {
			err = nil
		}
	}
	returned := time.Since(h.begin).Nanoseconds()
	if err != nil {
		if in.op == 0 || strings.Contains(err.Error(), "nothing was written") || strings.Contains(err.Error(), "refused") {
			return
		}
		out, returned = kvOutput{unknown: true}, math.MaxInt64
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done = append(h.done, porcupine.Operation{
		ClientId: id, Input: in, Output: out, Call: called.Nanoseconds(), Return: returned,
	})
}

// Concurrent SET, GET and DEL at all stores, while one of them, and with it the
// lead of a third of the regions and all that it had not synced, goes away and
// comes back, make a history that one map could have made.
func TestHistoryIsLinearizable(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 6, RequestTimeout: 3 * time.Second})
	checkHistory(t, c, func(_ *historians, progress func(more int, what string)) {
		progress(1000, "operations before the kill")
		c.kill(3)
		progress(1000, "operations while a store is dead")
		c.start(3)
		progress(1500, "operations after the restart")
	})
}

// The same, while a store comes back by snapshots because the logs are short, and
// then loses its disk and another one takes its place.
func TestHistoryWithAReplacementIsLinearizable(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 6, RequestTimeout: 3 * time.Second, MaxLogEntries: 10})
	checkHistory(t, c, func(h *historians, progress func(more int, what string)) {
		progress(500, "operations before the kill")
		c.kill(3)
		progress(500, "operations while a store is dead")
		c.start(3)
		eventually(t, 30*time.Second, "the store comes back by a snapshot", func() bool {
			return c.stores[3].host.restored.Load() > 0
		})
		progress(500, "operations after the restart")
		c.lose(3)
		c.join(4)
		h.move(3, 4)
		eventually(t, 30*time.Second, "the order is given", func() bool {
			_, err := c.stores[1].ReplaceStore(3, 4, c.peers[4])
			return err == nil
		})
		progress(500, "operations while a store is replaced")
		for region := uint64(1); region <= 6; region++ {
			c.waitRole(4, region, roleVoter)
		}
		progress(500, "operations after that")
	})
}

// The same, while a store's peers are taken out of all regions and new ones put
// in, and the store itself goes on.
func TestHistoryWithAStoreThatGoesAndComesIsLinearizable(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 6, RequestTimeout: 3 * time.Second})
	checkHistory(t, c, func(_ *historians, progress func(more int, what string)) {
		progress(1000, "operations before")
		for region := uint64(1); region <= 6; region++ {
			c.takeOut(region, 3)
		}
		progress(300, "operations while a store has no region")
		for region := uint64(1); region <= 6; region++ {
			c.putIn(region, 3)
		}
		progress(1000, "operations after that")
	})
}

// historians are the clients by which a history is made, one for each store.
type historians struct {
	c       *cluster
	mu      sync.Mutex
	clients map[uint64]*redis.Client
	instead map[uint64]uint64
}

// client returns that of a store, or of the one that took its place.
func (h *historians) client(store uint64) *redis.Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	if other := h.instead[store]; other != 0 {
		store = other
	}
	return h.clients[store]
}

func (h *historians) add(store uint64) {
	h.clients[store] = redis.NewClient(&redis.Options{
		Addr: h.c.clients[store], MaxRetries: -1, DialerRetries: 1, Protocol: 2, ReadTimeout: 10 * time.Second,
		PoolSize: 1 << 16, // after as many failed dials it has a goroutine that outlives Close by a second
	})
}

// move has a new store asked instead of an old one.
func (h *historians) move(from, to uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.add(to)
	h.instead[from] = to
}

func (h *historians) close() {
	for _, client := range h.clients {
		_ = client.Close()
	}
}

// checkHistory has nine clients work while the script plays, and checks what they saw.
func checkHistory(t *testing.T, c *cluster, script func(h *historians, progress func(more int, what string))) {
	t.Helper()
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	clients := &historians{c: c, clients: map[uint64]*redis.Client{}, instead: map[uint64]uint64{}}
	for id := range c.clients {
		clients.add(id)
	}
	defer clients.close()
	h := &history{begin: time.Now()}
	stop := make(chan struct{})
	var running sync.WaitGroup
	for worker := range 9 {
		running.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(worker)))
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(random.IntN(8)) * time.Millisecond): // room for the checker
				}
				in := kvInput{key: fmt.Sprint("key", random.IntN(6)), op: []operation{0, 0, opSet, opSet, opDel}[random.IntN(5)]}
				if in.op == opSet {
					in.value = fmt.Sprint(worker, "-", n)
				}
				h.perform(clients.client(uint64(worker%3)+1), worker, in)
			}
		})
	}
	count := func() int {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.done)
	}
	script(clients, func(more int, what string) {
		goal := count() + more
		eventually(t, 60*time.Second, what, func() bool { return count() >= goal })
	})
	close(stop)
	running.Wait()

	result, info := porcupine.CheckOperationsVerbose(kvModel(), h.done, 60*time.Second)
	unknown := 0
	for _, operation := range h.done {
		if operation.Output.(kvOutput).unknown {
			unknown++
		}
	}
	t.Logf("%d operations, %d of unknown outcome, in %v: %v", len(h.done), unknown, time.Since(h.begin), result)
	if result != porcupine.Ok {
		path := t.ArtifactDir() + "/history.html"
		_ = porcupine.VisualizePath(kvModel(), info, path)
		t.Fatalf("the history is %v; see %s", result, path)
	}
	c.checkEqual()
}

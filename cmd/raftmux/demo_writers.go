package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// workload is what all writers share.
type workload struct {
	run       string // tells this run's values from those of another in the same folder
	valueSize int
	children  []*child
	writers   []*writer
	clients   []atomic.Pointer[redis.Client] // one per store, in the order of children
	running   sync.WaitGroup
}

// writer writes its keys one after another, each with a value that nobody else
// writes, and goes on to the next one only when a store has acknowledged it. So
// its record of what was acknowledged is a number, and at most one write of each
// writer has an unknown outcome when all ends.
type writer struct {
	load *workload
	id   int

	acked   atomic.Int64 // keys 0 to acked-1 are acknowledged
	errors  atomic.Int64 // answers that were not OK, or no answer
	checked atomic.Int64 // reads that were compared
	stale   atomic.Int64 // reads that did not find an acknowledged value
	slowest atomic.Int64 // ns, from first try to acknowledgement, since last reset

	latencies []time.Duration // the writer's own until it has ended
}

// readEvery says how many writes come between two reads of one's own.
const readEvery = 8

func newWorkload(run string, writers, valueSize int, children []*child) *workload {
	load := &workload{run: run, valueSize: valueSize, children: children}
	for id := range writers {
		load.writers = append(load.writers, &writer{load: load, id: id})
	}
	return load
}

// start sets the writers to work until ctx ends. Each prefers one store and goes
// to others while that one doesn't answer.
func (l *workload) start(ctx context.Context) {
	l.clients = make([]atomic.Pointer[redis.Client], len(l.children))
	for i, s := range l.children {
		l.clients[i].Store(newClient(s.clientAddr))
	}
	for _, w := range l.writers {
		l.running.Go(func() { w.write(ctx) })
	}
}

// move lets the writers use another store in the place of one that is gone.
func (l *workload) move(position int, s *child) {
	_ = l.clients[position].Swap(newClient(s.clientAddr)).Close()
}

// wait waits until all writers have ended.
func (l *workload) wait() {
	l.running.Wait()
	for i := range l.clients {
		_ = l.clients[i].Load().Close()
	}
}

// client returns that of a store, counted around.
func (l *workload) client(position int) *redis.Client {
	return l.clients[position%len(l.clients)].Load()
}

func (w *writer) write(ctx context.Context) {
	target, until := w.id, time.Time{} // until when to stay away from the preferred store
	for n := int64(0); ctx.Err() == nil; n++ {
		key, value := w.load.key(w.id, n), w.load.value(w.id, n)
		begin := time.Now()
		if begin.After(until) {
			target = w.id
		}
		for w.load.client(target).Set(ctx, key, value, 0).Err() != nil {
			if ctx.Err() != nil {
				return // this one's outcome stays unknown
			}
			w.errors.Add(1)
			target++
			until = time.Now().Add(time.Second)
			pause(ctx, 20*time.Millisecond)
		}
		w.acked.Store(n + 1)
		took := time.Since(begin)
		w.latencies = append(w.latencies, took)
		w.slowest.Store(max(w.slowest.Load(), int64(took)))
		if n%readEvery == 0 {
			w.read(ctx, w.load.client(target+1), key, value)
		}
	}
}

// read reads an acknowledged key at another store, which must know it.
func (w *writer) read(ctx context.Context, client *redis.Client, key, value string) {
	got, err := client.Get(ctx, key).Result()
	switch {
	case errors.Is(err, redis.Nil), err == nil && got != value:
		w.stale.Add(1)
	case err == nil:
		w.checked.Add(1)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (l *workload) key(writer int, n int64) string { return fmt.Sprintf("w%03d:%09d", writer, n) }

// value is unique and can be computed again, so that nothing has to be kept.
func (l *workload) value(writer int, n int64) string {
	seed := fnv.New64a()
	fmt.Fprintf(seed, "%s/%d/%d", l.run, writer, n)
	head := fmt.Sprintf("%s:%03d:%09d:%016x:", l.run, writer, n, seed.Sum64())
	if len(head) >= l.valueSize {
		return head
	}
	return head + strings.Repeat(string(rune('a'+n%26)), l.valueSize-len(head))
}

// parseKey is key backwards.
func parseKey(key string) (writer int, n int64, ok bool) {
	head, tail, found := strings.Cut(key, ":")
	if !found || len(head) != 4 || head[0] != 'w' {
		return 0, 0, false
	}
	writer, err := strconv.Atoi(head[1:])
	if err != nil {
		return 0, 0, false
	}
	n, err = strconv.ParseInt(tail, 10, 64)
	return writer, n, err == nil
}

func (l *workload) sum(count func(*writer) int64) int64 {
	var total int64
	for _, w := range l.writers {
		total += count(w)
	}
	return total
}

func (l *workload) acked() int64 { return l.sum(func(w *writer) int64 { return w.acked.Load() }) }

// slowest returns the longest that a write took since the last call.
func (l *workload) slowest() time.Duration {
	var longest int64
	for _, w := range l.writers {
		longest = max(longest, w.slowest.Swap(0))
	}
	return time.Duration(longest)
}

// percentiles returns quantiles of all writes' latencies, once the writers have ended.
func (l *workload) percentiles(quantiles ...float64) []time.Duration {
	var all []time.Duration
	for _, w := range l.writers {
		all = append(all, w.latencies...)
	}
	slices.Sort(all)
	found := make([]time.Duration, len(quantiles))
	for i, quantile := range quantiles {
		if len(all) > 0 {
			found[i] = all[int(quantile*float64(len(all)-1))]
		}
	}
	return found
}

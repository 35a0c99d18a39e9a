package main

import (
	"context"
	"strconv"
	"strings"
	"time"
)

// info is a store's answer to INFO.
type info map[string]string

// info asks a store, through the same client library as everyone.
func (s *child) info(ctx context.Context) (info, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	text, err := s.client.Info(ctx).Result()
	if err != nil {
		return nil, err
	}
	return parseInfo(text), nil
}

func parseInfo(text string) info {
	i := info{}
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSpace(line)
		if key, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, "#") {
			i[key] = value
		}
	}
	return i
}

func (i info) number(key string) uint64 {
	n, _ := strconv.ParseUint(i[key], 10, 64)
	return n
}

// counted are the counters of INFO that the demo follows.
func counted() []string {
	return []string{
		"messages_out", "messages_in", "bytes_out", "bytes_in", "batches_out",
		"messages_dropped", "writes_acknowledged", "became_leader", "synced_batches",
	}
}

// tally follows a store's counters over its restarts, which set them back to 0.
// What a store counted between the last look and its death is not in it.
type tally struct {
	incarnation string
	last        map[string]uint64
	total       map[string]uint64
	dropped     map[string]uint64 // by reason, of this incarnation
}

func newTally() *tally {
	return &tally{last: map[string]uint64{}, total: map[string]uint64{}, dropped: map[string]uint64{}}
}

// look takes a new answer in and returns what was added since the one before.
func (t *tally) look(i info) (added map[string]uint64) {
	if i["incarnation"] != t.incarnation {
		t.incarnation = i["incarnation"]
		clear(t.last)
	}
	added = map[string]uint64{}
	for _, key := range counted() {
		now := i.number(key)
		if now > t.last[key] {
			added[key] = now - t.last[key]
		}
		t.last[key] = now
		t.total[key] += added[key]
	}
	for key := range i {
		if reason, ok := strings.CutPrefix(key, "messages_dropped_"); ok {
			now := i.number(key)
			if now > t.last[key] {
				t.dropped[reason] += now - t.last[key]
			}
			t.last[key] = now
		}
	}
	return added
}

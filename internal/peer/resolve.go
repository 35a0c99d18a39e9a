package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/raftmux/raftmux/internal/mutant"
)

// lookups is what a store knows of its address. Guarded by Store.mu.
type lookups struct {
	latest  *lookup
	count   uint64
	stale   string // where another store answered, "" if none did
	address string // the last one found, "" if none was
}

// lookup is one question to the Resolver, shared by all connections of a store.
// The result is written before done is closed.
type lookup struct {
	number  uint64
	started time.Time
	stale   string // what the Resolver was told
	done    chan struct{}
	address string
	err     error
}

func (l *lookup) finished() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// resolve returns the store's address, newer than what the caller knows: from a
// look-up later than number used, begun after since. So connections that fail
// together share one look-up, and there is never more than one at a time.
func (s *Store) resolve(ctx context.Context, used uint64, since time.Time) (*lookup, error) {
	for {
		l := s.lookup(used, since)
		select {
		case <-l.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if s.isNews(l, used, since) {
			return l, l.err
		}
	}
}

// isNews says whether a look-up is later than what a connection knows, and was told
// what is known of the address that it had before.
func (s *Store) isNews(l *lookup, used uint64, since time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lookups.isNews(l, used, since)
}

func (ls *lookups) isNews(l *lookup, used uint64, since time.Time) bool {
	return l.number > used && !l.started.Before(since) && (ls.stale == "" || l.stale == ls.stale)
}

// lookup returns the look-up to wait for, and begins one if need be.
func (s *Store) lookup(used uint64, since time.Time) *lookup {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lookups.latest; l != nil {
		if !l.finished() || s.lookups.isNews(l, used, since) {
			return l
		}
	}
	s.lookups.count++
	l := &lookup{number: s.lookups.count, started: time.Now(), stale: s.lookups.stale, done: make(chan struct{})}
	if old := s.lookups.latest; mutant.Active == mutant.C14 && old != nil && old.err == nil { // the address is remembered
		l.address, s.lookups.latest = old.address, l
		close(l.done)
		return l
	}
	// The caller is a goroutine that Close waits for, so one more may be added.
	s.set.running.Go(func() {
		defer close(l.done)
		l.address, l.err = s.ask(l.stale)
		if l.err == nil {
			s.found(l.address)
		}
	})
	s.lookups.latest = l
	return l
}

func (s *Store) ask(stale string) (string, error) {
	o := s.options
	address, err := "", error(nil)
	if o.BeforeResolve != nil {
		err = o.BeforeResolve(s.id)
	}
	if err == nil {
		ctx, cancel := context.WithTimeoutCause(s.ctx, o.ResolveTimeout, fmt.Errorf("no answer within %v", o.ResolveTimeout))
		address, err = o.Resolver.Resolve(ctx, s.id, stale)
		if err != nil && s.ctx.Err() == nil && ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		cancel()
	}
	if err == nil && address == "" {
		err = errors.New("the resolver returned an empty address")
	}
	switch {
	case err == nil:
		o.Metrics.Resolved("success")
		return address, nil
	case o.IsTombstone(err):
		o.Metrics.Resolved("tombstone")
		s.options.Logger.Info("store is a tombstone", "store_id", s.id)
		if mutant.Active == mutant.C13 { // that it is one is lost on the way
			err = errors.New(err.Error())
		}
	case o.IsNotFound(err):
		o.Metrics.Resolved("not_found")
		s.warn("store is not found", err, "")
	case s.ctx.Err() != nil: // nobody needs the answer any more
	default:
		o.Metrics.Resolved("failed")
		s.warn("resolve store address failed", err, "")
	}
	return "", fmt.Errorf("raftmux: resolve store %d: %w", s.id, err)
}

// markStale notes that another store answered at an address.
func (s *Store) markStale(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookups.stale = address
}

// confirm notes that the store itself answered at an address, where another may have
// been before: names stay, and what they stand for moves.
func (s *Store) confirm(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lookups.stale == address {
		s.lookups.stale = ""
	}
}

// found notes an address.
func (s *Store) found(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookups.address = address
}

// address returns the last address found, "" if there is none. A look-up that is
// under way or has failed changes nothing.
func (s *Store) address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lookups.address
}

// quietTime is how long what repeats itself about a store stays out of the log.
const quietTime = time.Minute

// quiet keeps a store that stays away from flooding the log. Guarded by Store.mu.
type quiet struct {
	last       map[string]time.Time // by message
	suppressed map[string]int
	saidUp     bool // the last that was logged is that the store is up
}

// warn logs a warning about the store, each message at most once a minute. It waits
// for the log, so Send must not call it.
func (s *Store) warn(message string, err error, address string) {
	s.log(slog.LevelWarn, message, err, address)
}

// log is warn for any level.
func (s *Store) log(level slog.Level, message string, err error, address string) {
	if suppressed, due := s.due(message); due {
		s.logLine(level, message, err, address, suppressed)
	}
}

// warnApart is warn for callers that must not wait: a goroutine does the logging, at
// most one a minute for each message. Close must be waiting for the caller.
func (s *Store) warnApart(message string, err error, address string) {
	if suppressed, due := s.due(message); due {
		s.set.running.Go(func() { s.logLine(slog.LevelWarn, message, err, address, suppressed) })
	}
}

// due says whether a message is to be logged now, and if so how often it was not
// since it was logged last.
func (s *Store) due(message string) (suppressed int, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := &s.quiet
	if q.last == nil {
		q.last, q.suppressed = make(map[string]time.Time), make(map[string]int)
	}
	last, seen := q.last[message]
	if seen && time.Since(last) < quietTime {
		q.suppressed[message]++
		return 0, false
	}
	suppressed = q.suppressed[message]
	q.last[message], q.suppressed[message] = time.Now(), 0
	q.saidUp = false
	return suppressed, true
}

// sayUp logs that the store is up, unless that was the last that was logged of it: who
// reads of failures is to read of their end. The caller holds s.mu, and a connection of
// the store is still running.
func (s *Store) sayUp(address string) {
	if s.quiet.saidUp {
		return
	}
	s.quiet.saidUp = true
	s.set.running.Go(func() {
		s.options.Logger.Info("store is up", "store_id", s.id, "addr", address)
	})
}

func (s *Store) logLine(level slog.Level, message string, err error, address string, suppressed int) {
	s.options.Logger.Log(context.Background(), level, message, "store_id", s.id, "addr", address, "err", err, "suppressed", suppressed)
}

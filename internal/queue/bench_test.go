package queue

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raftmux/raftmux/internal/report"
	"github.com/raftmux/raftmux/internal/rig"
)

// benchFlush is the number of messages per flush, one batch.
const benchFlush = 128

// benchBodies are the messages of the benchmarks, by name.
func benchBodies(b *testing.B) map[string]encoded {
	return map[string]encoded{
		"msg=heartbeat": encode(b, rig.Heartbeat(100_000, 2, 400_000)),
		"msg=128B":      make(encoded, 128),
	}
}

func benchQueue() *Queue {
	return New(Options{Messages: 4096, Bytes: 64 << 20, Pool: new(Pool), Dropped: func(Reason, []report.Peer, int) {}})
}

// perMessage reports what f costs per message; f handles b.N flushes.
func perMessage(b *testing.B, f func()) {
	b.ReportAllocs()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b.ResetTimer()
	f()
	b.StopTimer()
	runtime.ReadMemStats(&after)
	messages := float64(b.N) * benchFlush
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/messages, "ns/msg")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/messages, "allocs/msg")
}

func benchFlushOf(s *Stage, body *encoded) error {
	for region := range uint64(benchFlush) {
		if err := s.Push(Message{RegionID: region, PeerID: 7, Size: len(*body)}, body); err != nil {
			return err
		}
	}
	s.Flush()
	return nil
}

// One worker and its consumer on one goroutine: the bare price of a message.
func BenchmarkPushFlushTake(b *testing.B) {
	for name, body := range benchBodies(b) {
		b.Run(name, func(b *testing.B) {
			q := benchQueue()
			s := q.NewStage()
			perMessage(b, func() {
				for range b.N {
					if err := benchFlushOf(s, &body); err != nil {
						b.Fatal(err)
					}
					for batch, ok := q.Take(limits); ok; batch, ok = q.Take(limits) {
						batch.Buffers.Free()
					}
				}
			})
		})
	}
}

// Four workers and a consumer that parks when nothing waits. Workers that meet a
// full queue yield.
func BenchmarkPushFlushTakeParallel(b *testing.B) {
	const workers = 4
	for name, body := range benchBodies(b) {
		b.Run(name, func(b *testing.B) {
			q := benchQueue()
			var flushes atomic.Int64
			perMessage(b, func() {
				var producers sync.WaitGroup
				for range workers {
					producers.Go(func() {
						s := q.NewStage()
						defer s.Close()
						for flushes.Add(1) <= int64(b.N) {
							for region := range uint64(benchFlush) {
								for s.Push(Message{RegionID: region, PeerID: 7, Size: len(body)}, &body) != nil {
									runtime.Gosched()
								}
							}
							s.Flush()
						}
					})
				}
				for taken := 0; taken < b.N*benchFlush; {
					batch, ok := q.Take(limits)
					if !ok {
						<-q.Wake()
						continue
					}
					taken += batch.Messages
					batch.Buffers.Free()
				}
				producers.Wait()
			})
		})
	}
}

// A full queue of a thousand peers that is cleared.
func BenchmarkClear(b *testing.B) {
	q := benchQueue()
	s := q.NewStage()
	body := encode(b, rig.Heartbeat(100_000, 2, 400_000))
	var elapsed time.Duration
	for b.Loop() {
		for i := range uint64(4096) {
			if err := s.Push(Message{RegionID: i % 1000, PeerID: 7, Size: len(body)}, &body); err != nil {
				b.Fatal(err)
			}
		}
		start := time.Now()
		q.Clear(ReasonConnect)
		elapsed += time.Since(start)
	}
	b.ReportMetric(float64(elapsed.Nanoseconds())/float64(b.N)/4096, "ns/msg")
}

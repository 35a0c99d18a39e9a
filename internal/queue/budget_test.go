package queue

import (
	"errors"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/raftmux/raftmux/internal/report"
)

const (
	budgetTotal   = 4 << 20
	budgetMinimum = 128 << 10
)

// budgeted returns the only queue of a store that shares a budget. Its own bounds
// are out of reach.
func budgeted(budget *Budget) *Queue {
	return sharing(budget.NewShare(maxBytes, 1, budgetMinimum, 0))
}

// sharing returns one more queue of a store.
func sharing(share *Share) *Queue {
	return New(Options{
		Messages: maxMessages, Bytes: maxBytes,
		Share: share, Minimum: budgetMinimum,
		Pool:    new(Pool),
		Dropped: func(Reason, []report.Peer, int) {},
	})
}

// zeros encodes as that many bytes.
type zeros int

func (z zeros) AppendTo(buffer []byte) []byte { return append(buffer, make([]byte, z)...) }

func pushZeros(s *Stage, size int) error {
	return s.Push(Message{RegionID: 1, PeerID: 1, Size: size}, zeros(size))
}

// fill pushes until the queue is full, and returns the bytes it then has.
func fill(t *testing.T, s *Stage, size int) (bytes int) {
	t.Helper()
	for {
		err := pushZeros(s, size)
		if errors.Is(err, ErrFull) {
			return bytes
		}
		if err != nil {
			t.Fatal(err)
		}
		if bytes += size; bytes > 2*budgetTotal {
			t.Fatal("the budget has no end")
		}
	}
}

// C17: a dead peer gets at most half of what is free, which ends at a third of
// the budget; what it leaves is there for the living.
func TestC17BudgetLeavesRoom(t *testing.T) {
	budget := NewBudget(budgetTotal)
	dead := budgeted(budget).NewStage()
	if got, most := fill(t, dead, 1000), budgetTotal/3+budgetMinimum; got > most || got < most-2*grain {
		t.Errorf("a dead peer's queue holds %d bytes, want at most %d and nearly that", got, most)
	}
	second := budgeted(budget).NewStage()
	if got := fill(t, second, 1000); got < budgetTotal/6 {
		t.Errorf("the next queue has only %d bytes", got)
	}
	if free := budget.Free(); free < budgetTotal/4 {
		t.Errorf("only %d bytes are free beside two dead peers", free)
	}
}

// C17: a dead store has its third of the budget for all its connections.
func TestC17BudgetByStore(t *testing.T) {
	budget := NewBudget(budgetTotal)
	share := budget.NewShare(maxBytes, 4, budgetMinimum, 0)
	total := 0
	for range 4 {
		total += fill(t, sharing(share).NewStage(), 1000)
	}
	if most := budgetTotal/3 + 4*budgetMinimum; total > most || total < most-5*grain {
		t.Errorf("the four queues of a dead store hold %d bytes, want at most %d and nearly that", total, most)
	}
}

// C17: the queues of a store stay within its bound together, whoever of them has
// the most, and each may hold one message of the largest size.
func TestC17StoreBound(t *testing.T) {
	const most, largest = 1 << 20, 300_000
	share := NewBudget(64<<20).NewShare(most, 3, budgetMinimum, largest)
	var stages []*Stage
	for range 3 {
		stages = append(stages, sharing(share).NewStage())
	}
	if err := pushZeros(stages[0], largest); err != nil {
		t.Fatal(err)
	}
	total := largest
	for _, s := range stages {
		total += fill(t, s, 1000)
	}
	if total > most || total < most-grain-3*1000 {
		t.Errorf("three queues hold %d bytes, want at most %d and nearly that", total, most)
	}
	for _, bytes := range []int{0, most} { // too little for its queues, too
		for range 3 {
			s := sharing(NewBudget(64<<20).NewShare(bytes, 3, budgetMinimum, largest)).NewStage()
			if err := pushZeros(s, largest); err != nil {
				t.Errorf("of %d bytes for a store, none for its largest message: %v", bytes, err)
			}
		}
	}
}

// C17: however many queues are full, each has its minimum.
func TestC17BudgetMinimum(t *testing.T) {
	budget := NewBudget(budgetTotal)
	for range 200 {
		if got := fill(t, budgeted(budget).NewStage(), 1000); got < budgetMinimum-1000 {
			t.Fatalf("a queue has only %d bytes, its minimum is %d", got, budgetMinimum)
		}
	}
	if free := budget.Free(); free < 0 {
		t.Errorf("the budget is overdrawn by %d bytes", -free)
	}
}

// C17: bytes that gRPC holds stay charged until it lets go of them.
func TestC17LentBytesStayCharged(t *testing.T) {
	budget := NewBudget(budgetTotal)
	q := budgeted(budget)
	s := q.NewStage()
	fill(t, s, 1000)
	s.Flush()
	var batches []Batch
	for {
		batch, ok := q.Take(limits)
		if !ok {
			break
		}
		batches = append(batches, batch)
	}
	free := budget.Free()
	if free > budgetTotal*3/4 {
		t.Errorf("%d bytes are free while gRPC holds everything", free)
	}
	if err := pushZeros(s, 64<<10); !errors.Is(err, ErrFull) {
		t.Errorf("got %v while gRPC holds everything, want ErrFull", err)
	}
	for _, batch := range batches {
		batch.Buffers.Free()
	}
	if bytes, _ := q.Lent(); bytes != 0 || budget.Free() != budgetTotal {
		t.Errorf("%d bytes are lent and %d of %d free, after gRPC let go", bytes, budget.Free(), budgetTotal)
	}
}

// C17: the end of a generation takes everything back, once, whether gRPC lets go
// of it later or never.
func TestC17GenerationEndTakesBack(t *testing.T) {
	budget := NewBudget(budgetTotal)
	q := budgeted(budget)
	s := q.NewStage()
	for round := range 3 {
		fill(t, s, 1000)
		s.Flush()
		cut := limits
		cut.Messages = 100 // so that chunks are cut, and live on in the next generation
		first, _ := q.Take(cut)
		q.EndGeneration()
		second, _ := q.Take(cut)
		if round != 1 {
			first.Buffers.Free()
		}
		second.Buffers.Free()
		balanced(t, q)
		q.Clear(ReasonUnreachable)
		q.EndGeneration()
		if _, bytes := q.load.read(); bytes != 0 || budget.Free() != budgetTotal {
			t.Fatalf("round %d: a load of %d bytes is left, %d of %d are free", round, bytes, budget.Free(), budgetTotal)
		}
	}
}

// C17: whatever happens, the budget is never overdrawn, and all of it comes back.
func TestC17BudgetComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		budget := NewBudget(budgetTotal)
		queues := make([]*Queue, rapid.IntRange(1, 4).Draw(t, "queues"))
		share := budget.NewShare(budgetTotal/2, 2, budgetMinimum, 1<<13)
		for i := range queues {
			queues[i] = budgeted(budget)
			if i < 2 && rapid.Bool().Draw(t, "shared") { // by two connections of a store
				queues[i] = sharing(share)
			}
		}
		var wait sync.WaitGroup
		for _, q := range queues {
			steps := rapid.SliceOfN(rapid.IntRange(0, 9), 1, 60).Draw(t, "steps")
			wait.Go(func() { churn(q, steps) })
		}
		wait.Wait()
		if free := budget.Free(); free != budgetTotal {
			t.Fatalf("%d of %d bytes are free in the end", free, budgetTotal)
		}
	})
}

// churn does to a queue what the steps say, and leaves it empty.
func churn(q *Queue, steps []int) {
	s := q.NewStage()
	var held []Batch
	for _, step := range steps {
		switch step {
		case 0:
			q.EndGeneration()
		case 1:
			q.Clear(ReasonUnreachable)
		case 2, 3:
			if batch, ok := q.Take(limits); ok {
				held = append(held, batch)
			}
		case 4:
			for _, batch := range held {
				batch.Buffers.Free()
			}
			held = nil
		default:
			for range 50 {
				_ = pushZeros(s, 1<<(4+step)) // full is an answer like another
			}
			s.Flush()
		}
	}
	q.Disconnect(ReasonClosing)
	q.EndGeneration()
	for _, batch := range held {
		batch.Buffers.Free()
	}
}

package kvstore

import (
	"context"
	"sync"

	"github.com/raftmux/raftmux/snapshot"
)

// precheck asks the store at an address whether a snapshot may come, as
// snapshot.Sender.Precheck does.
type precheck func(ctx context.Context, address string, request snapshot.PrecheckRequest) (snapshot.Admission, error)

// prechecksPerStore bounds the questions to one store that are out at a time, each
// of which has a connection of its own: so a store that doesn't answer is in
// nobody else's way.
const prechecksPerStore = 16

// prechecks asks other stores on behalf of the workers, which never wait for it. It
// is safe for concurrent use.
type prechecks struct {
	directory *directory
	ask       precheck // nil if nobody has to be asked

	ctx     context.Context // ends when the store stops
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu  sync.Mutex
	out map[uint64]int // questions, by store
}

func newPrechecks(directory *directory) *prechecks {
	p := &prechecks{directory: directory, out: map[uint64]int{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// begin asks, and has answered called with what was said. It returns false, and does
// neither, if as many questions as may be are out.
func (p *prechecks) begin(request snapshot.PrecheckRequest, answered func(snapshot.Admission, error)) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil || p.out[request.StoreID] >= prechecksPerStore {
		return false
	}
	p.out[request.StoreID]++
	p.running.Go(func() {
		answered(p.question(request))
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.out[request.StoreID]--; p.out[request.StoreID] == 0 {
			delete(p.out, request.StoreID)
		}
	})
	return true
}

func (p *prechecks) question(request snapshot.PrecheckRequest) (snapshot.Admission, error) {
	address, err := p.directory.Resolve(p.ctx, request.StoreID, "")
	if err != nil {
		return snapshot.Admission{}, err
	}
	return p.ask(p.ctx, address, request)
}

// close ends the questions that are out. The workers must have stopped.
func (p *prechecks) close() {
	p.cancel()
	p.running.Wait()
}

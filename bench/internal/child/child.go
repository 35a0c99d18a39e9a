// Package child is one half of a transport in a process of its own. The parent
// tells it what to do over its standard input and output, by net/rpc.
package child

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"os"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/raftmux/raftmux/bench/internal/arm"
	"github.com/raftmux/raftmux/bench/internal/load"
	"github.com/raftmux/raftmux/bench/internal/measure"
)

// None stands where there is nothing to say.
type None struct{}

// Half is a sender or a receiver, whichever it is told to be. Its methods are
// net/rpc's, which are called one after another.
type Half struct {
	sink     measure.Sink
	back     net.Listener
	receiver arm.Receiver
	sender   arm.Sender
	drivers  []*driver
	profile  *os.File
}

// Run serves the parent until it goes away.
func Run(conn io.ReadWriteCloser) error {
	half := &Half{}
	server := rpc.NewServer()
	if err := server.RegisterName("Half", half); err != nil {
		return fmt.Errorf("child: %w", err)
	}
	server.ServeConn(conn)
	return half.Close()
}

// Close ends whatever runs.
func (h *Half) Close() error {
	errs := []error{h.unload()}
	if h.sender != nil {
		errs = append(errs, h.sender.Close())
	}
	if h.receiver != nil {
		errs = append(errs, h.receiver.Close())
	}
	h.sender, h.receiver = nil, nil
	return errors.Join(errs...)
}

// Listen opens a port of the sender's, for transports that connect back.
func (h *Half) Listen(_ None, address *string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h.back, *address = listener, listener.Addr().String()
	return nil
}

// ServeArgs are Serve's.
type ServeArgs struct {
	Arm    string
	Stores int
	Back   string
	Folder string
}

// Serve makes this the receiver.
func (h *Half) Serve(args ServeArgs, endpoint *arm.Endpoint) error {
	a, err := arm.Find(args.Arm)
	if err != nil {
		return err
	}
	h.receiver, err = a.Serve(arm.ServeOptions{
		Stores: args.Stores, Back: args.Back, Folder: args.Folder, Sink: &h.sink,
	})
	if err != nil {
		return err
	}
	*endpoint = h.receiver.Endpoint()
	return nil
}

// DialArgs are Dial's.
type DialArgs struct {
	Arm      string
	Endpoint arm.Endpoint
	Workers  int
}

// Dial makes this the sender.
func (h *Half) Dial(args DialArgs, _ *None) error {
	a, err := arm.Find(args.Arm)
	if err != nil {
		return err
	}
	h.sender, err = a.Dial(arm.DialOptions{Endpoint: args.Endpoint, Workers: args.Workers, Back: h.back})
	h.back = nil
	return err
}

// Load makes the workers and their messages.
func (h *Half) Load(plan load.Plan, _ *None) error {
	flooder, ok := h.sender.(arm.Flooder)
	if !ok {
		return errors.New("child: this sender has no workers")
	}
	if err := h.unload(); err != nil {
		return err
	}
	for i := range plan.Workers {
		worker, err := flooder.Worker(i, plan)
		if err != nil {
			return err
		}
		alarm, err := newAlarm()
		if err != nil {
			worker.Close()
			return err
		}
		h.drivers = append(h.drivers, &driver{worker: worker, alarm: alarm, plan: plan})
	}
	return nil
}

// unload ends the workers.
func (h *Half) unload() error {
	var errs []error
	for _, d := range h.drivers {
		errs = append(errs, d.close())
	}
	h.drivers = nil
	return errors.Join(errs...)
}

// BurstArgs are Burst's. A Rate of 0 is as fast as it goes.
type BurstArgs struct {
	Duration time.Duration
	Rate     float64 // messages a second, of all workers together
}

// BurstReply says what was sent.
type BurstReply struct {
	Began             time.Time
	Accepted, Refused uint64
}

// Burst lets the workers send for some time.
func (h *Half) Burst(args BurstArgs, reply *BurstReply) error {
	if len(h.drivers) == 0 {
		return errors.New("child: nothing is loaded")
	}
	var stop atomic.Bool
	var running sync.WaitGroup
	reply.Began = time.Now()
	for _, d := range h.drivers {
		d.accepted, d.refused = 0, 0
		running.Go(func() {
			if args.Rate == 0 {
				d.flood(&stop)
				return
			}
			perRound := float64(d.plan.PerFlush * d.plan.Stores * len(h.drivers))
			d.pace(&stop, time.Duration(perRound/args.Rate*float64(time.Second)))
		})
	}
	time.Sleep(args.Duration)
	stop.Store(true)
	running.Wait()
	for _, d := range h.drivers {
		reply.Accepted += d.accepted
		reply.Refused += d.refused
	}
	return nil
}

// Count returns how many messages came.
func (h *Half) Count(_ None, count *uint64) error {
	*count = h.sink.Count()
	return nil
}

// AwaitReply says what came, and when the last of it was seen.
type AwaitReply struct {
	Count uint64
	At    time.Time
}

// Await waits until so many messages came, or none come any more.
func (h *Half) Await(want uint64, reply *AwaitReply) error {
	reply.Count, reply.At = h.sink.Await(want)
	return nil
}

// Stamped says whether the messages that come have stamps.
func (h *Half) Stamped(yes bool, _ *None) error {
	h.sink.Stamped(yes)
	return nil
}

// Latencies returns quantiles of what came since Stamped.
func (h *Half) Latencies(quantiles []float64, found *[]time.Duration) error {
	*found = h.sink.Latencies(quantiles...)
	return nil
}

// Usage returns what this process has used; settled collects garbage first.
func (h *Half) Usage(settled bool, usage *measure.Usage) (err error) {
	if settled {
		*usage, err = measure.Settled()
		return err
	}
	*usage, err = measure.Now()
	return err
}

// Ping sends one message, or one of each kind.
func (h *Half) Ping(_ None, _ *None) error {
	pinger, ok := h.sender.(arm.Pinger)
	if !ok {
		return errors.New("child: this sender sends no pings")
	}
	return pinger.Ping()
}

// Pings sends messages one by one, each when the answer to the one before has
// come, and returns the median, p99 and p99.9 of their round trips.
func (h *Half) Pings(duration time.Duration, found *[]time.Duration) error {
	pinger, ok := h.sender.(arm.Pinger)
	if !ok {
		return errors.New("child: this sender sends no pings")
	}
	var trips []time.Duration
	for end := time.Now().Add(duration); ; {
		began := time.Now()
		if !began.Before(end) {
			break
		}
		if err := pinger.Ping(); err != nil {
			return err
		}
		trips = append(trips, time.Since(began))
	}
	*found = quantiles(trips)
	return nil
}

// quantiles returns the median, p99 and p99.9.
func quantiles(all []time.Duration) (found []time.Duration) {
	slices.Sort(all)
	for _, p := range []float64{0.5, 0.99, 0.999} {
		found = append(found, all[int(p*float64(len(all)))])
	}
	return found
}

// Held returns the most bytes that a connection's transport holds.
func (h *Half) Held(_ None, bytes *uint64) error {
	holder, ok := h.sender.(arm.Holder)
	if !ok {
		return errors.New("child: this sender doesn't know what is held")
	}
	*bytes = holder.HeldBytes()
	return nil
}

// Profile begins a CPU profile, or ends it if the path is empty.
func (h *Half) Profile(path string, _ *None) error {
	if path == "" {
		pprof.StopCPUProfile()
		return h.profile.Close()
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	h.profile = file
	return pprof.StartCPUProfile(file)
}

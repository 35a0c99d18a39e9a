package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"time"

	"github.com/raftmux/raftmux/bench/internal/arm"
	"github.com/raftmux/raftmux/bench/internal/child"
	"github.com/raftmux/raftmux/bench/internal/load"
	"github.com/raftmux/raftmux/bench/internal/measure"
)

// callLimit is how long a process may take to answer.
const callLimit = 30 * time.Second

// childFlag tells this program that it is one of the two processes.
const childFlag = "-as-child"

// process is a child and the way to it.
type process struct {
	command *exec.Cmd
	client  *rpc.Client
}

// pipe is a pair of one-way pipes.
type pipe struct {
	io.Reader
	io.WriteCloser
}

// startProcess runs this program again.
func startProcess() (*process, error) {
	command := exec.Command(os.Args[0], childFlag)
	command.Stderr = os.Stderr
	input, err := command.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	output, err := command.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	return &process{command: command, client: rpc.NewClient(pipe{output, input})}, nil
}

// call waits for the answer, but not for ever.
func (p *process) call(ctx context.Context, method string, args, reply any) error {
	timer := time.NewTimer(callLimit)
	defer timer.Stop()
	call := p.client.Go("Half."+method, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		if call.Error != nil {
			return fmt.Errorf("%s: %w", method, call.Error)
		}
		return nil
	case <-timer.C:
		return fmt.Errorf("%s: no answer within %v", method, callLimit)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop ends the process: when its input ends, or else by force.
func (p *process) stop() {
	_ = p.client.Close()                                                            // the process sees its input end
	force := time.AfterFunc(5*time.Second, func() { _ = p.command.Process.Kill() }) // it may be gone
	defer force.Stop()
	_ = p.command.Wait() // how it ended is of no more interest
}

// pair is a transport with its two processes.
type pair struct {
	ctx              context.Context
	arm              string
	folder           string // where the receiver puts files; may be empty
	sender, receiver *process
	started          func() error // called when the processes run and do nothing yet; may be nil
}

// startPair starts the processes and connects them.
func startPair(ctx context.Context, name string, stores, workers int) (*pair, error) {
	p := &pair{ctx: ctx, arm: name}
	if err := p.start(stores, workers); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

func (p *pair) start(stores, workers int) (err error) {
	if p.receiver, err = startProcess(); err != nil {
		return err
	}
	if p.sender, err = startProcess(); err != nil {
		return err
	}
	if p.started != nil {
		if err := p.started(); err != nil {
			return err
		}
	}
	var back string
	if err := p.sender.call(p.ctx, "Listen", child.None{}, &back); err != nil {
		return err
	}
	var endpoint arm.Endpoint
	serve := child.ServeArgs{Arm: p.arm, Stores: stores, Back: back, Folder: p.folder}
	if err := p.receiver.call(p.ctx, "Serve", serve, &endpoint); err != nil {
		return err
	}
	return p.sender.call(p.ctx, "Dial", child.DialArgs{Arm: p.arm, Endpoint: endpoint, Workers: workers}, &child.None{})
}

func (p *pair) stop() {
	for _, process := range []*process{p.sender, p.receiver} {
		if process != nil {
			process.stop()
		}
	}
}

func (p *pair) load(plan load.Plan) error {
	return p.sender.call(p.ctx, "Load", plan, &child.None{})
}

// burst sends for some time and waits until everything has come. What both
// processes used from the first message to the last is the sample.
func (p *pair) burst(round int, args child.BurstArgs) (Sample, error) {
	var senderBefore, receiverBefore, senderAfter, receiverAfter measure.Usage
	var before uint64
	var sent child.BurstReply
	var came child.AwaitReply
	steps := []func() error{
		func() error { return p.receiver.call(p.ctx, "Count", child.None{}, &before) },
		func() error { return p.receiver.call(p.ctx, "Usage", false, &receiverBefore) },
		func() error { return p.sender.call(p.ctx, "Usage", false, &senderBefore) },
		func() error { return p.sender.call(p.ctx, "Burst", args, &sent) },
		func() error { return p.receiver.call(p.ctx, "Await", before+sent.Accepted, &came) },
		func() error { return p.receiver.call(p.ctx, "Usage", false, &receiverAfter) },
		func() error { return p.sender.call(p.ctx, "Usage", false, &senderAfter) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return Sample{}, err
		}
	}
	return newSample(round, before, sent, came, senderBefore, senderAfter, receiverBefore, receiverAfter)
}

func newSample(
	round int, before uint64, sent child.BurstReply, came child.AwaitReply, senderBefore, senderAfter, receiverBefore, receiverAfter measure.Usage,
) (Sample, error) {
	delivered := came.Count - before
	if delivered == 0 {
		return Sample{}, errors.New("nothing was delivered")
	}
	// What was lost has cost something too: it counts here, in favour of whoever
	// lost it, but not in the rate.
	each := func(before, after float64) float64 { return (after - before) / float64(max(delivered, sent.Accepted)) }
	return Sample{
		Round:          round,
		Messages:       delivered,
		Refused:        sent.Refused,
		Lost:           int64(sent.Accepted) - int64(delivered),
		Rate:           float64(delivered) / came.At.Sub(sent.Began).Seconds(),
		SenderCPU:      each(float64(senderBefore.CPU), float64(senderAfter.CPU)),
		ReceiverCPU:    each(float64(receiverBefore.CPU), float64(receiverAfter.CPU)),
		SenderAllocs:   each(float64(senderBefore.Mallocs), float64(senderAfter.Mallocs)),
		ReceiverAllocs: each(float64(receiverBefore.Mallocs), float64(receiverAfter.Mallocs)),
		Sender:         senderAfter,
		Receiver:       receiverAfter,
	}, nil
}

package arm

import (
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/bench/internal/load"
	"github.com/raftmux/raftmux/etcdraft"
)

// etcdraftArm is this library under package etcdraft: messages of go.etcd.io/raft
// go in and come out, and are the receiver's to keep. Entries of that library never
// change once they are made, so large payloads are referred to.
func etcdraftArm() Arm {
	return Arm{
		Name: "raftmux etcdraft",
		Serve: func(o ServeOptions) (Receiver, error) {
			return serveRaftmux(o, false, func(h *host) raftmux.ServerOptions {
				return raftmux.ServerOptions{NewReceiver: etcdraft.NewReceiver((*etcdHost)(h))}
			})
		},
		Dial: func(o DialOptions) (Sender, error) {
			sender, err := dialRaftmux(o, referLarge)
			if err != nil {
				return nil, err
			}
			return &etcdSender{sender.(*raftmuxSender)}, nil
		},
		Groups: startMuxStore,
	}
}

// etcdHost is a host on go.etcd.io/raft.
type etcdHost host

// Step implements etcdraft.Handler.
func (h *etcdHost) Step(_ etcdraft.Header, message *raftpb.Message) error {
	h.take(message)
	return nil
}

func (h *etcdHost) take(message *raftpb.Message) {
	switch message.GetType() {
	case raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp:
		h.control.Take(message.GetCommit())
	default:
		h.data.Take(message.GetCommit())
	}
}

type etcdSender struct{ *raftmuxSender }

// Worker implements Flooder.
func (s *etcdSender) Worker(number int, plan load.Plan) (Worker, error) {
	ring, err := newEtcdRing(number, plan)
	if err != nil {
		return nil, err
	}
	return &etcdWorker{etcdRing: ring, sender: etcdraft.NewSender(s.client.NewSender())}, nil
}

type etcdWorker struct {
	etcdRing
	sender *etcdraft.Sender
}

// Send implements Worker.
func (w *etcdWorker) Send(i int) bool { return w.sender.Send(w.headers[i], w.messages[i]) == nil }

// Flush implements Worker.
func (w *etcdWorker) Flush() int {
	w.sender.Flush()
	return 0
}

// Close implements Worker.
func (w *etcdWorker) Close() { w.sender.Close() }

// etcdRing is a worker's messages as go.etcd.io/raft has them.
type etcdRing struct {
	headers  []etcdraft.Header
	messages []*raftpb.Message
}

func newEtcdRing(number int, plan load.Plan) (etcdRing, error) {
	messages, err := plan.Messages(number)
	if err != nil {
		return etcdRing{}, err
	}
	var r etcdRing
	for _, m := range messages {
		r.headers = append(r.headers, m.Header())
		r.messages = append(r.messages, m.Etcd())
	}
	return r, nil
}

// Stamp implements Stamper.
func (r etcdRing) Stamp(i int, unixNano int64) { *r.messages[i].Commit = uint64(unixNano) }

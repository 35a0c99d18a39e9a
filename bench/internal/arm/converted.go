package arm

import (
	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/raftmux/raftmux/bench/internal/load"
	"github.com/raftmux/raftmux/etcdraft"
)

// convertedArm is the usual way of a host on go.etcd.io/raft: its messages are
// made into kvproto's, field by field, and back again.
func convertedArm() Arm {
	return Arm{
		Name: "usual converted",
		Serve: func(o ServeOptions) (Receiver, error) {
			return serveUsual(o, func(h *host) tikvpb.TikvServer { return &convertedServer{host: (*etcdHost)(h)} })
		},
		Dial: func(o DialOptions) (Sender, error) {
			sender, err := dialUsual(o)
			if err != nil {
				return nil, err
			}
			return &convertedSender{sender}, nil
		},
		Groups: startUsualStore,
	}
}

type convertedServer struct {
	tikvpb.TikvServer
	host *etcdHost
}

// BatchRaft implements tikvpb.TikvServer.
func (s *convertedServer) BatchRaft(stream tikvpb.Tikv_BatchRaftServer) error {
	for {
		batch, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, message := range batch.Msgs {
			s.host.take(fromKV(message.Message))
		}
	}
}

type convertedSender struct{ *usualSender }

// Worker implements Flooder.
func (s *convertedSender) Worker(number int, plan load.Plan) (Worker, error) {
	ring, err := newEtcdRing(number, plan)
	if err != nil {
		return nil, err
	}
	return &convertedWorker{etcdRing: ring, sender: s.usualSender}, nil
}

type convertedWorker struct {
	etcdRing
	usualWorker
	sender *usualSender
}

// Send implements Worker.
func (w *convertedWorker) Send(i int) bool { return w.sender.offer(toKV(w.headers[i], w.messages[i])) }

// Stamp implements Stamper.
func (w *convertedWorker) Stamp(i int, unixNano int64) { w.etcdRing.Stamp(i, unixNano) }

// toKV converts what is sent. The entries' data and the context are shared.
func toKV(header etcdraft.Header, m *raftpb.Message) *raft_serverpb.RaftMessage {
	body := &eraftpb.Message{
		MsgType:    eraftpb.MessageType(m.GetType()),
		To:         m.GetTo(),
		From:       m.GetFrom(),
		Term:       m.GetTerm(),
		LogTerm:    m.GetLogTerm(),
		Index:      m.GetIndex(),
		Commit:     m.GetCommit(),
		Reject:     m.GetReject(),
		RejectHint: m.GetRejectHint(),
		Context:    m.GetContext(),
	}
	if len(m.Entries) > 0 {
		body.Entries = make([]*eraftpb.Entry, 0, len(m.Entries))
	}
	for _, e := range m.Entries {
		body.Entries = append(body.Entries, &eraftpb.Entry{
			EntryType: eraftpb.EntryType(e.GetType()), Term: e.GetTerm(), Index: e.GetIndex(), Data: e.GetData(),
		})
	}
	return &raft_serverpb.RaftMessage{
		RegionId:    header.RegionID,
		FromPeer:    &metapb.Peer{Id: header.From.ID, StoreId: header.From.StoreID},
		ToPeer:      &metapb.Peer{Id: header.To.ID, StoreId: header.To.StoreID},
		RegionEpoch: &metapb.RegionEpoch{ConfVer: header.Epoch.ConfVer, Version: header.Epoch.Version},
		Message:     body,
	}
}

// fromKV converts what was received. The scalars are referred to, not copied:
// the message is the receiver's own.
func fromKV(m *eraftpb.Message) *raftpb.Message {
	kind := raftpb.MessageType(m.MsgType)
	body := &raftpb.Message{
		Type:       &kind,
		To:         &m.To,
		From:       &m.From,
		Term:       &m.Term,
		LogTerm:    &m.LogTerm,
		Index:      &m.Index,
		Commit:     &m.Commit,
		Reject:     &m.Reject,
		RejectHint: &m.RejectHint,
		Context:    m.Context,
	}
	if len(m.Entries) > 0 {
		body.Entries = make([]*raftpb.Entry, 0, len(m.Entries))
	}
	for _, e := range m.Entries {
		kind := raftpb.EntryType(e.EntryType)
		body.Entries = append(body.Entries, &raftpb.Entry{Type: &kind, Term: &e.Term, Index: &e.Index, Data: e.Data})
	}
	return body
}

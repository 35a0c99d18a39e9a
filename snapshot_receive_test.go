package raftmux_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/internal/rig"
)

// receiveFunc is a SnapshotReceiver from a function.
type receiveFunc func(stream grpc.ServerStream) error

func (f receiveFunc) ReceiveSnapshot(stream grpc.ServerStream) error { return f(stream) }

// openSnapshot opens a stream of Snapshot with the generated client, and sends
// the message on it.
func openSnapshot(t *testing.T, address string) tikvpb.Tikv_SnapshotClient {
	t.Helper()
	client := rig.NewRaftClient(t, address, rig.RaftClientOptions{})
	stream, err := tikvpb.NewTikvClient(client.Conn()).Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&raft_serverpb.SnapshotChunk{Message: rig.Snapshot(1, there, 2, 10)}) // the end tells
	return stream
}

// A Server hands a stream of Snapshot to its receiver, and the peer gets what that
// returns; without a receiver it answers UNIMPLEMENTED.
func TestServerSnapshot(t *testing.T) {
	t.Parallel()
	t.Run("received", func(t *testing.T) {
		t.Parallel()
		server := newReceiving(t, raftmux.ServerOptions{Handler: new(inbox), SnapshotReceiver: receiveFunc(func(stream grpc.ServerStream) error {
			chunk := new(raft_serverpb.SnapshotChunk)
			if err := stream.RecvMsg(chunk); err != nil {
				return err
			}
			if chunk.GetMessage().GetRegionId() != 1 {
				return errors.New("another message")
			}
			return stream.SendMsg(new(raft_serverpb.Done))
		})})
		if _, err := openSnapshot(t, server.addr).CloseAndRecv(); err != nil {
			t.Error(err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		server := newReceiving(t, raftmux.ServerOptions{Handler: new(inbox), SnapshotReceiver: receiveFunc(func(grpc.ServerStream) error {
			return status.Error(codes.ResourceExhausted, "no room")
		})})
		if _, err := openSnapshot(t, server.addr).CloseAndRecv(); status.Code(err) != codes.ResourceExhausted {
			t.Error(err)
		}
	})
	t.Run("without", func(t *testing.T) {
		t.Parallel()
		server := newReceiving(t, raftmux.ServerOptions{Handler: new(inbox)})
		if _, err := openSnapshot(t, server.addr).CloseAndRecv(); status.Code(err) != codes.Unimplemented {
			t.Error(err)
		}
	})
}

// C24: closing a Server ends the snapshots that it receives, waits for the receiver,
// and refuses new ones.
func TestServerCloseWhileSnapshotIsReceived(t *testing.T) {
	t.Parallel()
	began, returned := make(chan struct{}), make(chan error, 1)
	server := newReceiving(t, raftmux.ServerOptions{Handler: new(inbox), SnapshotReceiver: receiveFunc(func(stream grpc.ServerStream) error {
		close(began)
		err := stream.RecvMsg(new(raft_serverpb.SnapshotChunk))
		for err == nil {
			err = stream.RecvMsg(new(raft_serverpb.SnapshotChunk))
		}
		returned <- err
		return err
	})})
	stream := openSnapshot(t, server.addr)
	<-began
	ctx, cancel := context.WithTimeout(context.Background(), rig.WaitTimeout)
	defer cancel()
	if err := server.Close(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case <-returned:
	default:
		t.Error("Close has returned before the receiver")
	}
	if err := stream.RecvMsg(new(raft_serverpb.Done)); status.Code(err) != codes.Unavailable {
		t.Errorf("the sender was told %v", err)
	}
	if _, err := openSnapshot(t, server.addr).CloseAndRecv(); status.Code(err) != codes.Unavailable {
		t.Errorf("after Close: %v", err)
	}
}

// witnessSnapshot returns a snapshot message as TiKV's leaders send it to witnesses.
func witnessSnapshot(t *testing.T, region uint64) *raft_serverpb.RaftMessage {
	t.Helper()
	data, err := (&raft_serverpb.RaftSnapshotData{
		Region: &metapb.Region{Id: region},
		Meta:   &raft_serverpb.SnapshotMeta{ForWitness: true},
	}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	m := rig.Snapshot(region, there, 2, 0)
	m.Message.Snapshot.Data = data
	return m
}

// C9, C23: a witness's snapshot travels on the stream, in order with the data, is
// Finish at once, and arrives as a message like any other.
func TestC23WitnessSnapshots(t *testing.T) {
	t.Parallel()
	var box inbox
	server := newReceiving(t, raftmux.ServerOptions{Handler: &box})
	sender := new(snapshots)
	h := newSending(t, withSnapshots(sender))
	release := h.resolver.Block(there) // not even a connection is needed
	h.resolver.Set(there, server.addr)
	s := h.sender(t)
	want := witnessSnapshot(t, 7)
	sendAll(t, s, rig.Append(7, there, 2, 1, 10), want, rig.Append(7, there, 2, 1, 20))
	h.waitStatus(t, 7, raftmux.SnapshotFinish)
	release()
	got := box.wait(t, 3)
	if got[1].String() != want.String() || got[0].Message.MsgType != eraftpb.MessageType_MsgAppend {
		t.Errorf("the host got %v", got)
	}
	if addresses, _ := sender.given(); len(addresses) != 0 {
		t.Error("the SnapshotSender was given it, too")
	}
	// A host's own bytes in place of RaftSnapshotData are no witness's.
	other := witnessSnapshot(t, 8)
	other.RegionId = 9
	mustSend(t, s, other)
	h.waitStatus(t, 9, raftmux.SnapshotFinish)
	if addresses, _ := sender.given(); len(addresses) != 1 {
		t.Error("a snapshot that names another region took the stream")
	}
	h.close(t)
	h.waitStatus(t, 7, raftmux.SnapshotFinish)
}

// C9, C18: a snapshot message isn't judged by the stream's limit, but has one.
func TestC18SnapshotMessagesHaveTheirOwnLimit(t *testing.T) {
	t.Parallel()
	sender := new(snapshots)
	h := newSending(t, withSnapshots(sender), func(o *raftmux.ClientOptions) {
		o.MaxMessageSize, o.BackoffStep = 1000, time.Minute
	})
	h.resolver.Set(there, "here:1")
	s := h.sender(t)
	mustSend(t, s, rig.Snapshot(1, there, 2, 5000))
	h.waitStatus(t, 1, raftmux.SnapshotFinish)
	if err := s.Send(rig.Snapshot(2, there, 2, raftmux.MaxSnapshotMessageSize)); !errors.Is(err, raftmux.ErrTooLarge) {
		t.Errorf("a snapshot message of more than 64 MiB: %v", err)
	}
	if err := s.Send(rig.Append(1, there, 2, 1, 5000)); !errors.Is(err, raftmux.ErrTooLarge) {
		t.Errorf("an append: %v", err)
	}
}

package arm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/bench/internal/load"
	"github.com/raftmux/raftmux/snapshot"
)

// snapshotArm is the round trip through raftmux, where the asking store sends
// snapshots to the answering one, too: from file to file, with checksums and sync.
func snapshotArm() Arm {
	return Arm{
		Name: "snapshot raftmux",
		Serve: func(o ServeOptions) (Receiver, error) {
			store, err := snapshot.OpenFileStore(snapshot.FileStoreOptions{
				Dir:     filepath.Join(o.Folder, "received"),
				Deliver: func(_ context.Context, _ *raft_serverpb.RaftMessage, path string) error { return os.Remove(path) },
			})
			if err != nil {
				return nil, err
			}
			// One that was cancelled, as its time was over, isn't to be resumed: what
			// it has would be summed first, as fast as that goes.
			receiver, err := snapshot.NewReceiver(snapshot.ReceiverOptions{StoreID: echoStore, Sink: store, MaxPartials: -1})
			if err != nil {
				return nil, err
			}
			r, err := serveEcho(o, raftmux.ServerOptions{SnapshotReceiver: receiver}, nil)
			if err != nil {
				return nil, err
			}
			r.add(func() error { receiver.Close(); return nil })
			return r, nil
		},
		Dial: func(o DialOptions) (Sender, error) {
			pinger, err := dialEcho(o, nil)
			if err != nil {
				return nil, err
			}
			c := &snapshotCarrier{echoPinger: pinger, address: o.Endpoint.Addresses[0], limiter: snapshot.NewLimiter(0)}
			c.snapshots, err = snapshot.NewSender(snapshot.SenderOptions{
				StoreID: load.FirstStore, Limiter: c.limiter, Source: snapshot.FileSource(c.pathOf),
			})
			if err != nil {
				return nil, errors.Join(err, pinger.Close())
			}
			return c, nil
		},
	}
}

// snapshotCarrier implements Carrier and Pinger.
type snapshotCarrier struct {
	*echoPinger
	snapshots *snapshot.Sender
	limiter   *snapshot.Limiter
	address   string
	regions   atomic.Uint64 // the last one that was used
	paths     sync.Map      // of what is being carried, by region
}

// pathOf says where the data of a snapshot is.
func (c *snapshotCarrier) pathOf(_ context.Context, m *raft_serverpb.RaftMessage) (string, error) {
	path, ok := c.paths.Load(m.GetRegionId())
	if !ok {
		return "", fmt.Errorf("arm: nothing is carried for region %d", m.GetRegionId())
	}
	return path.(string), nil
}

// Carry implements Carrier.
func (c *snapshotCarrier) Carry(ctx context.Context, path string, bytesPerSecond int64) error {
	region := c.regions.Add(1)
	c.paths.Store(region, path)
	defer c.paths.Delete(region)
	c.limiter.SetRate(bytesPerSecond)
	message := load.Message{Region: region, Store: echoStore}.KV()
	message.Message.MsgType = eraftpb.MessageType_MsgSnapshot
	message.Message.Snapshot = &eraftpb.Snapshot{
		Metadata: &eraftpb.SnapshotMetadata{Index: load.Commit, Term: load.Term},
	}
	for {
		err := c.snapshots.SendSnapshot(ctx, c.address, message)
		if !errors.Is(err, snapshot.ErrBusy) {
			return err
		}
		select { // as many as may be are under way
		case <-time.After(busyPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// busyPause is how long a snapshot waits that finds no place.
const busyPause = 10 * time.Millisecond

// Close implements Sender.
func (c *snapshotCarrier) Close() error {
	c.snapshots.Close()
	return c.echoPinger.Close()
}

// copyBuffer is what cat reads at once; nc reads less.
const copyBuffer = 128 << 10

// copyArm is a file sent by plain TCP, through a buffer at each end as cat and nc
// do it and not by sendfile, and synced where it comes.
func copyArm() Arm {
	return Arm{
		Name: "snapshot raw",
		Serve: func(o ServeOptions) (Receiver, error) {
			r := &copyReceiver{path: filepath.Join(o.Folder, "raw")}
			var err error
			r.acceptor, err = newAcceptor(nil, func(conn net.Conn) {
				if r.receive(conn) == nil {
					_, _ = conn.Write([]byte{1}) // or the sender sees the end
				}
			})
			return r, err
		},
		Dial: func(o DialOptions) (Sender, error) {
			return copySender(o.Endpoint.Addresses[0]), closeUnused(o.Back)
		},
	}
}

type copyReceiver struct {
	*acceptor
	path string
}

// Endpoint implements Receiver.
func (r *copyReceiver) Endpoint() Endpoint {
	return Endpoint{Addresses: []string{r.listener.Addr().String()}}
}

func (r *copyReceiver) receive(conn net.Conn) error {
	file, err := os.Create(r.path)
	if err != nil {
		return err
	}
	if err := throughBuffer(file, conn); err != nil {
		return errors.Join(err, file.Close())
	}
	// The file is removed at once, as the other store's host does: where the pages
	// of the next one come from makes a large difference on virtual machines.
	return errors.Join(file.Sync(), file.Close(), os.Remove(r.path))
}

func throughBuffer(to io.Writer, from io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, copyBuffer))
	return err
}

// copySender is the receiver's address.
type copySender string

// Carry implements Carrier. It knows no limit.
func (s copySender) Carry(ctx context.Context, path string, _ int64) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", string(s))
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	if err := throughBuffer(conn, file); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return fmt.Errorf("the file has not come: %w", err)
	}
	return nil
}

// Close implements Sender.
func (copySender) Close() error { return nil }

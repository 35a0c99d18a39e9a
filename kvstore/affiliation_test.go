package kvstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/raftmux/raftmux"
)

// logBook keeps a log for a test to look at.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// count returns how many lines have all of the parts.
func (b *logBook) count(parts ...string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
lines:
	for line := range strings.SplitSeq(b.text.String(), "\n") {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue lines
			}
		}
		n++
	}
	return n
}

func newLogBook() (*logBook, *slog.Logger) {
	book := &logBook{}
	return book, slog.New(slog.NewTextHandler(book, nil))
}

// foundAnew takes a store's disk away and starts the store as one that knows of
// nobody else, so that nobody can tell it that it was there before.
func (c *cluster) foundAnew(id uint64) *Store {
	c.t.Helper()
	c.lose(id)
	c.fs[id] = vfs.NewCrashableMem()
	c.given[id], c.joined[id] = map[uint64]string{id: c.peers[id]}, false
	c.start(id)
	waitReady(c.t, c.stores[id])
	return c.stores[id]
}

func waitReady(t testing.TB, store *Store) {
	t.Helper()
	select {
	case <-store.Ready():
	case err := <-store.Failed():
		t.Fatalf("store %d failed: %v", store.options.StoreID, err)
	case <-time.After(20 * time.Second):
		t.Fatalf("store %d doesn't begin", store.options.StoreID)
	}
}

// waitRefusal waits until a store has noticed that another is of another cluster,
// and says so in INFO.
func (c *cluster) waitRefusal(by, of *Store) {
	c.t.Helper()
	want := fmt.Sprintf("kvstore: not of the same cluster: store %d is of cluster %s, store %d is of cluster %s",
		by.options.StoreID, by.host.affiliation.id(), of.options.StoreID, of.host.affiliation.id())
	eventually(c.t, 20*time.Second, "store says that it is of another cluster: "+want, func() bool {
		return infoLines(by)["cluster_last_refusal"] == want
	})
}

// A store that lost its folder, and is started with nobody else to ask, founds a
// cluster of its own. It has the old ids, and is not taken for the member that the
// others knew: they hear nothing of it, and it nothing of them.
func TestStoreThatFoundsAnewIsNoMember(t *testing.T) {
	book, logger := newLogBook()
	c := newCluster(t, 3, Options{Regions: 4, Workers: 1, MaxLogEntries: 20, Logger: logger})
	eventually(t, 20*time.Second, "leaders", c.leadersHome)
	for i := range 100 {
		mustSet(t, c.stores[1], fmt.Sprint("key", i), "before")
	}
	c.waitConverged()
	cluster := infoLines(c.stores[1])["cluster_id"]
	if len(cluster) != 16 || infoLines(c.stores[2])["cluster_id"] != cluster {
		t.Errorf("the cluster is %q at one store, and %q at another", cluster, infoLines(c.stores[2])["cluster_id"])
	}
	anew := c.foundAnew(3)
	if id := infoLines(anew)["cluster_id"]; id == cluster || len(id) != 16 {
		t.Errorf("the new cluster has the id %q, the old one %q", id, cluster)
	}
	for i := range 100 { // of regions that it led, too
		mustSet(t, c.stores[1], fmt.Sprint("key", i), "after")
	}
	eventually(t, 20*time.Second, "it leads what is its own", func() bool {
		return infoLines(anew)["leaders"] == "4"
	})

	// Those of the old cluster come to it.
	c.waitRefusal(c.stores[1], anew)
	eventually(t, 20*time.Second, "it says so too", func() bool { return anew.host.affiliation.refusals.Load() > 10 })
	if up := c.stores[1].host.directory.upFor(3); up != 0 {
		t.Errorf("it counts as one that can be reached, for %v", up)
	}
	if stats := anew.server.Stats(); stats.Messages != 0 {
		t.Errorf("it took %d messages", stats.Messages)
	}
	if became := infoLines(anew)["became_leader"]; became != "4" {
		t.Errorf("it has become leader %s times in 4 regions: it has heard of others", became)
	}
	if got := mustGet(t, anew, "key1"); got != nil {
		t.Errorf("it has key1, %q", got)
	}

	// And it comes to them, if it could not be told when it was asked for: a peer of its
	// regions would destroy the others' own.
	began := time.Now()
	for region := uint64(1); region <= 4; region++ {
		if _, err := anew.AddLearner(region, 1, c.peers[1]); !errors.Is(err, ErrChange) {
			t.Fatalf("a learner at another cluster: %v", err)
		}
		learner := peerChange{kind: raftpb.ConfChangeAddLearnerNode}
		learner.body.StoreID, learner.body.Address = 1, c.peers[1]
		if _, err := anew.change(region, learner); err != nil {
			t.Fatal(err)
		}
	}
	c.waitRefusal(anew, c.stores[1])
	c.waitRefusal(c.stores[1], anew)
	tries := func() uint64 { return anew.client.Stores()[0].Connections[0].Generation }
	eventually(t, 20*time.Second, "it tries again and again", func() bool { return tries() > 3 })
	if n, most := tries(), uint64(time.Since(began)/(backoffStep*4/5))+2; n > most {
		t.Errorf("it has tried %d times, want %d at most", n, most)
	}
	for id := uint64(1); id <= 2; id++ {
		if destroyed := infoLines(c.stores[id])["peers_destroyed"]; destroyed != "0" {
			t.Errorf("store %d has destroyed %s peers", id, destroyed)
		}
	}
	for i := range 100 {
		if got := mustGet(t, c.stores[2], fmt.Sprint("key", i)); string(got) != "after" {
			t.Fatalf("key%d is %q", i, got)
		}
	}
	if n := book.count("store of another cluster", "cluster: store 1 is of cluster "+cluster); n != 1 {
		t.Errorf("store 1 said so %d times within moments", n)
	}
	if n := book.count("store of another cluster", "cluster: store 3 is of cluster "); n == 0 || n > 2 {
		t.Errorf("store 3 said so %d times within moments, of two stores", n)
	}
	c.checkTwo(3)
}

// A store that founded its cluster alone, and is started anew as it was before the
// others came, is told from what it was: it has asked nobody.
func TestLoneFounderThatFoundsAnewIsNoMember(t *testing.T) {
	c := newCluster(t, 1, Options{Regions: 1})
	mustSet(t, c.stores[1], "key", "value")
	cluster := infoLines(c.stores[1])["cluster_id"]
	for id := uint64(2); id <= 3; id++ {
		c.join(id)
		c.putIn(1, id)
	}
	c.waitConverged()
	c.foundAnew(1)
	if id := infoLines(c.stores[1])["cluster_id"]; id == cluster {
		t.Errorf("both clusters are %q", id)
	}
	mustSet(t, c.stores[2], "key", "after")
	c.waitRefusal(c.stores[2], c.stores[1])
	if got := mustGet(t, c.stores[1], "key"); got != nil {
		t.Errorf("it has the key, %q", got)
	}
	c.checkTwo(1)
}

// A store that joins learns which cluster it comes to, and keeps that.
func TestJoiningStoreLearnsItsCluster(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 2})
	mustSet(t, c.stores[1], "key", "value")
	cluster := infoLines(c.stores[1])["cluster_id"]
	for id := uint64(4); id <= 5; id++ {
		waitReady(t, c.join(id))
	}
	c.kill(4)
	c.start(4)
	for id := uint64(4); id <= 5; id++ {
		if got := infoLines(c.stores[id])["cluster_id"]; got != cluster || got == "" {
			t.Errorf("store %d is of cluster %q, not of %q", id, got, cluster)
		}
		for region := uint64(1); region <= 2; region++ {
			c.putIn(region, id)
		}
	}
	c.checkEqual()
}

// A store that joins doesn't begin while nobody can say what it comes to, takes
// no stream until then, and never begins between two clusters.
func TestJoiningStoreNeedsOneCluster(t *testing.T) {
	c := newCluster(t, 1, Options{Regions: 1})
	other := newCluster(t, 1, Options{Regions: 1})
	c.peers[2], c.peers[3] = other.peers[1], "127.0.0.1:1"
	raft, clients := listenLocal(t, "127.0.0.1:0"), listenLocal(t, "127.0.0.1:0")
	c.peers[4], c.clients[4] = raft.Addr().String(), clients.Addr().String()
	c.fs[4], c.joined[4] = vfs.NewCrashableMem(), true
	c.given[4] = map[uint64]string{3: c.peers[3], 4: c.peers[4]} // of whom one isn't there
	c.open(4, raft, clients)
	stream := openBatchRaft(t, newAffiliation(1, slog.New(slog.DiscardHandler)), c.peers[4])
	if err := stream.RecvMsg(nil); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "store 4 waits to hear of its cluster") {
		t.Errorf("a store that knows no cluster answers a stream with %v", err)
	}
	select {
	case <-c.stores[4].Ready():
		t.Error("it began without a cluster")
	default:
	}
	c.stop(4)

	// Two stores with one id, of two clusters, and only one is asked by its name.
	host := &Host{options: Options{StoreID: 4, Regions: 1, Join: true}, affiliation: newAffiliation(4, slog.New(slog.DiscardHandler))}
	for _, store := range []*Store{c.stores[1], other.stores[1]} {
		r := store.host.answer(question{Store: 4})
		err := host.judge(r, 1, store.Addr(), true)
		if foreign := store == other.stores[1]; foreign != errors.Is(err, ErrOtherCluster) {
			t.Errorf("after an answer of cluster %s: %v", r.Cluster, err)
		}
	}
	delete(c.fs, 4)
}

// openBatchRaft opens a stream of Raft messages to an address, as a store does.
func openBatchRaft(t *testing.T, a *affiliation, address string) grpc.ClientStream {
	t.Helper()
	options := append(a.dialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	client, err := grpc.NewClient("passthrough:///"+address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	stream, err := client.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/tikvpb.Tikv/BatchRaft")
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// A peer that names no cluster, a TiKV or a store of an older version, is refused
// on either side, and by the snapshots' service and the question as well.
func TestPeerWithoutAClusterIsRefused(t *testing.T) {
	c := newCluster(t, 2, Options{Regions: 1})
	own := c.stores[1].host.affiliation
	conn, err := grpc.NewClient("passthrough:///"+c.peers[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	for _, method := range []string{"BatchRaft", "Raft", "Snapshot"} {
		for name, md := range map[string]metadata.MD{
			"none":    nil,
			"another": metadata.Pairs(clusterKey, "feedfeedfeedfeed", clusterStoreIDKey, "7"),
		} {
			ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), md), 20*time.Second)
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/tikvpb.Tikv/"+method)
			if err == nil {
				err = stream.RecvMsg(nil)
			}
			cancel()
			want := map[string]string{
				"none":    "store 1 is of cluster " + own.id() + ", the other one names none",
				"another": "store 1 is of cluster " + own.id() + ", store 7 is of cluster feedfeedfeedfeed",
			}[name]
			if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), want) {
				t.Errorf("%s of who names %s cluster: %v, want %q", method, name, err, want)
			}
		}
	}

	// A store that has begun asks as what it is.
	stranger := &Host{affiliation: newAffiliation(7, slog.New(slog.DiscardHandler))}
	stranger.affiliation.settle("feedfeedfeedfeed")
	_, err = stranger.ask(t.Context(), c.peers[1], question{Store: 7}, false)
	if !errors.Is(err, ErrOtherCluster) {
		t.Errorf("a stranger's question is answered with %v", err)
	}
	if r, err := stranger.ask(t.Context(), c.peers[1], question{Store: 7}, true); err != nil || r.Cluster != own.id() {
		t.Errorf("a new store's question is answered with %+v, %v", r, err)
	}

	// The other way around: a store that was dialled and names no cluster.
	listener := listenLocal(t, "127.0.0.1:0")
	stop := servePlainly(t, listener)
	defer stop()
	stream := openBatchRaft(t, own, listener.Addr().String())
	if _, err := stream.Header(); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("the headers of a store without a cluster: %v", err)
	}
	var wrong *ClusterError
	if err := stream.RecvMsg(nil); !errors.As(err, &wrong) || wrong.Store != 1 || wrong.OtherCluster != "" {
		t.Errorf("the end of its stream: %v", err)
	}
}

// servePlainly serves raftmux without any host's interceptors.
func servePlainly(t *testing.T, listener net.Listener) (stop func()) {
	t.Helper()
	server, err := raftmux.NewServer(raftmux.ServerOptions{StoreID: 2, NewReceiver: newReceiver(&Host{})})
	if err != nil {
		t.Fatal(err)
	}
	plain := grpc.NewServer(raftmux.GRPCServerOptions()...)
	server.Register(plain)
	var serving sync.WaitGroup
	serving.Go(func() { _ = plain.Serve(listener) })
	return func() {
		plain.Stop()
		serving.Wait()
		if err := server.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// The id is that of the stores and the number of regions, and nothing else.
func TestClusterIDs(t *testing.T) {
	founders := newClusterID([]uint64{1, 2, 3}, 300)
	if again := newClusterID([]uint64{1, 2, 3}, 300); again != founders {
		t.Errorf("the founders have the ids %s and %s", founders, again)
	}
	seen := map[string]bool{founders: true}
	for _, other := range []string{
		newClusterID([]uint64{1, 2, 3}, 301), newClusterID([]uint64{1, 2}, 300), newClusterID([]uint64{1, 2, 4}, 300),
		newClusterID([]uint64{3}, 300), newClusterID([]uint64{3}, 300),
	} {
		seen[other] = true
	}
	if len(seen) != 6 {
		t.Errorf("of 6 clusters there are %d ids: %v", len(seen), seen)
	}
}

// A folder that was written before clusters had ids is refused with a reason.
func TestFolderOfAnOlderFormat(t *testing.T) {
	fs := vfs.NewMem()
	options := Options{StoreID: 1, Dir: "data", Peers: map[uint64]string{1: "127.0.0.1:0"}, Regions: 1, FS: fs}
	db, err := openPebble(options.withDefaults(), false)
	if err != nil {
		t.Fatal(err)
	}
	old := `{"format":2,"store_id":1,"stores":[1],"regions":1}`
	if err := errors.Join(db.Set(metaKey("identity"), []byte(old), nil), db.Close()); err != nil {
		t.Fatal(err)
	}
	store, err := Open(options)
	if err == nil {
		_ = store.Close(context.Background())
	}
	if want := "store 1: the folder has format 2, of an older version"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, want one with %q", err, want)
	}
}

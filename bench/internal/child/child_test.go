package child

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/raftmux/raftmux/bench/internal/arm"
	"github.com/raftmux/raftmux/bench/internal/groups"
	"github.com/raftmux/raftmux/bench/internal/load"
)

// connect makes a sender and a receiver in this process.
func connect(t *testing.T, name string, stores int) (sender, receiver *Half) {
	t.Helper()
	sender, receiver = &Half{}, &Half{}
	t.Cleanup(func() {
		if err := sender.Close(); err != nil {
			t.Errorf("close of the sender: %v", err)
		}
		if err := receiver.Close(); err != nil {
			t.Errorf("close of the receiver: %v", err)
		}
	})
	var back string
	var endpoint arm.Endpoint
	must(t, sender.Listen(None{}, &back))
	must(t, receiver.Serve(ServeArgs{Arm: name, Stores: stores, Back: back, Folder: t.TempDir()}, &endpoint))
	must(t, sender.Dial(DialArgs{Arm: name, Endpoint: endpoint, Workers: 2}, &None{}))
	return sender, receiver
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Every transport delivers messages of every shape and loses none. The load is
// light: rafthttp drops what its receiver has no room for.
func TestEveryTransportDelivers(t *testing.T) {
	for _, a := range arm.All() {
		t.Run(a.Name, func(t *testing.T) {
			t.Parallel()
			sender, receiver := connect(t, a.Name, 1)
			for _, shape := range load.Shapes() {
				deliver(t, sender, receiver, load.Plan{Shape: shape, Regions: 10, Stores: 1, Workers: 2, Ring: 256, PerFlush: 16})
			}
		})
	}
}

func TestSeveralStores(t *testing.T) {
	for _, name := range []string{"raftmux", "usual", "tcp"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sender, receiver := connect(t, name, 3)
			deliver(t, sender, receiver, load.Plan{Shape: "mix", Regions: 10, Stores: 3, Workers: 2, Ring: 48 * 4, PerFlush: 16})
		})
	}
}

func deliver(t *testing.T, sender, receiver *Half, plan load.Plan) {
	t.Helper()
	var before uint64
	var sent BurstReply
	var came AwaitReply
	must(t, sender.Load(plan, &None{}))
	must(t, receiver.Count(None{}, &before))
	must(t, receiver.Stamped(true, &None{}))
	must(t, sender.Burst(BurstArgs{Duration: 20 * time.Millisecond, Rate: 5000}, &sent))
	must(t, receiver.Await(before+sent.Accepted, &came))
	if sent.Accepted == 0 || came.Count-before != sent.Accepted {
		t.Errorf("%s: %d accepted, %d delivered", plan.Shape, sent.Accepted, came.Count-before)
	}
}

// What has stamps arrives with them.
func TestLatencies(t *testing.T) {
	for _, name := range []string{"raftmux", "raftmux etcdraft", "usual", "usual converted", "rafthttp", "tcp"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sender, receiver := connect(t, name, 1)
			deliver(t, sender, receiver, load.Plan{Shape: "mix", Regions: 10, Stores: 1, Workers: 1, Ring: 256, PerFlush: 16})
			var found []time.Duration
			must(t, receiver.Latencies([]float64{0.5}, &found))
			if found[0] <= 0 || found[0] > time.Minute {
				t.Errorf("the median latency is %v", found[0])
			}
		})
	}
}

func TestPings(t *testing.T) {
	for _, name := range []string{"echo raftmux", "echo tcp", "echo bare"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sender, _ := connect(t, name, 1)
			var found []time.Duration
			must(t, sender.Pings(20*time.Millisecond, &found))
			if len(found) != 3 || found[0] <= 0 {
				t.Errorf("the round trips are %v", found)
			}
		})
	}
}

func TestConnections(t *testing.T) {
	for _, name := range []string{"connections raftmux", "connections bare", "connections alike"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sender, receiver := connect(t, name, 3)
			var came AwaitReply
			must(t, sender.Ping(None{}, &None{}))
			must(t, receiver.Await(6, &came))
			if came.Count != 6 {
				t.Errorf("%d messages came, want 6", came.Count)
			}
		})
	}
}

func TestBlocked(t *testing.T) {
	sender, _ := connect(t, "blocked", 1)
	var sent BurstReply
	var held uint64
	must(t, sender.Load(load.Plan{Shape: "16KiB", Regions: 10, Stores: 1, Workers: 2, Ring: 256, PerFlush: 16}, &None{}))
	must(t, sender.Burst(BurstArgs{Duration: 200 * time.Millisecond}, &sent))
	must(t, sender.Held(None{}, &held))
	if sent.Refused == 0 || held == 0 {
		t.Errorf("%d refused, %d bytes held", sent.Refused, held)
	}
}

// A file arrives, and messages pass beside it.
func TestCarry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	must(t, os.WriteFile(path, make([]byte, 3<<20), 0o600))
	for _, name := range []string{"snapshot raftmux", "snapshot raw"} {
		t.Run(name, func(t *testing.T) {
			sender, _ := connect(t, name, 1)
			var took time.Duration
			must(t, sender.Carry(CarryArgs{Path: path}, &took))
			if took <= 0 {
				t.Errorf("it took %v", took)
			}
			if err := sender.Carry(CarryArgs{Path: path + " that isn't there"}, &took); err == nil {
				t.Error("what isn't there has arrived")
			}
		})
	}
	sender, _ := connect(t, "snapshot raftmux", 1)
	for _, beside := range []*CarryArgs{nil, {Path: path, Rate: 1 << 20}} {
		var found []time.Duration
		must(t, sender.Beats(BeatsArgs{Duration: 20 * time.Millisecond, Beside: beside}, &found))
		if len(found) != 3 || found[0] <= 0 {
			t.Errorf("the round trips are %v", found)
		}
	}
	if err := sender.Beats(BeatsArgs{Beside: &CarryArgs{Path: path + " that isn't there"}}, new([]time.Duration)); err == nil {
		t.Error("what isn't there was carried beside")
	}
}

func TestWhatIsNotKnown(t *testing.T) {
	var half Half
	for what, err := range map[string]error{
		"a transport": half.Serve(ServeArgs{Arm: "pigeon", Stores: 1}, &arm.Endpoint{}),
		"a worker":    half.Load(load.Plan{}, &None{}),
		"a ping":      half.Ping(None{}, &None{}),
		"a burst":     half.Burst(BurstArgs{}, &BurstReply{}),
		"a cluster":   half.Groups(GroupsArgs{Arm: "pigeon"}, &groups.Outcome{}),
		"groups":      half.Groups(GroupsArgs{Arm: "rafthttp"}, &groups.Outcome{}),
	} {
		if err == nil {
			t.Errorf("no error where %s is missing", what)
		}
	}
}

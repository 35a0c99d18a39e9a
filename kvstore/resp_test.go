package kvstore

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// talk sends inline commands on one connection and returns the raw answers.
func talk(t *testing.T, address string, commands string, answerLines int) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write([]byte(commands)); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	var lines []string
	for range answerLines {
		line, err := reader.ReadString('\n')
		if err != nil {
			t.Fatalf("after %q: %v", lines, err)
		}
		lines = append(lines, strings.TrimSpace(line))
	}
	return strings.Join(lines, " ")
}

func TestRESP(t *testing.T) {
	c := newCluster(t, 1, Options{Regions: 4, MaxValueSize: 1000})
	mustSet(t, c.stores[1], "ready", "")
	for _, test := range []struct {
		send  string
		lines int
		want  string
	}{
		{"PING", 1, "+PONG"},
		{"ping hello", 2, "$5 hello"},
		{"ECHO a", 2, "$1 a"},
		{"GET none", 1, "$-1"},
		{"GET ready", 2, "$0 "},
		{"SET a b", 1, "+OK"},
		{"GET a", 2, "$1 b"},
		{"SET a b EX 10", 1, "-ERR syntax error, SET takes a key and a value and no options here"},
		{"SET a", 1, "-ERR wrong number of arguments for 'set' command"},
		{"SET a " + strings.Repeat("x", 1001), 1, "-ERR key and value are larger than 1000 bytes"},
		{"SET d 1\r\nSET e 2\r\nDEL d e f d", 3, "+OK +OK :2"},
		// One key, in one go: in order.
		{"SET p 1\r\nGET p\r\nSET p 2\r\nGET p\r\nDEL p\r\nGET p", 8, "+OK $1 1 +OK $1 2 :1 $-1"},
		{"HELLO 3", 1, "-NOPROTO unsupported protocol version"},
		{"HELLO 2", 26, "*14 $6 server $5 redis $7 version $5 7.2.0 $5 proto :2 $2 id :"},
		{"CLIENT SETNAME me\r\nCLIENT GETNAME", 3, "+OK $2 me"},
		{"CLIENT SETINFO LIB-NAME x", 1, "+OK"},
		{"CLIENT NONSENSE", 1, "-ERR unknown subcommand 'NONSENSE' of CLIENT"},
		{"COMMAND", 1, "*0"},
		{"COMMAND DOCS", 1, "*0"},
		{"COMMAND COUNT", 1, ":0"},
		{"CONFIG GET save", 5, "*2 $4 save $0 "},
		{"CONFIG GET nothing", 1, "*0"},
		{"CONFIG SET save x", 1, "-ERR only CONFIG GET is known"},
		{"SELECT 0", 1, "+OK"},
		{"SELECT 1", 1, "-ERR there is one database, 0"},
		{"AUTH x", 1, "-ERR AUTH called without any password"},
		{"QUIT", 1, "+OK"},
		{"FLUSHALL", 1, "-ERR unknown command 'FLUSHALL', there are PING, GET, SET, DEL, INFO and RAFT.PEERS, .ADDLEARNER, .PROMOTE, .REMOVE, .REPLACE"},
	} {
		got := talk(t, c.clients[1], test.send+"\r\n", test.lines)
		if !strings.HasPrefix(got, test.want) && got != strings.TrimSpace(test.want) {
			t.Errorf("%.40q: got %q, want %q", test.send, got, test.want)
		}
	}
}

// keyIn returns a key of a region.
func keyIn(region uint64, regions int) string {
	for i := 0; ; i++ {
		if key := fmt.Sprint("key", i); RegionOf([]byte(key), regions) == region {
			return key
		}
	}
}

// A DEL of which some keys fail doesn't say that nothing was written.
func TestDelOfWhichSomeKeysFail(t *testing.T) {
	c := newCluster(t, 3, Options{Regions: 2})
	here, gone := keyIn(1, 2), keyIn(2, 2)
	mustSet(t, c.stores[3], here, "value")
	c.takeOut(2, 3)
	for command, want := range map[string]string{
		"DEL " + gone:              "-TRYAGAIN region 2 has no replica on store 3, nothing was written",
		"DEL " + gone + " " + here: "-TRYAGAIN 1 of 2 keys are dealt with, of the others some may be: region 2 has no replica on store 3",
	} {
		eventually(t, 30*time.Second, command, func() bool {
			return talk(t, c.clients[3], command+"\r\n", 1) == want
		})
	}
	if got := mustGet(t, c.stores[3], here); got != nil {
		t.Errorf("%s, which was dealt with, is %q", here, got)
	}
}

func TestRedisClientLibrary(t *testing.T) {
	c := newCluster(t, 1, Options{Regions: 4})
	mustSet(t, c.stores[1], "ready", "")
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{Addr: c.clients[1]}) // as it comes: asks for RESP3 first
	defer func() { _ = client.Close() }()
	results, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i := range 100 {
			pipe.Set(ctx, fmt.Sprint("k", i), i, 0)
			pipe.Get(ctx, fmt.Sprint("k", i))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if got := results[2*i+1].(*redis.StringCmd).Val(); got != fmt.Sprint(i) {
			t.Errorf("k%d is %q", i, got)
		}
	}
	info, err := client.Info(ctx).Result()
	if err != nil || !strings.Contains(info, "\r\nregions:4\r\n") || !strings.Contains(info, "\r\nleaders:4\r\n") {
		t.Errorf("%v: %s", err, info)
	}
	if info, err = client.Info(ctx, "regions").Result(); err != nil || strings.Contains(info, "# Server") {
		t.Errorf("%v: %s", err, info)
	}
}

func TestAdminCommands(t *testing.T) {
	c := newCluster(t, 1, Options{Regions: 2})
	mustSet(t, c.stores[1], "ready", "")
	c.leaderOf(1)
	address := c.peers[1]
	peer, next := PeerID(1, 1), lastFoundingPeer(1)+1
	for _, test := range []struct {
		send  string
		lines int
		want  string
	}{
		{"RAFT.PEERS 1", 3, fmt.Sprintf("*1 $%d peer=%d store=1 role=voter address=%s leader", len(fmt.Sprintf("peer=%d store=1 role=voter address=%s leader", peer, address)), peer, address)},
		{"RAFT.PEERS", 1, "-ERR wrong number of arguments for 'raft.peers' command"},
		{"RAFT.PEERS 3", 1, "-BADCHANGE there is no region 3, they are 1 to 2"},
		{"RAFT.PEERS x", 1, "-ERR 'x' is not a number"},
		{"RAFT.ADDLEARNER 1 2 nowhere", 1, `-BADCHANGE region 1: the address "nowhere" of store 2 is not host:port`},
		{"raft.addlearner 1 2 127.0.0.1:1", 1, fmt.Sprintf(":%d", next)},
		{fmt.Sprintf("RAFT.PROMOTE 1 %d", next), 1, fmt.Sprintf("-TRYAGAIN peer %d of region 1 has 0 of", next)},
		{fmt.Sprintf("RAFT.REMOVE 1 %d", peer), 1, fmt.Sprintf("-BADCHANGE region 1: peer %d is the only voter", peer)},
		{fmt.Sprintf("RAFT.REMOVE 1 %d", next), 1, "+OK"},
		{"RAFT.REPLACE 1 1 h:1", 1, "-BADCHANGE"},
		{"RAFT.REPLACE 0 8 h:1", 1, "-BADCHANGE store id 0 is not from 1 to 999"},
		{"RAFT.REPLACE 7 8 h:1", 1, "-BADCHANGE store 7, which is to be replaced, is one that store 1 has never heard of; see which store is lost, or, if one that starts waits for it, add FORCE"},
		{"RAFT.REPLACE 7 8 h:1 PLEASE", 1, "-ERR wrong number of arguments for 'raft.replace' command"},
		{"RAFT.REPLACE 7 8 h:1 force", 1, ":0"},
		{"RAFT.REPLACE 7 8 h:1", 1, ":0"}, // once more
		{"RAFT.REPLACE 1 8 h:1 FORCE", 1, "-BADCHANGE store 1 is to be replaced by 8 and is the one that was asked"},
		{"RAFT.ADDLEARNER 1 7 h:1", 1, "-BADCHANGE region 1: store 7 was replaced, its id is used up"},
	} {
		if got := talk(t, c.clients[1], test.send+"\r\n", test.lines); !strings.HasPrefix(got, test.want) {
			t.Errorf("%q: got %q, want %q", test.send, got, test.want)
		}
	}
}

// A client that asks for a large value again and again in a few bytes, and reads
// nothing, has a store keep little of it.
func TestAnswersThatNobodyReadsAreFew(t *testing.T) {
	c := newCluster(t, 1, Options{Regions: 1})
	value := strings.Repeat("x", 1<<20)
	mustSet(t, c.stores[1], "k", value)
	conn, err := net.Dial("tcp", c.clients[1])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	const times = 400
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	if _, err := io.WriteString(conn, strings.Repeat("GET k\r\n", times)); err != nil {
		t.Fatal(err)
	}
	var read, last uint64
	eventually(t, 20*time.Second, "no more is read", func() bool {
		time.Sleep(200 * time.Millisecond)
		last, read = read, c.stores[1].host.workers[0].counters.reads.Load()
		return read > 0 && read == last
	})
	if after := heap(); after > before+times<<20/4 {
		t.Errorf("of %d MiB, %d are in memory", times, (after-before)>>20)
	}
	want := strings.Repeat(fmt.Sprintf("$%d\r\n%s\r\n", len(value), value), times/100)
	got := make([]byte, len(want))
	for range 100 {
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
			t.Fatalf("what is read then is wrong, or %v", err)
		}
	}
}

package kvstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidwall/redcon"
)

// scripted is a connection whose client has said all that it will, and is heard a
// few bytes at a time.
type scripted struct {
	net.Conn
	said   []byte
	atMost int
	answer bytes.Buffer
}

func (s *scripted) Read(p []byte) (int, error) {
	if len(s.said) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.said[:min(s.atMost, len(s.said))])
	s.said = s.said[n:]
	return n, nil
}

func (s *scripted) Write(p []byte) (int, error) { return s.answer.Write(p) }

// commandsOf reads commands until there are no more, and says why.
func commandsOf(r io.Reader) (commands []string, err error) {
	reader := redcon.NewReader(r)
	for {
		command, err := reader.ReadCommand()
		if err != nil {
			return commands, err
		}
		commands = append(commands, fmt.Sprintf("%q", command.Args))
	}
}

// throughLimits reads commands through a limitedConn. The answer is what that said to
// the client.
func throughLimits(said []byte, atMost int) (commands []string, answer string, err error) {
	client := &scripted{said: said, atMost: atMost}
	limited := &limitedConn{Conn: client}
	commands, err = commandsOf(limited)
	// What redcon refuses itself may come before what the limits refuse.
	refused := limited.refusal != nil && errors.Is(err, limited.refusal)
	if told := client.answer.Len() > 0; told != refused {
		err = fmt.Errorf("the client was told %q, and read was %w", client.answer.String(), err)
	}
	return commands, client.answer.String(), err
}

const (
	toldOfArguments = "-ERR Protocol error: a command has more than 65536 arguments\r\n"
	toldOfSize      = "-ERR Protocol error: the arguments of a command take more than 67108864 bytes, with 64 for each\r\n"
	toldOfLine      = "-ERR Protocol error: a line takes more than 8192 bytes\r\n"
)

func TestCommandsBeyondTheLimitsAreRefused(t *testing.T) {
	ping := "*1\r\n$4\r\nPING\r\n"
	for name, test := range map[string]struct {
		said, answer string
		commands     []string
	}{
		"within them":             {ping + "GET a\r\n*2\r\n$3\r\nGET\r\n$0\r\n\r\n", "", []string{`["PING"]`, `["GET" "a"]`, `["GET" ""]`}},
		"lengths in an argument":  {"*1\r\n$24\r\n*1\r\n$9223372036854775807\r\n" + ping, "", []string{`["*1\r\n$9223372036854775807"]`, `["PING"]`}},
		"a length in an inline":   {"GET $9223372036854775807\r\n\r\n" + ping, "", []string{`["GET" "$9223372036854775807"]`, `["PING"]`}},
		"the largest length":      {"*1\r\n$9223372036854775807\r\n", toldOfSize, nil},
		"a length beyond that":    {"*1\r\n$99999999999999999999\r\n", toldOfSize, nil},
		"with a sign":             {"*1\r\n$+9223372036854775807\r\n", toldOfSize, nil},
		"just too long":           {"*1\r\n$67108801\r\n", toldOfSize, nil},
		"the largest count":       {"*9223372036854775807\r\n", toldOfArguments, nil},
		"a count beyond that":     {"*99999999999999999999\r\n", toldOfArguments, nil},
		"just too many":           {"*65537\r\n", toldOfArguments, nil},
		"behind other commands":   {ping + "\nECHO hi\n*1\r\n$9223372036854775807\r\n" + ping, toldOfSize, []string{`["PING"]`, `["ECHO" "hi"]`}},
		"behind an argument":      {ping + "*2\r\n$1\r\n*\r\n$67108801\r\n", toldOfSize, []string{`["PING"]`}},
		"a count behind commands": {ping + ping + "*65537\r\n" + ping, toldOfArguments, []string{`["PING"]`, `["PING"]`}},
	} {
		for atMost := 1; atMost <= len(test.said); atMost++ {
			commands, answer, err := throughLimits([]byte(test.said), atMost)
			if !reflect.DeepEqual(commands, test.commands) || answer != test.answer || answer == "" && !errors.Is(err, io.EOF) {
				t.Errorf("%s, %d bytes at a time: commands %v, told %q, %v", name, atMost, commands, answer, err)
			}
		}
	}
}

// What is long is refused as well as what says that it will be.
func TestLongCommandsAreRefused(t *testing.T) {
	half := fmt.Sprintf("$%d\r\n%s\r\n", maxCommandSize/2, strings.Repeat("x", maxCommandSize/2))
	for name, test := range map[string]struct{ said, answer string }{
		"the longest line":              {strings.Repeat("x", maxLineSize-1) + "\n", ""},
		"a longer one":                  {strings.Repeat("x", maxLineSize) + "\n", toldOfLine},
		"a line without end":            {strings.Repeat("x", maxLineSize+1), toldOfLine},
		"a count without end":           {"*" + strings.Repeat("0", maxLineSize), toldOfLine},
		"a length without end":          {"*1\r\n$" + strings.Repeat("0", maxLineSize), toldOfLine},
		"as many arguments as may be":   {"*65536\r\n" + strings.Repeat("$1\r\na\r\n", maxArguments), ""},
		"two that are large together":   {"*2\r\n" + half + half, toldOfSize},
		"two commands with a large one": {strings.Repeat("*1\r\n"+half, 2), ""},
	} {
		for _, atMost := range []int{1000, len(test.said)} {
			client := &scripted{said: []byte(test.said), atMost: atMost}
			_, err := io.Copy(io.Discard, &limitedConn{Conn: client})
			if got := client.answer.String(); got != test.answer || (err == nil) != (got == "") {
				t.Errorf("%s, %d bytes at a time: told %q, %v", name, atMost, got, err)
			}
		}
	}
}

// A client that speaks of lengths beyond reach loses its connection, and nobody else
// notices. What it asked before that is answered.
func TestStoreOutlivesCommandsBeyondTheLimits(t *testing.T) {
	c := newCluster(t, 1, Options{Regions: 1})
	mustSet(t, c.stores[1], "ready", "")
	for said, answer := range map[string]string{
		"*1\r\n$9223372036854775807\r\n": toldOfSize,
		"*9223372036854775807\r\n":       toldOfArguments,
	} {
		conn, err := net.Dial("tcp", c.clients[1])
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(conn, "SET key value\r\n"+said); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		if want := "+OK\r\n" + answer; err != nil || string(got) != want {
			t.Errorf("%q is answered by %q, %v, want %q", said, got, err, want)
		}
		_ = conn.Close()
		if got := talk(t, c.clients[1], "GET key\r\n", 2); got != "$5 value" {
			t.Errorf("after %q others read %q", said, got)
		}
	}
}

// FuzzLimitedCommands checks that whatever a client says, redcon reads it through the
// limits as it does without them, and never panics.
func FuzzLimitedCommands(f *testing.F) {
	for _, said := range []string{
		"*1\r\n$9223372036854775807\r\n",
		"*9223372036854775807\r\n",
		"PING\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n",
		"*1\r\n$+67108801\r\n",
		"*2\r\n$1\r\n*\r\n$0\r\n\r\n*99999999999\r\n",
		"\n\"a b\" c\n*1\n$99\r\n",
		"*2\r\n$1\r\nabc$0\r\nab*70000\r\n",
	} {
		f.Add([]byte(said), uint16(3))
	}
	f.Fuzz(func(t *testing.T, said []byte, atMost uint16) {
		cut := int(atMost) + 1
		commands, answer, err := throughLimits(said, cut)
		if answer != "" {
			// However it comes, as much of it is obeyed.
			again, sameAnswer, _ := throughLimits(said, 1)
			if !reflect.DeepEqual(again, commands) || sameAnswer != answer {
				t.Errorf("%q, %d bytes at a time: %v, told %q; one at a time: %v, told %q", said, cut, commands, answer, again, sameAnswer)
			}
			return
		}
		want, wantErr := commandsOf(&scripted{said: said, atMost: cut})
		if !reflect.DeepEqual(commands, want) || err.Error() != wantErr.Error() {
			t.Errorf("%q, %d bytes at a time: %v, %v, want %v, %v", said, cut, commands, err, want, wantErr)
		}
	})
}

// failingListener accepts nobody.
type failingListener struct {
	net.Listener
	err error
}

func (l failingListener) Accept() (net.Conn, error) { return nil, l.err }

// redcon asks again at once when nobody can be accepted, but for a while: that must not
// take a whole core.
func TestAcceptPausesWhenItFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for err, want := range map[error]time.Duration{syscall.EMFILE: acceptPause, net.ErrClosed: 0} {
			began := time.Now()
			if _, got := (limitedListener{failingListener{err: err}}).Accept(); !errors.Is(got, err) {
				t.Errorf("%v became %v", err, got)
			}
			if took := time.Since(began); took != want {
				t.Errorf("after %v it paused for %v, want %v", err, took, want)
			}
		}
	})
}

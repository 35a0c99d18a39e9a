package kvstore

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// What a client may say. redcon believes what a command says of itself: it panics at
// a length near the largest int, counts to any number of arguments, and buffers what
// it was promised. So the lengths are looked at before redcon sees them.
const (
	// maxArguments bounds the arguments of a command, its name among them.
	maxArguments = 1 << 16
	// maxCommandSize bounds what the arguments of a command take together, with
	// argumentOverhead for each. It has room for the largest MaxValueSize.
	maxCommandSize   = 64 << 20
	argumentOverhead = 64
	// maxLineSize bounds an inline command, and a line with a length. For redcon an
	// inline command costs the square of its size.
	maxLineSize = 8 << 10
)

// limitedConn is a client's connection on which no command is beyond those limits.
// It hands on what comes before one that is, so that earlier commands are answered;
// then it tells the client, and fails. What is malformed it hands on as it is: redcon
// refuses that itself.
type limitedConn struct {
	net.Conn

	skip      int    // how much of an argument, with its line's end, is to come
	arguments int    // how many of a command are to come
	room      int    // for these
	inline    bool   // whether the line that is coming is a command of its own
	size      int    // of what has come of it
	line      []byte // that, of one with a length
	malformed bool   // redcon goes no further
	refusal   error  // why there is no more to read
}

// Read implements net.Conn.
func (c *limitedConn) Read(p []byte) (int, error) {
	if c.refusal != nil {
		return 0, c.refuse()
	}
	n, err := c.Conn.Read(p)
	passed := c.pass(p[:n])
	if c.refusal == nil {
		return n, err
	}
	if passed == 0 {
		return 0, c.refuse()
	}
	return passed, nil
}

// refuse tells the client why the connection ends.
func (c *limitedConn) refuse() error {
	_, err := fmt.Fprintf(c.Conn, "-ERR Protocol error: %v\r\n", c.refusal)
	return errors.Join(c.refusal, err)
}

// pass follows what a client says, and returns how much of it may be handed on: all,
// or what comes before the line that is refused.
func (c *limitedConn) pass(p []byte) (passed int) {
	for at := 0; at < len(p) && !c.malformed; {
		if c.skip > 0 {
			skipped := min(c.skip, len(p)-at)
			c.skip -= skipped
			at += skipped
			continue
		}
		begin := at
		if end := bytes.IndexByte(p[at:], '\n'); end >= 0 {
			at += end + 1
		} else {
			at = len(p)
		}
		if c.refusal = c.take(p[begin:at]); c.refusal != nil {
			return begin
		}
	}
	return len(p)
}

// take takes a line, or a part of one. Its error says what is beyond the limits.
func (c *limitedConn) take(part []byte) error {
	if c.size == 0 {
		c.inline = c.arguments == 0 && part[0] != '*'
	}
	if c.size += len(part); c.size > maxLineSize {
		return fmt.Errorf("a line takes more than %d bytes", maxLineSize)
	}
	if !c.inline {
		c.line = append(c.line, part...)
	}
	if part[len(part)-1] != '\n' {
		return nil
	}
	c.size = 0
	if c.inline {
		return nil
	}
	line := c.line
	c.line = c.line[:0]
	return c.takeLength(line)
}

// takeLength takes a line with the number of a command's arguments, or the length of
// one of these.
func (c *limitedConn) takeLength(line []byte) error {
	text, ended := bytes.CutSuffix(line[1:], []byte("\r\n"))
	n, err := strconv.Atoi(string(text)) // as redcon does; the nearest int if it is too large for one
	isNumber := err == nil || errors.Is(err, strconv.ErrRange)
	switch {
	case !ended || !isNumber:
		c.malformed = true
	case c.arguments == 0 && n > maxArguments:
		return fmt.Errorf("a command has more than %d arguments", maxArguments)
	case c.arguments == 0:
		c.arguments, c.room, c.malformed = n, maxCommandSize, n <= 0
	case line[0] != '$' || n < 0:
		c.malformed = true
	case n > c.room-argumentOverhead:
		return fmt.Errorf("the arguments of a command take more than %d bytes, with %d for each", maxCommandSize, argumentOverhead)
	default:
		c.arguments--
		c.room -= n + argumentOverhead
		c.skip = n + len("\r\n")
	}
	return nil
}

// acceptPause is for how long nobody is accepted after that went wrong, as it does
// while there are no file descriptors: redcon tries again at once.
const acceptPause = 50 * time.Millisecond

// limitedListener accepts clients as limitedConns.
type limitedListener struct{ net.Listener }

// Accept implements net.Listener.
func (l limitedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		if !errors.Is(err, net.ErrClosed) {
			time.Sleep(acceptPause)
		}
		return nil, err
	}
	return &limitedConn{Conn: conn}, nil
}

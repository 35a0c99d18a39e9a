package kvstore

import (
	"encoding/binary"
	"errors"
)

// operation is what a command does.
type operation byte

const (
	opSet operation = 1
	opDel operation = 2
	// opReplace orders a store to be replaced; its value is a Replacement, JSON.
	opReplace operation = 3
	// opChange is a membership change. It goes into the log as Raft's own kind of
	// entry, not as a command.
	opChange operation = 4
)

// commandVersion is the first byte of a command.
const commandVersion = 1

// requestID names a write, for ever: the store that took it, the count of that
// store's starts, and the number that the store gave it among its writes to the
// region since that start.
type requestID struct {
	store, incarnation, sequence uint64
}

// command is what a log entry carries.
type command struct {
	id requestID
	// low is the lowest sequence that the store may still propose again; it has
	// given up on, or seen the end of, every one below.
	low   uint64
	op    operation
	key   []byte
	value []byte
}

var errBadCommand = errors.New("kvstore: malformed command")

// encode returns the command's bytes; they share nothing with it.
func (c *command) encode() []byte {
	buffer := make([]byte, 0, 2+5*binary.MaxVarintLen64+len(c.key)+len(c.value))
	buffer = append(buffer, commandVersion, byte(c.op))
	for _, number := range []uint64{c.id.store, c.id.incarnation, c.id.sequence, c.low, uint64(len(c.key))} {
		buffer = binary.AppendUvarint(buffer, number)
	}
	return append(append(buffer, c.key...), c.value...)
}

// decodeCommand parses what encode wrote; key and value point into data.
func decodeCommand(data []byte) (command, error) {
	if len(data) < 2 || data[0] != commandVersion {
		return command{}, errBadCommand
	}
	c := command{op: operation(data[1])}
	if c.op != opSet && c.op != opDel && c.op != opReplace {
		return command{}, errBadCommand
	}
	data = data[2:]
	var keyLen uint64
	for _, number := range []*uint64{&c.id.store, &c.id.incarnation, &c.id.sequence, &c.low, &keyLen} {
		value, n := binary.Uvarint(data)
		if n <= 0 {
			return command{}, errBadCommand
		}
		*number, data = value, data[n:]
	}
	if keyLen > uint64(len(data)) {
		return command{}, errBadCommand
	}
	c.key, c.value = data[:keyLen], data[keyLen:]
	return c, nil
}

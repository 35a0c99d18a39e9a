package kvstore

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/tidwall/redcon"
)

// redisVersion is what clients are told that look for features by version.
const redisVersion = "7.2.0"

// other answers everything but well-formed GET, SET and DEL: the small commands,
// what clients ask before they begin, and mistakes. It returns true if the
// connection is closed.
func (s *respServer) other(conn redcon.Conn, name string, args [][]byte) (closed bool) {
	client := conn.Context().(*respClient)
	switch name {
	case "PING":
		switch len(args) {
		case 1:
			conn.WriteString("PONG")
		case 2:
			conn.WriteBulk(args[1])
		default:
			wrongArguments(conn, name)
		}
	case "ECHO":
		if len(args) != 2 {
			wrongArguments(conn, name)
			return false
		}
		conn.WriteBulk(args[1])
	case "GET", "SET", "DEL":
		s.badKeyCommand(conn, name, args)
	case "INFO":
		conn.WriteBulkString(s.store.info(sections(args[1:])))
	case "HELLO":
		s.hello(conn, client, args)
	case "CLIENT":
		clientCommand(conn, client, args)
	case "COMMAND":
		if len(args) > 1 && strings.EqualFold(string(args[1]), "COUNT") {
			conn.WriteInt(0)
			return false
		}
		conn.WriteArray(0)
	case "CONFIG":
		s.config(conn, args)
	case "SELECT":
		if len(args) == 2 && string(args[1]) == "0" {
			conn.WriteString("OK")
			return false
		}
		conn.WriteError("ERR there is one database, 0")
	case "AUTH":
		conn.WriteError("ERR AUTH called without any password configured for the default user. Are you sure your configuration is correct?")
	case "QUIT":
		conn.WriteString("OK")
		_ = conn.Close()
		return true
	case "RAFT.PEERS", "RAFT.ADDLEARNER", "RAFT.PROMOTE", "RAFT.REMOVE", "RAFT.REPLACE":
		s.admin(conn, name, args)
	default:
		conn.WriteError(fmt.Sprintf("ERR unknown command '%.64s', there are PING, GET, SET, DEL, INFO and RAFT.PEERS, .ADDLEARNER, .PROMOTE, .REMOVE, .REPLACE", string(args[0])))
	}
	return false
}

// badKeyCommand says what is wrong with a GET, SET or DEL.
func (s *respServer) badKeyCommand(conn redcon.Conn, name string, args [][]byte) {
	switch {
	case s.refusing.Load():
		conn.WriteError("TRYAGAIN the store is shutting down, nothing was written")
	case name == "SET" && len(args) > 3:
		conn.WriteError("ERR syntax error, SET takes a key and a value and no options here")
	case len(args) < 2 || name != "DEL":
		if len(args) == 3 && name == "SET" {
			conn.WriteError(fmt.Sprintf("ERR key and value are larger than %d bytes", s.store.options.MaxValueSize))
			return
		}
		wrongArguments(conn, name)
	default:
		conn.WriteError(fmt.Sprintf("ERR keys are larger than %d bytes", s.store.options.MaxValueSize))
	}
}

func wrongArguments(conn redcon.Conn, name string) {
	conn.WriteError("ERR wrong number of arguments for '" + strings.ToLower(name) + "' command")
}

// hello speaks RESP2 only; clients that ask for 3 fall back when they read NOPROTO.
func (s *respServer) hello(conn redcon.Conn, client *respClient, args [][]byte) {
	if len(args) > 1 && string(args[1]) != "2" {
		conn.WriteError("NOPROTO unsupported protocol version")
		return
	}
	for i := 2; i < len(args); i++ {
		if strings.EqualFold(string(args[i]), "SETNAME") && i+1 < len(args) {
			client.name = string(args[i+1])
		}
	}
	conn.WriteArray(14)
	for _, pair := range [][2]string{{"server", "redis"}, {"version", redisVersion}} {
		conn.WriteBulkString(pair[0])
		conn.WriteBulkString(pair[1])
	}
	conn.WriteBulkString("proto")
	conn.WriteInt(2)
	conn.WriteBulkString("id")
	conn.WriteInt64(client.id)
	for _, pair := range [][2]string{{"mode", "standalone"}, {"role", "master"}} {
		conn.WriteBulkString(pair[0])
		conn.WriteBulkString(pair[1])
	}
	conn.WriteBulkString("modules")
	conn.WriteArray(0)
}

func clientCommand(conn redcon.Conn, client *respClient, args [][]byte) {
	if len(args) < 2 {
		wrongArguments(conn, "client")
		return
	}
	switch strings.ToUpper(string(args[1])) {
	case "ID":
		conn.WriteInt64(client.id)
	case "GETNAME":
		if client.name == "" {
			conn.WriteNull()
			return
		}
		conn.WriteBulkString(client.name)
	case "SETNAME":
		if len(args) != 3 {
			wrongArguments(conn, "client|setname")
			return
		}
		client.name = string(args[2])
		conn.WriteString("OK")
	case "SETINFO", "NO-EVICT", "NO-TOUCH":
		conn.WriteString("OK")
	case "INFO", "LIST":
		conn.WriteBulkString(fmt.Sprintf("id=%d addr=%s name=%s db=0 resp=2\n", client.id, conn.RemoteAddr(), client.name))
	default:
		conn.WriteError(fmt.Sprintf("ERR unknown subcommand '%.64s' of CLIENT", string(args[1])))
	}
}

// config answers what redis-benchmark and libraries ask. Nothing can be set.
func (s *respServer) config(conn redcon.Conn, args [][]byte) {
	if len(args) < 3 || !strings.EqualFold(string(args[1]), "GET") {
		conn.WriteError("ERR only CONFIG GET is known")
		return
	}
	known := [][2]string{
		{"appendonly", "yes"},
		{"databases", "1"},
		{"maxmemory", "0"},
		{"proto-max-bulk-len", strconv.Itoa(s.store.options.MaxValueSize)},
		{"save", ""},
	}
	var found [][2]string
	for _, pair := range known {
		for _, pattern := range args[2:] {
			if ok, _ := path.Match(strings.ToLower(string(pattern)), pair[0]); ok {
				found = append(found, pair)
				break
			}
		}
	}
	conn.WriteArray(2 * len(found))
	for _, pair := range found {
		conn.WriteBulkString(pair[0])
		conn.WriteBulkString(pair[1])
	}
}

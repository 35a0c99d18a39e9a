package raftmux_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftmux/raftmux"
	"github.com/raftmux/raftmux/etcdraft"
	"github.com/raftmux/raftmux/internal/rig"
)

// Each option that can't be is an *OptionError that names its field.
func TestClientOptionErrors(t *testing.T) {
	t.Parallel()
	taken := prometheus.NewRegistry()
	newSending(t, func(o *raftmux.ClientOptions) { o.Registerer = taken })
	for name, test := range map[string]struct {
		field  string
		change func(*raftmux.ClientOptions)
	}{
		"no store id":               {"StoreID", func(o *raftmux.ClientOptions) { o.StoreID = 0 }},
		"no resolver":               {"Resolver", func(o *raftmux.ClientOptions) { o.Resolver = nil }},
		"no router":                 {"Router", func(o *raftmux.ClientOptions) { o.Router = nil }},
		"snapshots":                 {"MaxSnapshots", func(o *raftmux.ClientOptions) { o.MaxSnapshots = -1 }},
		"connections":               {"ConnectionsPerStore", func(o *raftmux.ClientOptions) { o.ConnectionsPerStore = -1 }},
		"too many connections":      {"ConnectionsPerStore", func(o *raftmux.ClientOptions) { o.ConnectionsPerStore = 1 << 20 }},
		"queue messages":            {"QueueMessages", func(o *raftmux.ClientOptions) { o.QueueMessages = -1 }},
		"less than one message":     {"QueueMessages", func(o *raftmux.ClientOptions) { o.QueueMessages, o.ConnectionsPerStore = 3, 4 }},
		"queue bytes":               {"QueueBytes", func(o *raftmux.ClientOptions) { o.QueueBytes = -1 }},
		"batch messages":            {"MaxBatchMessages", func(o *raftmux.ClientOptions) { o.MaxBatchMessages = -1 }},
		"batch bytes":               {"MaxBatchBytes", func(o *raftmux.ClientOptions) { o.MaxBatchBytes = -1 }},
		"message size":              {"MaxMessageSize", func(o *raftmux.ClientOptions) { o.MaxMessageSize = -1 }},
		"more than a Server takes":  {"MaxMessageSize", func(o *raftmux.ClientOptions) { o.MaxMessageSize = 128 << 20 }},
		"batch beyond a Server's":   {"MaxBatchBytes", func(o *raftmux.ClientOptions) { o.MaxBatchBytes = 128 << 20 }},
		"message size beyond gRPC":  {"MaxMessageSize", func(o *raftmux.ClientOptions) { o.MaxMessageSize = 1 << 40 }},
		"payloads":                  {"ReferToPayloads", func(o *raftmux.ClientOptions) { o.ReferToPayloads = 4095 }},
		"window":                    {"WindowSize", func(o *raftmux.ClientOptions) { o.WindowSize = 1 }},
		"age":                       {"MaxMessageAge", func(o *raftmux.ClientOptions) { o.MaxMessageAge = -time.Second }},
		"age without a unit":        {"MaxMessageAge", func(o *raftmux.ClientOptions) { o.MaxMessageAge = 800 }},
		"backoff":                   {"BackoffStep", func(o *raftmux.ClientOptions) { o.BackoffStep = -time.Second }},
		"endless backoff":           {"BackoffStep", func(o *raftmux.ClientOptions) { o.BackoffStep = math.MaxInt64 }},
		"connect timeout":           {"ConnectTimeout", func(o *raftmux.ClientOptions) { o.ConnectTimeout = -time.Second }},
		"keepalive time":            {"KeepaliveTime", func(o *raftmux.ClientOptions) { o.KeepaliveTime = -time.Second }},
		"keepalive timeout":         {"KeepaliveTimeout", func(o *raftmux.ClientOptions) { o.KeepaliveTimeout = -time.Second }},
		"metrics registered before": {"Registerer", func(o *raftmux.ClientOptions) { o.Registerer = taken }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options := raftmux.ClientOptions{
				StoreID: here, Resolver: rig.NewResolver(), Router: rig.NewRouter[raftmux.SnapshotStatus](t),
			}
			test.change(&options)
			client, err := raftmux.NewClient(options)
			wantOption(t, err, test.field)
			if client != nil {
				t.Error("a Client beside the error")
			}
		})
	}
}

// The same for a Server.
func TestServerOptionErrors(t *testing.T) {
	t.Parallel()
	taken := prometheus.NewRegistry()
	newReceiving(t, raftmux.ServerOptions{Handler: new(inbox), Registerer: taken})
	receiver := func() raftmux.Receiver { return nil }
	for name, test := range map[string]struct {
		field   string
		options raftmux.ServerOptions
	}{
		"no store id": {"StoreID", raftmux.ServerOptions{Handler: new(inbox)}},
		"no handler":  {"Handler", raftmux.ServerOptions{StoreID: 1}},
		"both":        {"NewReceiver", raftmux.ServerOptions{StoreID: 1, Handler: new(inbox), NewReceiver: receiver}},
		"close":       {"CloseTimeout", raftmux.ServerOptions{StoreID: 1, Handler: new(inbox), CloseTimeout: -time.Second}},
		"endless":     {"CloseTimeout", raftmux.ServerOptions{StoreID: 1, Handler: new(inbox), CloseTimeout: math.MaxInt64}},
		"lend":        {"LendMessages", raftmux.ServerOptions{StoreID: 1, NewReceiver: receiver, LendMessages: true}},
		"no host":     {"Handler", raftmux.ServerOptions{StoreID: 1, NewReceiver: etcdraft.NewReceiver(nil)}},
		"no inner":    {"Handler", raftmux.ServerOptions{StoreID: 1, NewReceiver: raftmux.HandlerReceiver(nil, true)}},
		"refused":     {"AppendRefused", raftmux.ServerOptions{StoreID: 1, Handler: new(inbox), AppendRefused: func(raftmux.Envelope) {}}},
		"metrics registered before": {
			"Registerer", raftmux.ServerOptions{StoreID: 1, Handler: new(inbox), Registerer: taken},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, err := raftmux.NewServer(test.options)
			wantOption(t, err, test.field)
			if server != nil {
				t.Error("a Server beside the error")
			}
		})
	}
}

// Two Clients, or Servers, with one Registerer are told how to share it; Close gives
// it back.
func TestSharedRegisterer(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	labelled := func(name string) prometheus.Registerer {
		return prometheus.WrapRegistererWith(prometheus.Labels{"name": name}, registry)
	}
	open := map[string]func(prometheus.Registerer) (func(), error){
		"Client": func(r prometheus.Registerer) (func(), error) {
			c, err := raftmux.NewClient(raftmux.ClientOptions{
				StoreID: here, Resolver: rig.NewResolver(), Router: rig.NewRouter[raftmux.SnapshotStatus](t), Registerer: r,
			})
			return func() { _ = c.Close(t.Context()) }, err
		},
		"Server": func(r prometheus.Registerer) (func(), error) {
			s, err := raftmux.NewServer(raftmux.ServerOptions{StoreID: here, Handler: new(inbox), Registerer: r})
			return func() { _ = s.Close(t.Context()) }, err
		},
	}
	for owner, open := range open {
		for range 2 { // the second time after Close
			closeFirst, err := open(labelled("a"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = open(labelled("a"))
			wantOption(t, err, "Registerer")
			for _, part := range []string{"one " + owner + " for each Registerer", "prometheus.WrapRegistererWith"} {
				if !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
					t.Errorf("answered %q", err)
				}
			}
			closeSecond, err := open(labelled("b"))
			if err != nil {
				t.Fatal(err)
			}
			closeFirst()
			closeSecond()
		}
	}
}

func wantOption(t *testing.T, err error, field string) {
	t.Helper()
	option, ok := err.(*raftmux.OptionError) // itself, not wrapped
	if !ok {
		t.Fatalf("answered %v", err)
	}
	if option.Field != field || !strings.Contains(err.Error(), field) || option.Problem == "" {
		t.Errorf("answered %v, not about %s", err, field)
	}
}

// The defaults are those that are documented.
func TestClientDefaults(t *testing.T) {
	t.Parallel()
	h := newSending(t)
	if n := h.MaxMessageSize(); n != 64<<20 {
		t.Errorf("the largest message has %d bytes", n)
	}
	t.Cleanup(h.resolver.Block(there))
	s := h.sender(t)
	accepted := 0
	for s.Send(rig.Ack(1, there, 2)) == nil {
		accepted++
	}
	if accepted != 4096 {
		t.Errorf("a queue took %d messages", accepted)
	}
}

// Package faults takes messages away, holds them up, shuffles and repeats them,
// by rule. It is meant for tests, for drills in production and for riding out a
// bad hour, and costs nothing where it isn't attached.
//
//	rules := faults.New(faults.Options{Seed: 1})
//	defer rules.Close() // before the Client and the Server
//	client, err := raftmux.NewClient(raftmux.ClientOptions{Filter: rules, ...})
//	server, err := raftmux.NewServer(raftmux.ServerOptions{
//		NewReceiver: rules.Receiver(raftmux.HandlerReceiver(host, false)), ...
//	})
//	err = rules.Set("drop 10% MsgAppend region=7 to=2 for=30s", "isolate 3")
//
// # Rules
//
// A rule is one line of words:
//
//	rule      = action { word }
//	action    = "drop" | "delay" | "reorder" | "duplicate"
//	          | "partition" stores "|" stores { "|" stores }
//	          | "isolate" store
//	word      = percent                   the share of messages it hits: 10%, 0.5%
//	          | duration                  of delay and reorder: 50ms, 1.5s
//	          | type { "," type }         message types: MsgAppend,MsgHeartbeat
//	          | "region=" id { "," id }
//	          | "from=" stores | "to=" stores
//	          | "on=" ( "send" | "receive" )
//	          | "after=" count            let that many matching messages pass first
//	          | "for=" duration           the rule's life, from when it is set
//	stores    = store { "," store }
//
// The words after the action, or after what partition and isolate take, come in
// any order, each kind at most once. The message types are kvproto's names of
// those that cross the network. A message without a Raft message in it has no
// type, so a rule that names types never hits it.
//
//	drop       the message is gone
//	delay      it comes later by the duration, which is mandatory; messages that
//	           one rule delays stay in order
//	reorder    it comes later by a random time of up to the duration, 10ms unless
//	           given, so that others overtake it
//	duplicate  it comes twice in a row
//	partition  messages between stores of different sets are gone; stores in
//	           none of the sets are not concerned
//	isolate    messages from and to the store are gone
//
// A message meets the rules in the order in which they were added, until one
// takes it away. A rule hits a message if all that it says is true of it. Delays
// add up, and so do duplicates. On send delay, reorder and duplicate come first,
// whatever the order; drop, partition and isolate meet a message when it leaves, which
// for one that waits is when its time has come.
//
// # Where they act
//
// A rule without on= acts wherever its Rules are attached. A message between two
// stores that share a Rules, or that were given the same rules, meets it twice,
// once when it is sent and once when it is received: say on= where that makes a
// difference, which is for a share, for after=, for delay and for duplicate.
//
//	ClientOptions.Filter: rules          drop, partition and isolate on send.
//	                                     Send returns raftmux.ErrFiltered.
//	rules.NewSender(client, router)      delay, reorder and duplicate on send,
//	                                     beside the Filter. Optional.
//	rules.Receiver(newReceiver)          all of them on receive. What is dropped
//	                                     is counted in ServerStats.Filtered.
//
// Snapshot messages never wait and are never repeated on send: each ends in
// exactly one status, and that is the SnapshotSender's business. On receive no rule
// sees them, for they come by another way than other messages, with their data; but
// those for witnesses, which have none, come by the stream and are like all others.
//
// Messages that wait are bounded, see Options; those above the bound pass at once
// and are counted. A message that was delayed or repeated breaks what raftmux
// otherwise promises about order and at-most-once delivery. That is the fault.
//
// # Chance
//
// What becomes of the n-th message that a rule matches depends on Options.Seed,
// on the place of the rule among all that were ever added, and on n, and on
// nothing else. So a test that sends in one goroutine can be repeated exactly;
// with several, the shares can, and also where messages that waited meet drop on
// send, for they come in an order of their own.
package faults

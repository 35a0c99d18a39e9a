package raftmux

import (
	"bytes"
	"context"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/grpc/mem"
	"pgregory.net/rapid"

	"github.com/raftmux/raftmux/internal/peer"
	"github.com/raftmux/raftmux/internal/queue"
	"github.com/raftmux/raftmux/internal/rig"
	"github.com/raftmux/raftmux/internal/wire"
)

// C3: what kvproto's own code reads of a message is the same whether its payloads
// are copied or referred to: any fields, unknown ones among them, any number of
// entries, small and large.
func TestC3ReferringEncodesTheSame(t *testing.T) {
	const atLeast = 1100
	var encoder kvEncoder
	rapid.Check(t, func(t *rapid.T) {
		message := new(raft_serverpb.RaftMessage)
		fill(t, reflect.ValueOf(message).Elem(), 0)
		if message.Message == nil {
			message.Message = new(eraftpb.Message)
		}
		referred := 0
		for _, entry := range message.Message.Entries {
			size := rapid.SampledFrom([]int{0, 1, 127, 128, atLeast - 1, atLeast, 1 << 14, 1 << 16}).Draw(t, "data")
			entry.Data = bytes.Repeat([]byte{byte(size)}, size)
			if size >= atLeast {
				referred++
			}
		}
		copied, err := message.Marshal()
		if err != nil {
			t.Fatal(err)
		}

		q := queue.New(queue.Options{Messages: 10, Bytes: 1 << 30, Pool: new(queue.Pool), ReferTo: atLeast})
		stage := q.NewStage()
		encoder.message = message
		if err := stage.Push(queue.Message{Size: encoder.Size()}, &encoder); err != nil {
			t.Fatal(err)
		}
		encoder.reset()
		stage.Flush()
		batch, _ := q.Take(queue.Limits{Age: time.Hour, Bare: true})
		for _, entry := range message.Message.Entries {
			if refersTo(batch.Buffers, entry.Data) {
				referred--
			}
		}
		if referred != 0 {
			t.Fatalf("%d payloads of %d entries were not referred to", referred, len(message.Message.Entries))
		}
		data := batch.Buffers.Materialize()
		batch.Buffers.Free()
		var got, want raft_serverpb.RaftMessage
		if err := want.Unmarshal(copied); err != nil {
			t.Fatal(err)
		}
		if err := got.Unmarshal(data); err != nil || len(data) != len(copied) || !reflect.DeepEqual(&got, &want) {
			t.Fatalf("%v\nis read as (%v)\n%v", &want, err, &got)
		}
	})
	if !reflect.DeepEqual(encoder.parts, kvParts{}) {
		t.Error("the encoder keeps parts of a message")
	}
}

// refersTo says whether a buffer is the payload itself.
func refersTo(buffers mem.BufferSlice, payload []byte) bool {
	return slices.ContainsFunc(buffers, func(b mem.Buffer) bool {
		return len(payload) > 0 && b.Len() == len(payload) && &b.ReadOnlyData()[0] == &payload[0]
	})
}

// fill sets any of a message's fields, at every level.
func fill(t *rapid.T, v reflect.Value, depth int) {
	if depth > 4 {
		return
	}
	for i := range v.NumField() {
		field, name := v.Field(i), v.Type().Field(i).Name
		switch {
		case name == "XXX_sizecache" || name == "XXX_NoUnkeyedLiteral" || rapid.IntRange(0, 2).Draw(t, name) == 0:
		case name == "XXX_unrecognized":
			field.SetBytes([]byte{200<<3&0x7f | 0x80, 200 << 3 >> 7, 17}) // field 200, a varint
		default:
			fillValue(t, field, depth)
		}
	}
}

func fillValue(t *rapid.T, v reflect.Value, depth int) {
	switch {
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	case v.CanInt():
		v.SetInt(rapid.Int64Range(-1, 1000).Draw(t, "int"))
	case v.CanUint():
		v.SetUint(rapid.Uint64().Draw(t, "uint") >> rapid.IntRange(0, 63).Draw(t, "shift"))
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), depth+1)
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8:
		v.SetBytes(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "bytes"))
	case v.Kind() == reflect.Slice:
		n := rapid.IntRange(0, 4).Draw(t, "len")
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fillValue(t, v.Index(i), depth)
		}
	}
}

// C3: a full queue of messages whose payloads are referred to holds next to no
// memory of its own; were they copied, it would hold all of them.
func TestC3ReferringAllocatesLittle(t *testing.T) {
	q := queue.New(queue.Options{Messages: 1000, Bytes: 1 << 30, Pool: new(queue.Pool), ReferTo: 4 << 10})
	stage := q.NewStage()
	limits := Tuning{DefaultMaxBatchMessages, DefaultMaxBatchBytes, time.Hour}.limits()
	encoder := &kvEncoder{message: rig.Append(1, 2, 3, 2, 16<<10)}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 1000 {
		if err := stage.Push(queue.Message{Size: encoder.Size()}, encoder); err != nil {
			t.Fatal(err)
		}
	}
	stage.Flush()
	for batch, ok := q.Take(limits); ok; batch, ok = q.Take(limits) {
		batch.Buffers.Free()
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / 1000; each > 4<<10 {
		t.Errorf("%d bytes allocated for a message of %d", each, encoder.size)
	}
}

// meddler is a host and its stream at once: the stream changes a payload that it
// was handed, and says what happens when it lets go.
type meddler struct {
	stubTransport
	payload []byte
	said    chan any
}

func (m meddler) Connect(context.Context, string) (peer.Link, error) { return m, nil }

func (m meddler) Open(ctx context.Context, kind peer.Kind, id wire.StreamID) (peer.Stream, error) {
	stream, err := m.stubTransport.Open(ctx, kind, id)
	return meddlerStream{stream, m}, err
}

type meddlerStream struct {
	peer.Stream
	meddler
}

func (s meddlerStream) Send(batch queue.Batch) error {
	defer func() { s.said <- recover() }()
	s.payload[17]++
	batch.Buffers.Free()
	return nil
}

// C3: with the opt-in, tests catch a host that changes a payload after Send;
// without, it may.
func TestC3ChangedPayloadIsCaught(t *testing.T) {
	for referTo, caught := range map[int]bool{0: false, 16 << 10: true, 16<<10 + 1: false} {
		message := rig.Append(1, 2, 3, 1, 16<<10)
		m := meddler{payload: message.Message.Entries[0].Data, said: make(chan any)}
		client, err := NewClient(ClientOptions{
			StoreID: 1, Resolver: nowhere{}, Router: deaf{}, Transport: m, ReferToPayloads: referTo,
		})
		if err != nil {
			t.Fatal(err)
		}
		sender := client.NewSender()
		if err := sender.Send(message); err != nil {
			t.Fatal(err)
		}
		sender.Flush()
		if said := <-m.said; (said != nil) != caught {
			t.Errorf("refer to payloads of %d: %v", referTo, said)
		}
		sender.Close()
		if err := client.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

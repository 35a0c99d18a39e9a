package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"github.com/pingcap/kvproto/pkg/tikvpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// countingPool counts what comes back to it.
type countingPool struct{ puts int }

func (p *countingPool) Get(n int) *[]byte { b := make([]byte, n); return &b }
func (p *countingPool) Put(*[]byte)       { p.puts++ }

func TestCodecOutgoing(t *testing.T) {
	pool := new(countingPool)
	first := mem.NewBuffer(pool.Get(2000), pool)
	o := &Outgoing{Buffers: mem.BufferSlice{first, mem.SliceBuffer("tail")}}
	got, err := Codec{}.Marshal(o)
	if err != nil || len(got) != 2 || got[0] != first || o.Buffers != nil {
		t.Fatalf("marshalled to %v, %v; left %v", got, err, o.Buffers)
	}
	if o.Free(); pool.puts != 0 {
		t.Error("freed what gRPC has taken")
	}
	if got.Free(); pool.puts != 1 {
		t.Error("the reference didn't pass on")
	}
	o.Buffers = mem.BufferSlice{mem.NewBuffer(pool.Get(2000), pool)}
	o.Free()
	if o.Free(); pool.puts != 2 {
		t.Errorf("%d buffers came back, want 2", pool.puts)
	}
}

func TestCodecIncoming(t *testing.T) {
	pool := new(countingPool)
	in := new(Incoming)
	if in.Release(); in.Bytes() != nil {
		t.Error("bytes out of nothing")
	}
	for _, size := range []int{0, 1, 100, 5000, 2 << 20} {
		for parts := range 4 {
			var data mem.BufferSlice
			var want []byte
			for i := range parts {
				buf := pool.Get(size)
				for j := range *buf {
					(*buf)[j] = byte(i + j)
				}
				want = append(want, *buf...)
				data = append(data, mem.NewBuffer(buf, pool))
			}
			if err := (Codec{}).Unmarshal(data, in); err != nil { // releases what in held
				t.Fatal(err)
			}
			data.Free()
			kept := in.Bytes()
			if !bytes.Equal(kept, want) {
				t.Fatalf("%d x %d bytes: got %d bytes", parts, size, len(kept))
			}
			if parts == 3 {
				continue
			}
			in.Release()
			in.Release()
			if in.Bytes() != nil {
				t.Error("bytes after Release")
			}
			if len(kept) > 0 && kept[0] != PoisonByte {
				t.Error("not poisoned")
			}
		}
	}
}

// Poisoning never touches memory that somebody else may be reading.
func TestCodecPoisonsNothingShared(t *testing.T) {
	shared := []byte("shared with gRPC")
	in := new(Incoming)
	if err := (Codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(shared)}, in); err != nil {
		t.Fatal(err)
	}
	if in.Release(); string(shared) != "shared with gRPC" {
		t.Errorf("overwritten: %q", shared)
	}
}

// Foreign messages are gRPC's own codec's business, to the byte and to the
// error.
func TestCodecForeign(t *testing.T) {
	if (Codec{}).Name() != "proto" {
		t.Errorf("name %q", Codec{}.Name())
	}
	theirs := encoding.GetCodecV2("proto")
	if _, ours := theirs.(Codec); ours {
		t.Fatal("the codec is registered")
	}
	batch := &tikvpb.BatchRaftMessage{Msgs: []*raft_serverpb.RaftMessage{heartbeat(1), appendOf(2, 3, 4000)}}
	for _, m := range []any{
		&healthpb.HealthCheckRequest{Service: "raft"},
		&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING},
		wrapperspb.String("text"),
		wrapperspb.Bytes(make([]byte, 5000)),
		heartbeat(1),
		batch,
		&raft_serverpb.Done{},
		&raft_serverpb.SnapshotChunk{Message: heartbeat(1), Data: []byte("data")},
		"no message at all",
		nil,
		(*healthpb.HealthCheckRequest)(nil),
	} {
		want, wantErr := theirs.Marshal(m)
		got, err := Codec{}.Marshal(m)
		if !sameError(err, wantErr) || !bytes.Equal(got.Materialize(), want.Materialize()) {
			t.Errorf("%T: marshalled to %x, %v, want %x, %v", m, got.Materialize(), err, want.Materialize(), wantErr)
		}
		v := reflect.ValueOf(m)
		if v.Kind() != reflect.Pointer {
			if err := (Codec{}).Unmarshal(nil, m); err == nil || !sameError(err, theirs.Unmarshal(nil, m)) {
				t.Errorf("%T: unmarshalled with %v", m, err)
			}
			continue
		}
		if v.IsNil() {
			continue // theirs panics
		}
		for _, data := range []mem.BufferSlice{want, {mem.SliceBuffer("\x0a\xff")}, nil} {
			a, b := reflect.New(reflect.TypeOf(m).Elem()).Interface(), reflect.New(reflect.TypeOf(m).Elem()).Interface()
			err, wantErr := Codec{}.Unmarshal(data, a), theirs.Unmarshal(data, b)
			if !sameError(err, wantErr) {
				t.Errorf("%T: unmarshalled with %v, want %v", m, err, wantErr)
			}
			if pa, ok := a.(proto.Message); ok && !proto.Equal(pa, b.(proto.Message)) || !ok && !reflect.DeepEqual(a, b) {
				t.Errorf("%T: unmarshalled to %v, want %v", m, a, b)
			}
		}
	}
}

func sameError(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

// echo is a server whose BatchRaft counts what it gets and answers a Done
// with the failure, if any, in the status.
type echo struct {
	got  chan []byte
	err  chan error
	pool mem.BufferPool // for what came in pieces; nil for gRPC's
}

func (e *echo) batchRaft(_ any, stream grpc.ServerStream) error {
	in := &Incoming{Pool: e.pool}
	defer in.Release()
	for {
		if err := stream.RecvMsg(in); err != nil {
			e.err <- err
			return err
		}
		e.got <- bytes.Clone(in.Bytes())
	}
}

// serve starts a server on loopback with a raft service and health, and returns
// a connection to it.
func serve(t *testing.T, e *echo, opts ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(opts...)
	healthpb.RegisterHealthServer(s, health.NewServer())
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "tikvpb.Tikv",
		HandlerType: (*any)(nil),
		Streams:     []grpc.StreamDesc{{StreamName: "BatchRaft", Handler: e.batchRaft, ClientStreams: true}},
	}, e)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient("passthrough:"+l.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func newEcho() *echo { return &echo{got: make(chan []byte, 8), err: make(chan error, 8)} }

// Both ends with the codec, the peers with kvproto's generated code, and
// another service beside them.
func TestCodecOnTheWire(t *testing.T) {
	e := newEcho()
	conn := serve(t, e, grpc.ForceServerCodecV2(Codec{}), grpc.MaxRecvMsgSize(64<<20))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()

	generated, err := tikvpb.NewTikvClient(conn).BatchRaft(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true},
		"/tikvpb.Tikv/BatchRaft", grpc.ForceCodecV2(Codec{}))
	if err != nil {
		t.Fatal(err)
	}
	o := new(Outgoing)
	for _, size := range []int{0, 10, 5000, 3 << 20} {
		batch := &tikvpb.BatchRaftMessage{Msgs: []*raft_serverpb.RaftMessage{heartbeat(1), appendOf(2, 1, size)}}
		want := mustMarshal(t, batch)
		if err := generated.Send(batch); err != nil {
			t.Fatal(err)
		}
		if got := <-e.got; !bytes.Equal(got, want) {
			t.Fatalf("from generated code: got %d bytes, want %d", len(got), len(want))
		}
		o.Buffers = mem.BufferSlice{mem.SliceBuffer(want[:7]), mem.SliceBuffer(want[7:])}
		if err := ours.SendMsg(o); err != nil {
			t.Fatal(err)
		}
		if got := <-e.got; !bytes.Equal(got, want) {
			t.Fatalf("from ours: got %d bytes, want %d", len(got), len(want))
		}
	}
	if err := ours.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := <-e.err; err != io.EOF || IsForeignCodecError(err) {
		t.Errorf("the stream ended with %v", err)
	}

	health := healthpb.NewHealthClient(conn)
	if r, err := health.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health with gRPC's codec: %v, %v", r, err)
	}
	if r, err := health.Check(ctx, &healthpb.HealthCheckRequest{}, grpc.ForceCodecV2(Codec{})); err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health with ours: %v, %v", r, err)
	}
}

// A server that was built without the codec is recognised, at both ends.
func TestIsForeignCodecError(t *testing.T) {
	e := newEcho()
	conn := serve(t, e)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	stream, err := tikvpb.NewTikvClient(conn).BatchRaft(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&tikvpb.BatchRaftMessage{Msgs: []*raft_serverpb.RaftMessage{heartbeat(1)}}); err != nil {
		t.Fatal(err)
	}
	if err := <-e.err; !IsForeignCodecError(err) {
		t.Errorf("the server's RecvMsg: %v", err)
	}
	// The client forgot the call option.
	plain, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/tikvpb.Tikv/BatchRaft")
	if err != nil {
		t.Fatal(err)
	}
	o := &Outgoing{Buffers: mem.BufferSlice{mem.SliceBuffer("\x0a\x00")}}
	if err := plain.SendMsg(o); !IsForeignCodecError(err) {
		t.Errorf("the client's SendMsg: %v", err)
	}
	if o.Buffers == nil {
		t.Error("the buffers were taken")
	}
	for _, err := range []error{
		nil, io.EOF, errors.New("message is *wire.Incoming"),
		status.Error(codes.Internal, "grpc: failed to unmarshal the received message: proto: wrong wireType = 1"),
		status.Error(codes.Unimplemented, "*wire.Incoming"),
	} {
		if IsForeignCodecError(err) {
			t.Errorf("%v taken for a foreign codec's", err)
		}
	}
}

// Steady receiving and sending allocate nothing in the codec but the slice.
func TestCodecAllocations(t *testing.T) {
	var any any = new(Incoming)
	buf := make([]byte, 100<<10)
	data := mem.BufferSlice{mem.SliceBuffer(buf[:50<<10]), mem.SliceBuffer(buf[50<<10:])}
	if n := testing.AllocsPerRun(200, func() {
		if err := (Codec{}).Unmarshal(data, any); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("receiving: %v allocations", n)
	}
	o := new(Outgoing)
	if n := testing.AllocsPerRun(200, func() {
		o.Buffers = data
		if _, err := (Codec{}).Marshal(o); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("sending: %v allocations", n)
	}
}

package kvstore

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The metadata in which both ends of a stream name their store and its cluster:
// whoever calls in the request's, whoever answers in the headers, or, if it
// refuses, in the trailer.
const (
	clusterKey        = "raftmux-kvstore-cluster"
	clusterStoreIDKey = "raftmux-kvstore-store"
)

// pairs are the own ones.
func (a *affiliation) pairs() []string {
	return []string{clusterKey, a.id(), clusterStoreIDKey, strconv.FormatUint(a.store, 10)}
}

// maxClusterText bounds what is kept of a cluster's id from afar.
const maxClusterText = 64

// named reads the other end's, as far as they are there. A nonsensical store is
// none.
func named(md metadata.MD) (store uint64, cluster string) {
	if values := md.Get(clusterKey); len(values) > 0 {
		cluster = values[0][:min(len(values[0]), maxClusterText)]
	}
	if values := md.Get(clusterStoreIDKey); len(values) > 0 {
		store, _ = strconv.ParseUint(values[0], 10, 64)
	}
	if store >= maxStoreID {
		store = 0
	}
	return store, cluster
}

// outgoing names store and cluster in the metadata of a call.
func (a *affiliation) outgoing(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, a.pairs()...)
}

// dialOptions are for all that opens streams to other stores.
func (a *affiliation) dialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainStreamInterceptor(a.openStream)}
}

// serverOptions are for what takes them, and the question of founding.go.
func (a *affiliation) serverOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainStreamInterceptor(a.takeStream), grpc.ChainUnaryInterceptor(a.takeCall)}
}

// takeStream is a server's interceptor. Nothing of a stream is read before it.
func (a *affiliation) takeStream(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := a.admit(stream.Context()); err != nil {
		return err
	}
	return handler(server, &namedStream{ServerStream: stream, name: metadata.Pairs(a.pairs()...)})
}

// takeCall is a server's interceptor. A store that is new asks before it is of
// any cluster, and decides by the answer.
func (a *affiliation) takeCall(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if info.FullMethod != askMethod || len(md.Get(clusterKey)) > 0 {
		if err := a.admit(ctx); err != nil {
			return nil, err
		}
	}
	return handler(ctx, request)
}

// admit refuses who is not of this cluster. One that waits to hear of its cluster
// takes nobody in yet, or it would never look at those again.
func (a *affiliation) admit(ctx context.Context) error {
	if a.id() == "" {
		return status.Errorf(codes.Unavailable, "kvstore: store %d waits to hear of its cluster", a.store)
	}
	md, _ := metadata.FromIncomingContext(ctx)
	err := a.check(named(md))
	if err != nil {
		_ = grpc.SetTrailer(ctx, metadata.Pairs(a.pairs()...)) // the text says it, too
	}
	return err
}

// namedStream is a stream that was taken in. It names store and cluster in its
// headers, when there are any: a stream that is refused further in has none, by
// which a raftmux store knows that.
type namedStream struct {
	grpc.ServerStream
	name metadata.MD
	once sync.Once
}

// SendHeader implements grpc.ServerStream.
func (s *namedStream) SendHeader(md metadata.MD) error {
	s.addName()
	return s.ServerStream.SendHeader(md)
}

// SendMsg implements grpc.ServerStream.
func (s *namedStream) SendMsg(message any) error {
	s.addName()
	return s.ServerStream.SendMsg(message)
}

func (s *namedStream) addName() {
	s.once.Do(func() { _ = s.SetHeader(s.name) })
}

// openStream is a client's interceptor.
func (a *affiliation) openStream(
	ctx context.Context, desc *grpc.StreamDesc, client *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := open(a.outgoing(ctx), desc, client, method, options...)
	if err != nil {
		return nil, err
	}
	return &checkedStream{ClientStream: stream, affiliation: a}, nil
}

// checkedStream is a stream that was opened. It fails with a *ClusterError once
// the other end has named another cluster.
type checkedStream struct {
	grpc.ClientStream
	affiliation *affiliation
	wrong       atomic.Pointer[ClusterError]
}

// Header implements grpc.ClientStream. A stream that ended without headers has
// neither headers nor an error.
func (s *checkedStream) Header() (metadata.MD, error) {
	md, err := s.ClientStream.Header()
	if err != nil || md == nil {
		return md, err
	}
	if err := s.affiliation.check(named(md)); err != nil {
		var wrong *ClusterError
		if errors.As(err, &wrong) {
			s.wrong.Store(wrong)
		}
		return nil, err
	}
	return md, nil
}

// RecvMsg implements grpc.ClientStream. It doesn't wait for more from an end that
// is known to be a wrong one.
func (s *checkedStream) RecvMsg(message any) error {
	if wrong := s.wrong.Load(); wrong != nil {
		return wrong
	}
	err := s.ClientStream.RecvMsg(message)
	if err != nil && !errors.Is(err, io.EOF) {
		return s.affiliation.explain(err, s.Trailer())
	}
	if _, wrong := s.Header(); wrong != nil {
		return wrong
	}
	return err
}

// explain turns another store's refusal into the error that it stands for.
func (a *affiliation) explain(err error, trailer metadata.MD) error {
	if status.Code(err) != codes.FailedPrecondition {
		return err
	}
	if other, cluster := named(trailer); cluster != "" {
		if wrong := a.check(other, cluster); wrong != nil {
			return wrong
		}
	}
	return err
}

package kvstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Why a store with an empty folder asks before it starts
//
// A store that has lost its folder has forgotten which votes it gave and which
// entries it said it had. If it came back as what it was, a second leader could be
// elected with its second vote, and what was acknowledged with its help could be
// lost. It can't remember; so it asks all stores of Options.Peers, and all that these
// know, whether they have ever heard of it, and starts only when each has said no.
// A store that is dead for good has to be replaced before another can begin.
//
// That is enough: a store notes in the very batch that depends on it that it has
// heard of another (see worker.meet), so a vote that counted somewhere is
// remembered there. And it costs what a new cluster needs anyway: for the first
// start, all stores have to be there.
//
// A store that is told of nobody can ask nobody. What that founds is a cluster with
// an identity of its own, which the stores of others refuse; see affiliation.go.

// ErrKnown is wrapped by the error of a store whose folder is empty though it has
// been a member: it must not come back under its id.
var ErrKnown = errors.New("the store was a member before, and its data is gone")

// ErrRetired is wrapped by the error of a store that was replaced.
var ErrRetired = errors.New("the store was replaced, its id is used up")

// question is what a store asks another when it starts, and reply the answer.
type question struct {
	Store   uint64            `json:"store"`
	Regions int               `json:"regions"`
	Founds  map[uint64]string `json:"founds,omitempty"` // Options.Peers of a store that founds a cluster
}

type reply struct {
	Store   uint64            `json:"store"`
	Met     bool              `json:"met"`
	Retired bool              `json:"retired"`
	Regions int               `json:"regions"`
	Founds  map[uint64]string `json:"founds,omitempty"`
	// Serving says that the store has begun.
	Serving bool `json:"serving,omitempty"`
	// Cluster is the id of the store's cluster, if it knows that.
	Cluster string `json:"cluster,omitempty"`
	// Others are the stores that this one knows, with their addresses, and Gone
	// those that were replaced.
	Others map[uint64]string `json:"others,omitempty"`
	Gone   []uint64          `json:"gone,omitempty"`
}

// askService is a gRPC service beside the Raft one. Both messages are JSON in a
// StringValue.
const (
	askService = "raftmux.kvstore.Stores"
	askMethod  = "/" + askService + "/Ask"
)

type asker interface {
	answer(question) reply
}

func askDesc() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: askService,
		HandlerType: (*asker)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Ask",
			Handler: func(server any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
				var in wrapperspb.StringValue
				if err := decode(&in); err != nil {
					return nil, err
				}
				handle := func(context.Context, any) (any, error) { return answerAsk(server.(asker), &in) }
				if intercept == nil {
					return handle(ctx, &in)
				}
				return intercept(ctx, &in, &grpc.UnaryServerInfo{Server: server, FullMethod: askMethod}, handle)
			},
		}},
	}
}

func answerAsk(server asker, in *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
	var q question
	if err := json.Unmarshal([]byte(in.GetValue()), &q); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "kvstore: the question: %v", err)
	}
	out, err := json.Marshal(server.answer(q))
	return wrapperspb.String(string(out)), err
}

// answer implements asker.
func (h *Host) answer(q question) reply {
	r := reply{
		Store:   h.options.StoreID,
		Met:     h.directory.hasMet(q.Store),
		Retired: h.directory.isRetired(q.Store),
		Regions: h.options.Regions,
		Serving: h.serving.Load(),
		Cluster: h.affiliation.id(),
		Others:  h.directory.others(),
		Gone:    h.directory.retiredStores(),
	}
	if !h.options.Join {
		r.Founds = h.options.Peers
	}
	return r
}

// Between two attempts to reach a store.
const (
	askAgain       = 50 * time.Millisecond
	askAgainMax    = 2 * time.Second
	askAgainMember = 30 * time.Second // the longest, of a store that doesn't wait for the answers
	askTimeout     = 2 * time.Second
)

// askAll asks the other stores until each has answered, ctx ends, or one says
// something that forbids this store to go on. isNew says that its folder is empty.
func (h *Host) askAll(ctx context.Context, isNew bool) error {
	q := question{Store: h.options.StoreID, Regions: h.options.Regions}
	if !h.options.Join {
		q.Founds = h.options.Peers
	}
	defer h.awaited.set(nil)
	said := time.Now()
	longest := askAgainMax
	if !isNew {
		longest = askAgainMember
	}
	for pause := askAgain; ; pause = min(2*pause, longest) {
		if all, err := h.askRound(ctx, q, isNew); all || err != nil {
			return err
		}
		if now := time.Now(); isNew && now.Sub(said) >= h.options.sayAwaited {
			said = now
			h.sayAwaited()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// askRound asks each store once: those of the directory, and those that others
// know. It returns whether all have answered that aren't gone, and the cluster is
// known.
func (h *Host) askRound(ctx context.Context, q question, isNew bool) (all bool, err error) {
	left := h.directory.others()
	asked := map[uint64]bool{h.options.StoreID: true}
	silent := map[uint64]silence{}
	var gone []uint64
	for len(left) > 0 {
		store := slices.Min(slices.Collect(maps.Keys(left)))
		address := left[store]
		delete(left, store)
		asked[store] = true
		r, err := h.ask(ctx, address, q, isNew)
		if err != nil || (r.Store != store && h.options.Peers[store] == "") {
			silent[store] = noAnswer(address, err, r.Store) // or there is another one now, where it was
			continue
		}
		if err := h.judge(r, store, address, isNew); err != nil {
			return false, err
		}
		if r.Store == store {
			h.directory.hear(store, address)
		}
		gone = append(gone, r.Gone...)
		for other, address := range r.Others {
			if !asked[other] {
				left[other] = address
			}
		}
	}
	for _, store := range gone {
		delete(silent, store)
	}
	if isNew {
		h.awaited.set(silent)
	}
	return len(silent) == 0 && h.affiliation.id() != "", nil
}

// judge says whether a reply forbids this store to go on.
func (h *Host) judge(r reply, store uint64, address string, isNew bool) error {
	own := h.options.StoreID
	says := func(err error) error {
		return fmt.Errorf("kvstore: store %d: store %d at %s says: %w", own, store, address, err)
	}
	switch {
	case r.Retired:
		return says(ErrRetired)
	case !isNew:
		return nil
	case r.Met:
		return says(ErrKnown)
	case r.Store != store:
		return fmt.Errorf("kvstore: store %d: at %s is store %d, not store %d", own, address, r.Store, store)
	case r.Regions != h.options.Regions:
		return fmt.Errorf("kvstore: store %d: store %d has %d regions, not %d; all stores of a cluster have the same number", own, store, r.Regions, h.options.Regions)
	case !h.options.Join && !maps.Equal(r.Founds, h.options.Peers):
		return fmt.Errorf("kvstore: store %d: store %d was started with the stores %v, not %v; the stores that begin a cluster must all be given the same, and one that comes later must join",
			own, store, r.Founds, h.options.Peers)
	}
	if err := h.affiliation.join(store, r.Cluster); err != nil {
		return fmt.Errorf("%w; see the addresses that it was given", err)
	}
	return nil
}

// ask asks one store. A store that is new doesn't say of which cluster it is: it
// is of none before it begins, and whatever it is answered may forbid that. Any
// other wants to hear nothing from stores of other clusters.
func (h *Host) ask(ctx context.Context, address string, q question, isNew bool) (r reply, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if !isNew {
		ctx = h.affiliation.outgoing(ctx)
	}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		return r, err
	}
	defer func() { _ = conn.Close() }()
	in, err := json.Marshal(q)
	if err != nil {
		return r, err
	}
	var out wrapperspb.StringValue
	var trailer metadata.MD
	if err := conn.Invoke(ctx, askMethod, wrapperspb.String(string(in)), &out, grpc.Trailer(&trailer)); err != nil {
		return r, h.affiliation.explain(err, trailer)
	}
	if err := json.Unmarshal([]byte(out.GetValue()), &r); err != nil {
		return r, err
	}
	if !isNew {
		err = h.affiliation.check(r.Store, r.Cluster)
	}
	return r, err
}

// checkAddress refuses an address that an operator gives for a store, and that can only
// be a mistake: what stores know of each other's addresses would be lost by it.
func (h *Host) checkAddress(store uint64, address string) error {
	known := h.directory.addressOf(store)
	if known == address && h.directory.upFor(store) > 0 {
		return nil
	}
	// A store that joins may not know its cluster yet, so it is asked as by one like it.
	q := question{Store: h.options.StoreID, Regions: h.options.Regions}
	if r, err := h.ask(context.Background(), address, q, true); err == nil {
		if r.Store != store {
			return fmt.Errorf("at %s is store %d, not store %d", address, r.Store, store)
		}
		if r.Cluster != "" {
			if err := h.affiliation.check(r.Store, r.Cluster); err != nil {
				return err
			}
		}
	}
	if known == "" || known == address {
		return nil
	}
	if r, err := h.ask(context.Background(), known, q, true); err == nil && r.Store == store {
		return fmt.Errorf("store %d answers at %s, so it is not at %s", store, known, address)
	}
	if at := h.options.Peers[store]; at != "" && at != address {
		return fmt.Errorf("store %d was started with store %d at %s, which wins over %s; start it with the new address first", h.options.StoreID, store, at, address)
	}
	return nil
}

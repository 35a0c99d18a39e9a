package wire

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The service and its methods as kvproto names them.
const (
	ServiceName     = "tikvpb.Tikv"
	BatchRaftMethod = "/tikvpb.Tikv/BatchRaft"
	RaftMethod      = "/tikvpb.Tikv/Raft"
)

// Keys of a stream's metadata. SourceStoreKey is TiKV's, which parses it as a
// decimal number without a check; the others are raftmux's own, and unknown to
// other peers.
const (
	// SourceStoreKey holds the id of the store that sends.
	SourceStoreKey = "source_store_id"
	// VersionKey holds the version of what raftmux stores agree on beyond kvproto.
	VersionKey = "raftmux-version"
	// CapabilitiesKey holds what the store can do beyond that version, as words
	// with commas between them. None is defined yet.
	CapabilitiesKey = "raftmux-capabilities"
	// StreamKey holds a StreamID.
	StreamKey = "raftmux-stream"
	// StoreKey is in the headers of the answer: the id of the store that receives.
	StoreKey = "raftmux-store-id"
)

// Version is the value of VersionKey.
const Version = "1"

// StreamID tells the streams of one sender apart. Of the streams that differ in
// Generation or Incarnation only, one lives at a time.
type StreamID struct {
	// Incarnation is one life of the sending Client. Later lives have larger
	// numbers, as long as the store's clock doesn't go back between them.
	Incarnation uint64
	// Lane and Index name the connection.
	Lane  string
	Index int
	// Generation grows with every stream of the connection, not always by one.
	Generation uint64
}

// String returns the value of StreamKey.
func (s StreamID) String() string {
	return fmt.Sprintf("%d/%s/%d/%d", s.Incarnation, s.Lane, s.Index, s.Generation)
}

// After says whether a stream comes after another one of the same connection: it
// belongs to a later life of the Client, or to the same and has a later generation.
func (s StreamID) After(other StreamID) bool {
	if s.Incarnation != other.Incarnation {
		return s.Incarnation > other.Incarnation
	}
	return s.Generation > other.Generation
}

// maxStreamID is more than String writes, whose lanes have short names. What is longer
// would be kept for long.
const maxStreamID = 128

// ParseStreamID reads what String wrote.
func ParseStreamID(text string) (StreamID, error) {
	if len(text) > maxStreamID {
		return StreamID{}, fmt.Errorf("wire: stream id of %d bytes, must have at most %d", len(text), maxStreamID)
	}
	parts := strings.Split(text, "/")
	if len(parts) != 4 {
		return StreamID{}, fmt.Errorf("wire: stream id %q has %d parts, must have 4", text, len(parts))
	}
	incarnation, err1 := strconv.ParseUint(parts[0], 10, 64)
	index, err2 := strconv.ParseUint(parts[2], 10, 31)
	generation, err3 := strconv.ParseUint(parts[3], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return StreamID{}, fmt.Errorf("wire: stream id %q: %w", text, err)
	}
	return StreamID{Incarnation: incarnation, Lane: parts[1], Index: int(index), Generation: generation}, nil
}

const (
	errorDomain      = "raftmux"
	reasonWrongStore = "STORE_NOT_MATCH"
)

// WrongStore is the status that ends a stream which brought a message for
// another store. The text has the word by which TiKV's clients know it.
func WrongStore(want, got uint64) *status.Status {
	s := status.Newf(codes.FailedPrecondition, "StoreNotMatch: message is for store %d, this is store %d", want, got)
	detailed, err := s.WithDetails(&errdetails.ErrorInfo{
		Domain: errorDomain,
		Reason: reasonWrongStore,
		Metadata: map[string]string{
			"to_store_id": strconv.FormatUint(want, 10),
			"my_store_id": strconv.FormatUint(got, 10),
		},
	})
	if err != nil {
		return s
	}
	return detailed
}

// IsWrongStore recognises what WrongStore made.
func IsWrongStore(s *status.Status) bool {
	for _, detail := range s.Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if ok && info.GetDomain() == errorDomain && info.GetReason() == reasonWrongStore {
			return true
		}
	}
	return false
}

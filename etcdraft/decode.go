package etcdraft

import (
	"errors"
	"fmt"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/raftmux/raftmux"
)

// What a message can be malformed by.
var (
	errMalformed = errors.New("etcdraft: malformed message")
	errWireType  = errors.New("etcdraft: malformed message: a field has the wrong type")
	errNoMessage = errors.New("etcdraft: no Raft message inside")
	errNoStore   = errors.New("etcdraft: to_peer is on store 0")
	errRepeated  = errors.New("etcdraft: malformed message: two Raft messages inside")
)

// decoder parses RaftMessages into messages of fresh memory, or of the memory
// that they came in if that is given away.
type decoder struct {
	generation generation
	fields     fields
	given      bool // nobody else knows the data that is being decoded: the message may keep it
}

// fields is what a first look at the body of a message finds: the scalars, and
// how much memory the rest will take.
type fields struct {
	kind                                               raftpb.MessageType
	to, from, term, logTerm, index, commit, rejectHint uint64
	reject                                             bool
	context                                            []byte
	snapshot                                           *raftpb.Snapshot

	entries   int    // how many
	entryData int    // their encoded bytes, which is no less than their payload
	rest      []byte // the body from the first entry on
}

// decode parses one RaftMessage. The header, which must be zero, and the envelope
// say what is known of it even if there is an error.
func (d *decoder) decode(data []byte, header *Header) (message *raftpb.Message, envelope raftmux.Envelope, err error) {
	body, err := decodeHeader(data, header)
	envelope = raftmux.Envelope{
		RegionID:    header.RegionID,
		FromStoreID: header.From.StoreID,
		ToStoreID:   header.To.StoreID,
		ToPeerID:    header.To.ID,
	}
	if err != nil {
		return nil, envelope, named(header, err)
	}
	d.fields = fields{}
	err = d.fields.scan(body)
	if err == nil {
		envelope.Type, envelope.HasMessage = eraftpb.MessageType(d.fields.kind), true
		if d.given {
			message, err = d.buildGiven(len(data))
		}
		if message == nil && err == nil {
			message, err = d.build()
		}
	}
	d.fields.context, d.fields.rest, d.fields.snapshot = nil, nil, nil
	if err == nil {
		err = checkWithin(header, message)
	}
	if err == nil && header.To.StoreID == 0 { // malformed, and not for another store
		err = errNoStore
	}
	if err != nil {
		return nil, envelope, named(header, err)
	}
	return message, envelope, nil
}

// named adds to what a message is malformed by whose it is, as far as that is known.
func named(header *Header, err error) error {
	if errors.Is(err, raftmux.ErrInvalid) || header.RegionID == 0 {
		return err // it names them, or nothing is known
	}
	return fmt.Errorf("%w, in a message of region %d to peer %d of store %d",
		err, header.RegionID, header.To.ID, header.To.StoreID)
}

// decodeHeader parses all but the Raft message, which it returns.
func decodeHeader(b []byte, header *Header) (body []byte, err error) {
	for i := 0; i < len(b); {
		tag, value, next := field(b, i)
		if next > len(b) {
			return nil, errMalformed
		}
		switch tag {
		case tagRegionID:
			header.RegionID = value
		case tagFromPeer:
			err = decodePair(b[next-int(value):next], &header.From.ID, &header.From.StoreID)
		case tagToPeer:
			err = decodePair(b[next-int(value):next], &header.To.ID, &header.To.StoreID)
		case tagMessage:
			if body != nil {
				return nil, errRepeated
			}
			body = b[next-int(value) : next]
		case tagEpoch:
			err = decodePair(b[next-int(value):next], &header.Epoch.ConfVer, &header.Epoch.Version)
		default:
			err = passOver(tag, tagEpoch)
		}
		if err != nil {
			return nil, err
		}
		i = next
	}
	if body == nil { // not even an empty one
		return nil, errNoMessage
	}
	return body, nil
}

// decodePair parses a message of two scalars, fields 1 and 2.
func decodePair(b []byte, first, second *uint64) error {
	for i := 0; i < len(b); {
		tag, value, next := field(b, i)
		if next > len(b) {
			return errMalformed
		}
		switch tag {
		case tagFirst:
			*first = value
		case tagSecond:
			*second = value
		default:
			if err := passOver(tag, tagSecond); err != nil {
				return err
			}
		}
		i = next
	}
	return nil
}

// scan reads the body of an eraftpb.Message. Fields 13 and up mean one thing in
// eraftpb and another in raftpb, and are passed over.
func (f *fields) scan(b []byte) error {
	for i := 0; i < len(b); {
		tag, value, next := field(b, i)
		if next > len(b) {
			return errMalformed
		}
		var err error
		switch tag {
		case tagType:
			f.kind = raftpb.MessageType(int32(value))
		case tagTo:
			f.to = value
		case tagFrom:
			f.from = value
		case tagTerm:
			f.term = value
		case tagLogTerm:
			f.logTerm = value
		case tagIndex:
			f.index = value
		case tagEntry:
			if f.entries == 0 {
				f.rest = b[i:]
			}
			f.entries++
			f.entryData += int(value)
		case tagCommit:
			f.commit = value
		case tagSnapshot:
			err = f.scanSnapshot(b[next-int(value) : next])
		case tagReject:
			f.reject = value != 0
		case tagRejectHint:
			f.rejectHint = value
		case tagContext:
			f.context = b[next-int(value) : next]
		default:
			err = passOver(tag, tagContext)
		}
		if err != nil {
			return err
		}
		i = next
	}
	return nil
}

// scanSnapshot parses a snapshot, which is rare and has memory of its own.
func (f *fields) scanSnapshot(snapshot []byte) error {
	if f.snapshot == nil {
		f.snapshot = new(raftpb.Snapshot)
	}
	options := proto.UnmarshalOptions{Merge: true, DiscardUnknown: true}
	if options.Unmarshal(snapshot, f.snapshot) != nil {
		return errMalformed
	}
	return nil
}

// cost is what a copy of the message takes, without its snapshot.
func (f *fields) cost() int {
	return messageBytes + f.entries*(entryBytes+pointerBytes) + f.entryData + len(f.context)
}

// build makes the message of what scan found. A message that is small, with all
// it holds, takes its memory from the generation; a large one has its own, but
// for its small entries.
func (d *decoder) build() (*raftpb.Message, error) {
	f := &d.fields
	small := f.cost() <= largeBytes && f.snapshot == nil
	var message *raftpb.Message
	var scalars *messageScalars
	if small {
		d.generation.reserve(1, f.entries, f.entries, f.entryData+len(f.context))
		message, scalars = d.generation.message()
	} else {
		message, scalars = new(raftpb.Message), new(messageScalars)
	}
	f.set(message, scalars)
	if len(f.context) > 0 {
		if small {
			message.Context = d.generation.copy(f.context)
		} else {
			message.Context = append([]byte(nil), f.context...)
		}
	}
	if f.entries == 0 {
		return message, nil
	}
	if small {
		message.Entries = d.generation.list(f.entries)
	} else {
		message.Entries = make([]*raftpb.Entry, f.entries)
	}
	rest := f.rest
	var entry entryFields
	for i := range message.Entries {
		var err error
		if rest, err = entry.next(rest); err != nil {
			return nil, err
		}
		message.Entries[i] = d.entry(&entry, small)
	}
	return message, nil
}

// set fills in the scalars. Those that are 0 stay absent.
func (f *fields) set(m *raftpb.Message, s *messageScalars) {
	s.kind, s.to, s.from, s.term, s.logTerm = f.kind, f.to, f.from, f.term, f.logTerm
	s.index, s.commit, s.rejectHint, s.reject = f.index, f.commit, f.rejectHint, f.reject
	m.Type = &s.kind
	m.Snapshot = f.snapshot
	present(&m.To, &s.to)
	present(&m.From, &s.from)
	present(&m.Term, &s.term)
	present(&m.LogTerm, &s.logTerm)
	present(&m.Index, &s.index)
	present(&m.Commit, &s.commit)
	present(&m.RejectHint, &s.rejectHint)
	if s.reject {
		m.Reject = &s.reject
	}
}

func present(field **uint64, value *uint64) {
	if *value != 0 {
		*field = value
	}
}

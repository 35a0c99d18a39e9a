package etcdraft

import (
	"encoding/binary"
	"errors"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/raftmux/raftmux"
)

// What a message can be malformed by.
var (
	errMalformed = errors.New("etcdraft: malformed message")
	errWireType  = errors.New("etcdraft: malformed message: a field has the wrong type")
	errNoMessage = errors.New("etcdraft: no Raft message inside")
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

// decode parses one RaftMessage. The envelope says what is known of it even if
// there is an error.
func (d *decoder) decode(data []byte) (header Header, message *raftpb.Message, envelope raftmux.Envelope, err error) {
	var body []byte
	var has bool
	header, body, has, err = decodeHeader(data)
	envelope = raftmux.Envelope{
		RegionID:    header.RegionID,
		FromStoreID: header.From.StoreID,
		ToStoreID:   header.To.StoreID,
		ToPeerID:    header.To.ID,
	}
	if err != nil {
		return header, nil, envelope, err
	}
	if !has {
		return header, nil, envelope, errNoMessage
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
		err = Check(message)
	}
	if err == nil {
		err = checkHeader(header, message)
	}
	if err != nil {
		return header, nil, envelope, err
	}
	return header, message, envelope, nil
}

func decodeHeader(data []byte) (header Header, body []byte, has bool, err error) {
	for len(data) > 0 {
		var tag uint64
		if tag, data, err = varint(data); err != nil {
			return header, nil, false, err
		}
		switch tag >> 3 {
		case 1:
			header.RegionID, data, err = varintField(tag, data)
		case 2:
			data, err = decodePair(tag, data, &header.From.ID, &header.From.StoreID)
		case 3:
			data, err = decodePair(tag, data, &header.To.ID, &header.To.StoreID)
		case 4:
			if has {
				return header, nil, false, errRepeated
			}
			has = true
			body, data, err = bytesField(tag, data)
		case 5:
			data, err = decodePair(tag, data, &header.Epoch.ConfVer, &header.Epoch.Version)
		default:
			data, err = skip(tag, data)
		}
		if err != nil {
			return header, nil, false, err
		}
	}
	return header, body, has, nil
}

// decodePair parses a message of two scalars, fields 1 and 2.
func decodePair(tag uint64, data []byte, first, second *uint64) ([]byte, error) {
	pair, data, err := bytesField(tag, data)
	for err == nil && len(pair) > 0 {
		if tag, pair, err = varint(pair); err != nil {
			break
		}
		switch tag >> 3 {
		case 1:
			*first, pair, err = varintField(tag, pair)
		case 2:
			*second, pair, err = varintField(tag, pair)
		default:
			pair, err = skip(tag, pair)
		}
	}
	return data, err
}

// scan reads the body of an eraftpb.Message. Fields 13 and up mean one thing in
// eraftpb and another in raftpb, and are skipped.
func (f *fields) scan(data []byte) error {
	for len(data) > 0 {
		start := data
		tag, rest, err := varint(data)
		if err != nil {
			return err
		}
		data = rest
		var value uint64
		switch tag >> 3 {
		case 1:
			value, data, err = varintField(tag, data)
			f.kind = raftpb.MessageType(int32(value))
		case 2:
			f.to, data, err = varintField(tag, data)
		case 3:
			f.from, data, err = varintField(tag, data)
		case 4:
			f.term, data, err = varintField(tag, data)
		case 5:
			f.logTerm, data, err = varintField(tag, data)
		case 6:
			f.index, data, err = varintField(tag, data)
		case 7:
			var entry []byte
			entry, data, err = bytesField(tag, data)
			if f.entries == 0 {
				f.rest = start
			}
			f.entries++
			f.entryData += len(entry)
		case 8:
			f.commit, data, err = varintField(tag, data)
		case 9:
			data, err = f.scanSnapshot(tag, data)
		case 10:
			value, data, err = varintField(tag, data)
			f.reject = value != 0
		case 11:
			f.rejectHint, data, err = varintField(tag, data)
		case 12:
			f.context, data, err = bytesField(tag, data)
		default:
			data, err = skip(tag, data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// scanSnapshot parses a snapshot, which is rare and has memory of its own.
func (f *fields) scanSnapshot(tag uint64, data []byte) ([]byte, error) {
	snapshot, data, err := bytesField(tag, data)
	if err != nil {
		return nil, err
	}
	if f.snapshot == nil {
		f.snapshot = new(raftpb.Snapshot)
	}
	options := proto.UnmarshalOptions{Merge: true, DiscardUnknown: true}
	if err := options.Unmarshal(snapshot, f.snapshot); err != nil {
		return nil, errMalformed
	}
	return data, nil
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

// varint reads one varint and returns what follows it.
func varint(data []byte) (uint64, []byte, error) {
	if len(data) > 0 && data[0] < 0x80 {
		return uint64(data[0]), data[1:], nil
	}
	return longVarint(data)
}

// longVarint keeps varint small enough to be inlined.
func longVarint(data []byte) (uint64, []byte, error) {
	value, n := binary.Uvarint(data)
	if n <= 0 {
		return 0, nil, errMalformed
	}
	return value, data[n:], nil
}

func varintField(tag uint64, data []byte) (uint64, []byte, error) {
	if protowire.Type(tag&7) != protowire.VarintType {
		return 0, nil, errWireType
	}
	return varint(data)
}

// bytesField reads bytes, without copying them, and returns what follows them.
func bytesField(tag uint64, data []byte) (value, rest []byte, err error) {
	if protowire.Type(tag&7) != protowire.BytesType {
		return nil, nil, errWireType
	}
	n, data, err := varint(data)
	if err != nil {
		return nil, nil, err
	}
	if n > uint64(len(data)) {
		return nil, nil, errMalformed
	}
	return data[:n], data[n:], nil
}

// skip passes over a field whose tag was read.
func skip(tag uint64, data []byte) ([]byte, error) {
	number, kind := protowire.Number(tag>>3), protowire.Type(tag&7)
	if tag>>3 > uint64(protowire.MaxValidNumber) || number < protowire.MinValidNumber {
		return nil, errMalformed
	}
	n := protowire.ConsumeFieldValue(number, kind, data)
	if n < 0 {
		return nil, errMalformed
	}
	return data[n:], nil
}

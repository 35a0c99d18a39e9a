package wire

import (
	"reflect"

	"github.com/pingcap/kvproto/pkg/eraftpb"
	"github.com/pingcap/kvproto/pkg/raft_serverpb"
	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"
)

// anyMessage generates messages with any of their fields set, at every level,
// unknown ones included.
var anyMessage = rapid.Custom(func(t *rapid.T) *raft_serverpb.RaftMessage {
	m := new(raft_serverpb.RaftMessage)
	fill(t, reflect.ValueOf(m).Elem(), 0)
	if m.Message != nil && rapid.Bool().Draw(t, "known type") {
		m.Message.MsgType = eraftpb.MessageType(rapid.IntRange(0, 19).Draw(t, "type"))
	}
	return m
})

// plainMessage generates messages of the kind that take the fast path.
var plainMessage = rapid.Custom(func(t *rapid.T) *raft_serverpb.RaftMessage {
	m := anyMessage.Draw(t, "message")
	m.MergeTarget, m.ExtraMsg = nil, nil
	if m.Message != nil {
		m.Message.Snapshot = nil
	}
	return m
})

// number favours the lengths that varints can have.
var number = rapid.Custom(func(t *rapid.T) uint64 {
	return rapid.Uint64().Draw(t, "n") >> rapid.IntRange(0, 63).Draw(t, "shift")
})

func fill(t *rapid.T, v reflect.Value, depth int) {
	for i := range v.NumField() {
		field, name := v.Field(i), v.Type().Field(i).Name
		switch {
		case name == "XXX_unrecognized":
			if rapid.IntRange(0, 7).Draw(t, name) == 0 {
				field.SetBytes(unknownFields.Draw(t, name))
			}
		case name == "XXX_sizecache" || name == "XXX_NoUnkeyedLiteral":
		case rapid.IntRange(0, 2).Draw(t, "set") > 0:
			fillValue(t, field, depth)
		}
	}
}

func fillValue(t *rapid.T, v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32, reflect.Int64:
		v.SetInt(int64(number.Draw(t, "int")))
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(number.Draw(t, "uint"))
	case reflect.String:
		v.SetString(rapid.String().Draw(t, "string"))
	case reflect.Pointer:
		if depth > 3 {
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		if v.Elem().Kind() == reflect.Struct {
			fill(t, v.Elem(), depth+1)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "bytes"))
			return
		}
		n := rapid.IntRange(0, 4).Draw(t, "len")
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			if e := v.Index(i); e.Kind() == reflect.Pointer {
				e.Set(reflect.New(e.Type().Elem()))
				fill(t, e.Elem(), depth+1)
			} else {
				fillValue(t, e, depth+1)
			}
		}
	}
}

// unknownFields generates fields whose numbers no message knows.
var unknownFields = rapid.Custom(func(t *rapid.T) []byte {
	var b []byte
	for range rapid.IntRange(1, 3).Draw(t, "fields") {
		num := protowire.Number(rapid.SampledFrom([]int{100, 2000, 1<<29 - 1}).Draw(t, "num"))
		switch rapid.IntRange(0, 4).Draw(t, "type") {
		case 0:
			b = protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), number.Draw(t, "v"))
		case 1:
			b = protowire.AppendFixed32(protowire.AppendTag(b, num, protowire.Fixed32Type), 7)
		case 2:
			b = protowire.AppendFixed64(protowire.AppendTag(b, num, protowire.Fixed64Type), 7)
		case 3:
			b = protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), []byte("unknown"))
		case 4:
			b = protowire.AppendTag(b, num, protowire.StartGroupType)
			b = protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.VarintType), 1)
			b = protowire.AppendTag(b, num, protowire.EndGroupType)
		}
	}
	return b
})

// anyBody generates bodies: whole messages, two in one (whose fields merge),
// and both of them damaged.
var anyBody = rapid.Custom(func(t *rapid.T) []byte {
	gen := rapid.OneOf(anyMessage, plainMessage)
	b, err := gen.Draw(t, "message").Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if rapid.IntRange(0, 3).Draw(t, "merge") == 0 {
		second, err := gen.Draw(t, "second").Marshal()
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, second...)
	}
	if len(b) == 0 {
		return b
	}
	at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
	switch rapid.IntRange(0, 7).Draw(t, "damage") {
	case 0:
		b = b[:at]
	case 1:
		b[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
	case 2:
		b[at] = rapid.Byte().Draw(t, "byte")
	case 3:
		b = append(b[:at:at], b[at+1:]...)
	}
	return b
})

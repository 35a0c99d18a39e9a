package wire

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"
)

func TestUvarint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := number.Draw(t, "v")
		before := rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "before")
		b := protowire.AppendVarint(bytes.Clone(before), v)
		end := len(b)
		if got, i := uvarint(append(b, 1), len(before)); got != v || i != end {
			t.Fatalf("%x: read %d up to %d", b, got, i)
		}
		for cut := len(before); cut < end; cut++ {
			if _, i := uvarint(b[:cut], len(before)); i != overrun {
				t.Fatalf("%x: cut at %d, read up to %d", b, cut, i)
			}
		}
		if VarintSize(v) != end-len(before) || !bytes.Equal(appendVarint(bytes.Clone(before), v), b) {
			t.Fatalf("%d: size %d", v, VarintSize(v))
		}
	})
	if _, i := uvarint([]byte{1}, overrun); i != overrun {
		t.Errorf("read behind an overrun, up to %d", i)
	}
}

func TestDelimited(t *testing.T) {
	for _, c := range []struct {
		in   string
		body string
		end  int
	}{
		{"\x00", "", 1},
		{"\x02abc", "ab", 3},
		{"\x82\x00abc", "ab", 4},
		{"\x02a", "", overrun},
		{"\x82\x00a", "", overrun},
		{"", "", overrun},
		{"\x80", "", overrun},
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "", overrun},
	} {
		body, end := delimited([]byte(c.in), 0)
		if string(body) != c.body || end != c.end || cap(body) != len(body) || (body == nil) != (end == overrun) {
			t.Errorf("%x: %x up to %d", c.in, body, end)
		}
	}
}

func TestSkipUnknown(t *testing.T) {
	for _, c := range []struct {
		in  string
		end int
	}{
		{"\xa0\x06\x80\x01!", 4},
		{"\xa1\x0612345678!", 10},
		{"\xa2\x06\x02ab!", 5},
		{"\xa5\x061234!", 6},
		{"\x28\x01", 2},  // field 5
		{"\x20\x01", -1}, // field 4, which is known
		{"\xa3\x06\xa4\x06", -1},
		{"\xa4\x06", -1},
		{"\xa6\x06\x01", -1},
		{"\x00\x01", -1},
		{"\xa5\x06123", -1},
		{"\xa0\x06\x80", -1},
		{"\xa0", -1},
	} {
		if end := skipUnknown([]byte(c.in), 0, 4); end != c.end {
			t.Errorf("%x: skipped to %d, want %d", c.in, end, c.end)
		}
	}
}

func TestSpan(t *testing.T) {
	const known = "\x08\x01"
	const unknown = "\x28\x01" // field 5
	b := []byte(known + unknown + unknown + known + unknown)
	var s span
	for _, c := range []struct{ at, end int }{{2, 4}, {4, 6}, {8, overrun}, {0, overrun}} {
		if end := s.field(b, c.at, 4); end != c.end {
			t.Errorf("the field at %d ends at %d, want %d", c.at, end, c.end)
		}
	}
	if s != (span{2, 6}) {
		t.Errorf("got %v", s)
	}
}

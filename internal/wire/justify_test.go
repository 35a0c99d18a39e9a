package wire

import (
	"runtime"
	"testing"

	"github.com/pingcap/kvproto/pkg/raft_serverpb"
)

// What a decoder may allocate for a byte of body: an entry of two bytes takes 120
// and its list grows by doubling; and whatever the body, some slabs.
const (
	mostPerByte = 200
	mostBesides = 128 << 10
)

// checkAllocated fails if decoding takes more memory than the body's size
// justifies, whatever its lengths say, by any of the decoders.
func checkAllocated(t failer, body []byte) {
	t.Helper()
	most := uint64(mostPerByte*len(body) + mostBesides)
	for name, decode := range map[string]func() error{
		"owned": func() error { _, err := NewDecoder(DecoderOptions{}).Decode(body); return err },
		"lent":  func() error { _, err := NewDecoder(DecoderOptions{Lent: true}).Decode(body); return err },
		"given": func() error { _, err := decodeAsGiven(NewDecoder(DecoderOptions{}), body); return err },
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := decode()
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > most {
			t.Fatalf("%s: %d bytes took %d, more than %d (%v)", name, len(body), used, most, err)
		}
	}
}

// The check of FuzzDecode fails for a decoder that trusts what a body says.
func TestAllocatedIsNoticed(t *testing.T) {
	body := make([]byte, 1<<10)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	trusting := make([]*raft_serverpb.RaftMessage, 1<<20)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used <= mostPerByte*uint64(len(body))+mostBesides {
		t.Errorf("%d pointers count as %d bytes", len(trusting), used)
	}
}

// FuzzStreamID checks that whatever is taken says what it was taken for.
func FuzzStreamID(f *testing.F) {
	f.Add(StreamID{Incarnation: 1 << 63, Lane: "data", Index: 3, Generation: 7}.String())
	f.Add("1/control/0/1")
	f.Add("1//2147483648/1")
	f.Add("-1/data/+0/0x1")
	f.Add("1/data/0/1/")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseStreamID(text)
		if err != nil {
			if id != (StreamID{}) {
				t.Errorf("%q: %+v beside %v", text, id, err)
			}
			return
		}
		if again, err := ParseStreamID(id.String()); again != id || err != nil || id.Index < 0 {
			t.Errorf("%q: %+v, %+v, %v", text, id, again, err)
		}
		if id.After(id) || id.After(StreamID{}) == (StreamID{}).After(id) && (id.Incarnation != 0 || id.Generation != 0) {
			t.Errorf("%q: the order of %+v isn't one", text, id)
		}
	})
}
